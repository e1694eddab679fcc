//! Commands with a deadline.

use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// What a command did.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its exit code, or 128 plus the signal that ended it, as a shell has it.
    pub code: i32,
    /// Its standard output, bytes that are no UTF-8 replaced.
    pub stdout: String,
    /// Its standard error, likewise.
    pub stderr: String,
    /// From spawn to exit.
    pub elapsed: Duration,
    line: String,
}

impl Output {
    /// What a command that ran elsewhere did.
    pub(crate) fn of(
        line: &str,
        code: i32,
        stdout: String,
        stderr: String,
        elapsed: Duration,
    ) -> Self {
        Self {
            code,
            stdout,
            stderr,
            elapsed,
            line: line.to_owned(),
        }
    }

    /// The output of a command that had to succeed.
    ///
    /// # Errors
    /// If it did not: with everything it printed.
    pub fn ok(self) -> Result<Self> {
        self.exits(0)
    }

    /// The output of a command that had to exit with `code`.
    ///
    /// # Errors
    /// If it did not: with everything it printed.
    pub fn exits(self, code: i32) -> Result<Self> {
        if self.code == code {
            return Ok(self);
        }
        bail!(
            "`{}` exited with {}, not {code}\nstdout: {}\nstderr: {}",
            self.line,
            self.code,
            tail(&self.stdout),
            tail(&self.stderr)
        )
    }

    /// Standard output without white space around it.
    #[must_use]
    pub fn text(&self) -> &str {
        self.stdout.trim()
    }
}

/// Runs `command` with `input` as its standard input and kills its process group at the deadline.
///
/// # Errors
/// If it cannot be started, or is still running after `deadline`.
pub fn run(command: &mut Command, input: &[u8], deadline: Duration) -> Result<Output> {
    let line = describe(command);
    let begin = Instant::now();
    let mut child = command
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start `{line}`"))?;
    let group = Pid::from_raw(i32::try_from(child.id())?);
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());

    thread::scope(|scope| {
        if let Some(mut pipe) = stdin {
            // A command that does not read its input is no error of ours.
            named(scope, "stdin", move || drop(pipe.write_all(input)))?;
        }
        let stdout = named(scope, "stdout", move || drain(stdout))?;
        let stderr = named(scope, "stderr", move || drain(stderr))?;
        let (done, exited) = mpsc::channel();
        named(scope, "wait", move || done.send(child.wait()))?;
        let status = match exited.recv_timeout(deadline) {
            Ok(status) => Some(status?),
            Err(_) => {
                killpg(group, Signal::SIGKILL).context("kill a command at its deadline")?;
                None
            }
        };
        let elapsed = begin.elapsed();
        let (stdout, stderr) = (joined(stdout), joined(stderr));
        match status {
            Some(status) => Ok(Output {
                code: code(status),
                stdout,
                stderr,
                elapsed,
                line,
            }),
            None => bail!(
                "`{line}` was still running after {deadline:?}\nstdout: {}\nstderr: {}",
                tail(&stdout),
                tail(&stderr)
            ),
        }
    })
}

/// The exit code a shell would report for `status`.
#[must_use]
pub fn code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn named<'scope, 'env, T: Send + 'scope>(
    scope: &'scope thread::Scope<'scope, 'env>,
    name: &str,
    body: impl FnOnce() -> T + Send + 'scope,
) -> Result<thread::ScopedJoinHandle<'scope, T>> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn_scoped(scope, body)
        .context("start a thread")
}

fn joined(thread: thread::ScopedJoinHandle<'_, Vec<u8>>) -> String {
    String::from_utf8_lossy(&thread.join().unwrap_or_default()).into_owned()
}

fn drain(pipe: Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // What came before a read error is all there is to show.
        drop(pipe.read_to_end(&mut bytes));
    }
    bytes
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

fn tail(text: &str) -> &str {
    let text = text.trim_end();
    let mut from = text.len().saturating_sub(4000);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text.get(from..).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_code_signal_and_both_streams() {
        let output = run(
            Command::new("sh").args(["-c", "cat; echo e >&2; exit 7"]),
            b"in",
            Duration::from_secs(5),
        )
        .expect("run sh");
        assert_eq!(
            (output.code, output.text(), output.stderr.trim()),
            (7, "in", "e")
        );
        let killed = run(
            Command::new("sh").args(["-c", "kill -9 $$"]),
            b"",
            Duration::from_secs(5),
        )
        .expect("run sh");
        assert_eq!(killed.code, 137);
        assert!(killed.ok().is_err());
    }

    #[test]
    fn a_deadline_ends_the_whole_group() {
        let begin = Instant::now();
        let error = run(
            Command::new("sh").args(["-c", "sleep 30 & sleep 30"]),
            b"",
            Duration::from_millis(200),
        )
        .expect_err("no deadline");
        assert!(begin.elapsed() < Duration::from_secs(5));
        assert!(error.to_string().contains("still running"), "{error}");
    }
}
