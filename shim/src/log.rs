//! The log: logfmt lines into the bundle's `log` fifo, whose bytes containerd copies to its own standard error.
//!
//! A stuck containerd must not block the shim: one non-blocking write a line, and a line that does not fit is dropped.

use std::fmt::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::SystemTime;

use rustix::fs::{Mode, OFlags};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Writes are atomic up to this size (PIPE_BUF, pipe(7)), so lines never mix.
const MAX_LINE: usize = 4096;

/// Sends events of `tracing` to a fifo.
#[derive(Debug)]
struct Log {
    fifo: OwnedFd,
    level: Level,
    /// Fields of every line.
    suffix: String,
}

/// Makes the bundle's fifo the log of this process. Without a fifo nothing is logged.
pub(crate) fn init(bundle: &Path, namespace: &str, id: &str, debug: bool) {
    if let Ok(log) = Log::open(bundle, namespace, id, debug) {
        // An error means that a log is set already.
        let _ = tracing::subscriber::set_global_default(log);
        std::panic::set_hook(Box::new(|info| tracing::error!("{info}")));
    }
}

impl Log {
    fn open(bundle: &Path, namespace: &str, id: &str, debug: bool) -> rustix::io::Result<Log> {
        // O_RDWR opens whether or not containerd reads, and never gets EPIPE.
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fifo = rustix::fs::open(bundle.join("log"), flags, Mode::empty())?;
        let mut suffix = String::new();
        push_field(&mut suffix, "runtime", crate::info::RUNTIME_NAME);
        push_field(&mut suffix, "namespace", namespace);
        push_field(&mut suffix, "id", id);
        let level = if debug { Level::DEBUG } else { Level::INFO };
        Ok(Log {
            fifo,
            level,
            suffix,
        })
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.level
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = line(SystemTime::now(), event.metadata().level(), |fields| {
            event.record(fields);
        });
        line.push_str(&self.suffix);
        if line.len() >= MAX_LINE {
            let cut = (0..MAX_LINE - 1).rev().find(|i| line.is_char_boundary(*i));
            line.truncate(cut.unwrap_or(0));
        }
        line.push('\n');
        let _ = rustix::io::write(&self.fifo, line.as_bytes());
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1) // Spans are not enabled.
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// A line as logrus writes it: time, level, msg, then the other fields.
fn line(time: SystemTime, level: &Level, record: impl FnOnce(&mut Fields)) -> String {
    let mut fields = Fields::default();
    record(&mut fields);
    let level = match *level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    };
    let mut line = format!(
        "time=\"{}\" level={level}",
        humantime::format_rfc3339_nanos(time)
    );
    push_field(&mut line, "msg", &fields.message);
    line.push_str(&fields.others);
    line
}

#[derive(Default)]
struct Fields {
    message: String,
    others: String,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field.name(), &format!("{value:?}"));
    }
}

impl Fields {
    fn push(&mut self, name: &str, value: &str) {
        if name == "message" {
            self.message.push_str(value);
        } else {
            push_field(&mut self.others, name, value);
        }
    }
}

/// ` key=value`, quoted where logfmt wants it.
fn push_field(line: &mut String, key: &str, value: &str) {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._/@^+:".contains(c);
    // Writing to a String does not fail.
    let _ = if !value.is_empty() && value.chars().all(plain) {
        write!(line, " {key}={value}")
    } else {
        write!(line, " {key}={value:?}")
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    use std::time::Duration;

    #[test]
    fn lines_are_logfmt() {
        let text = line(
            SystemTime::UNIX_EPOCH + Duration::from_millis(1500),
            &Level::WARN,
            |f| {
                f.push("message", "two\n\"words\"");
                f.push("field", "linux.resources");
            },
        );
        assert_eq!(
            text,
            "time=\"1970-01-01T00:00:01.500000000Z\" level=warning \
             msg=\"two\\n\\\"words\\\"\" field=linux.resources"
        );
    }

    #[test]
    fn a_fifo_that_nobody_reads_never_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            0o600.into(),
            0,
        )
        .unwrap();
        let mut reader = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(&path)
            .unwrap();
        let log = Log::open(dir.path(), "ns", "c1", false).unwrap();
        tracing::subscriber::with_default(log, || {
            tracing::warn!(field = "x", "first");
            tracing::debug!("not at this level");
            for _ in 0..2000 {
                tracing::info!("{}", "y".repeat(200));
            }
        });
        let mut bytes = vec![0; 1 << 20];
        let n = reader.read(&mut bytes).unwrap();
        let text = String::from_utf8(bytes[..n].to_vec()).unwrap();
        assert!(n <= 65536, "the fifo holds 64 KiB");
        let first = text.lines().next().unwrap();
        assert!(
            first.ends_with(
                " level=warning msg=first field=x runtime=io.containerd.sysbox.v2 namespace=ns id=c1"
            ),
            "{first}"
        );
        assert!(!text.contains("not at this level"));
        assert!(text.ends_with('\n'), "lines are whole");
    }
}
