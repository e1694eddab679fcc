//! Standard streams of a process: from its pipes or its terminal to where containerd's client wants them, and back.
//!
//! The process never holds a client's fifo itself, and the shim holds both ends of each fifo: a container goes on
//! writing while containerd or its client restarts (containerd `process/io.go`).

pub(crate) mod binary;
mod copy;
mod terminal;
mod uri;

use std::fs::{self, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use runtime_core::OsContext;
use runtime_core::Stdio;
use rustix::fs::{Gid, Mode, OFlags, Uid, fchown};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use self::binary::Logger;
use self::copy::{Fd, Fifo, Orphan, Sink, copy, nonblocking};
pub(crate) use self::terminal::Terminal;
use self::uri::Target;
use crate::error::{Error, Result};

/// How long Delete waits for output that is still on its way.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the client of an exec'd process that is gone may take to begin reading.
pub(crate) const EXEC_AWAY: Duration = Duration::from_secs(5);

/// Streams as a request names them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Streams {
    /// URI of stdin.
    pub(crate) stdin: String,
    /// URI of stdout, of the terminal's output if there is one.
    pub(crate) stdout: String,
    /// URI of stderr; unused with a terminal.
    pub(crate) stderr: String,
    /// The process gets a terminal.
    pub(crate) terminal: bool,
}

/// Whose streams these are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner<'a> {
    /// Container id, or exec id.
    pub(crate) id: &'a str,
    /// containerd namespace.
    pub(crate) namespace: &'a str,
    /// Host user and group that are to own the pipes.
    pub(crate) ids: Option<(u32, u32)>,
    /// How long after the process's end a client may be away that still wants its output. `None`: until it is deleted, for
    /// containerd comes back to a container after its own restart, and to an exec'd process nobody does.
    pub(crate) away: Option<Duration>,
}

/// Our side of a process's streams.
#[derive(Debug)]
pub(crate) struct Io {
    /// Copies of output; aborted when dropped. Locked for a few instructions.
    outputs: Mutex<JoinSet<()>>,
    stdin: Mutex<Stdin>,
    /// The terminal, once there is one.
    terminal: OnceLock<Arc<Terminal>>,
    /// Where the terminal's output will go, until there is a terminal.
    console_sink: Mutex<Option<Sink>>,
    logger: Mutex<Option<Logger>>,
    exited: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Stdin {
    /// The client's fifo, until it is opened.
    path: Option<PathBuf>,
    /// Where input will go, until the copy runs.
    sink: Option<Sink>,
    /// Writer of the client's fifo: while we hold it, a client that goes away is no end of file.
    hold: Option<OwnedFd>,
    copy: Option<AbortHandle>,
}

impl Io {
    /// Opens the streams; never waits for the other end of a fifo. Returns the process's ends, too.
    pub(crate) async fn open(streams: &Streams, owner: Owner<'_>) -> Result<(Stdio, Io)> {
        let io = Io {
            outputs: Mutex::default(),
            stdin: Mutex::default(),
            terminal: OnceLock::new(),
            console_sink: Mutex::default(),
            logger: Mutex::default(),
            exited: watch::Sender::new(false),
        };
        let mut process = Stdio::default();
        if let Target::Path(path) = uri::parse(&streams.stdin)? {
            fs::metadata(&path).os("stat", path.display())?;
            lock(&io.stdin).path = Some(path);
        }
        let (stdout, stderr) = match uri::parse(&streams.stdout)? {
            // A program and a file take both streams, whatever stderr says.
            Target::Binary {
                path,
                args,
                must_say_ready,
            } => {
                let (logger, outputs) =
                    Logger::start(&path, &args, must_say_ready, owner.id, owner.namespace).await?;
                *lock(&io.logger) = Some(logger);
                if streams.terminal {
                    let sink = nonblocking(outputs.stdout).os("epoll on", "logger's pipe")?;
                    *lock(&io.console_sink) = Some(Sink::Fd(sink));
                    return Ok((process, io));
                }
                owner.own(&outputs.stdout)?;
                owner.own(&outputs.stderr)?;
                process.stdout = Some(outputs.stdout);
                process.stderr = Some(outputs.stderr);
                io.connect_stdin(&mut process, owner)?;
                return Ok((process, io));
            }
            Target::File(path) => {
                make_parent(&path)?;
                let stderr = (!streams.terminal).then(|| open_file(&path)).transpose()?;
                (Some(open_file(&path)?), stderr)
            }
            stdout => {
                let stderr = if streams.terminal {
                    Target::Null
                } else {
                    uri::parse(&streams.stderr)?
                };
                let orphan = || {
                    owner.away.map(|grace| Orphan {
                        exited: io.exited.subscribe(),
                        grace,
                    })
                };
                (open_sink(stdout, orphan())?, open_sink(stderr, orphan())?)
            }
        };
        if streams.terminal {
            *lock(&io.console_sink) = Some(stdout.unwrap_or(Sink::Null));
            return Ok((process, io));
        }
        process.stdout = io.connect_output(stdout, owner, "stdout")?;
        process.stderr = io.connect_output(stderr, owner, "stderr")?;
        io.connect_stdin(&mut process, owner)?;
        Ok((process, io))
    }

    /// A pipe whose reading end is copied to the sink; the writing end is the process's.
    fn connect_output(
        &self,
        sink: Option<Sink>,
        owner: Owner<'_>,
        stream: &'static str,
    ) -> Result<Option<OwnedFd>> {
        let Some(sink) = sink else { return Ok(None) };
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).os("pipe2", stream)?;
        owner.own(&write)?;
        let read = nonblocking(read).os("epoll on", stream)?;
        lock(&self.outputs).spawn(copy(read, sink, std::future::pending(), stream));
        Ok(Some(write))
    }

    fn connect_stdin(&self, process: &mut Stdio, owner: Owner<'_>) -> Result<()> {
        let mut stdin = lock(&self.stdin);
        if stdin.path.is_none() {
            return Ok(());
        }
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).os("pipe2", "stdin")?;
        owner.own(&read)?;
        stdin.sink = Some(Sink::Fd(nonblocking(write).os("epoll on", "stdin")?));
        process.stdin = Some(read);
        Ok(())
    }

    /// Opens the client's input, once, and copies it. Not before containerd knows that there is a process: a client whose
    /// input is at its end would tell nobody so (`CloseIO`), and the process would wait for ever (nerdctl). `closed`: it has
    /// said so.
    pub(crate) fn start_input(&self, closed: bool) -> Result<()> {
        let mut stdin = lock(&self.stdin);
        let (Some(path), Some(sink)) = (stdin.path.take(), stdin.sink.take()) else {
            return Ok(());
        };
        let (source, hold) = open_stdin(&path)?;
        stdin.hold = (!closed).then_some(hold);
        let task = tokio::spawn(copy(source, sink, std::future::pending(), "stdin"));
        stdin.copy = Some(task.abort_handle());
        Ok(())
    }

    /// Starts copying from the terminal; input is to be started.
    pub(crate) fn attach(&self, terminal: Arc<Terminal>) -> Result<()> {
        let end = || {
            terminal
                .end()
                .and_then(nonblocking)
                .os("epoll on", "console")
        };
        let mut exited = self.exited.subscribe();
        if let Some(sink) = lock(&self.console_sink).take() {
            let gone = async move {
                // An error means that the streams are being dropped.
                let _ = exited.wait_for(|exited| *exited).await;
            };
            lock(&self.outputs).spawn(copy(end()?, sink, gone, "console"));
        }
        let mut stdin = lock(&self.stdin);
        if stdin.path.is_some() {
            stdin.sink = Some(Sink::Fd(end()?));
        }
        drop(stdin);
        let _ = self.terminal.set(terminal);
        Ok(())
    }

    /// The terminal, if it has one.
    pub(crate) fn terminal(&self) -> Option<Arc<Terminal>> {
        self.terminal.get().cloned()
    }

    /// Lets the process see the end of its input once the client has gone, too.
    pub(crate) fn close_stdin(&self) {
        lock(&self.stdin).hold = None;
    }

    /// The process has exited: its input ends, and its terminal when nothing more comes from it.
    pub(crate) fn process_exited(&self) {
        let mut stdin = lock(&self.stdin);
        stdin.hold = None;
        if let Some(copy) = stdin.copy.take() {
            copy.abort();
        }
        drop(stdin);
        if let Some(terminal) = self.terminal.get() {
            terminal.let_go();
        }
        self.exited.send_replace(true);
    }

    /// Waits until all output has reached its destination, or for ten seconds; then lets go of everything.
    pub(crate) async fn drain(&self) {
        let mut outputs = std::mem::take(&mut *lock(&self.outputs));
        let all = async { while outputs.join_next().await.is_some() {} };
        if timeout(DRAIN_TIMEOUT, all).await.is_err() {
            tracing::warn!("output was not read within ten seconds; the rest is lost");
        }
        drop(outputs);
        let logger = lock(&self.logger).take();
        if let Some(logger) = logger {
            logger.finish().await;
        }
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        if let Some(copy) = lock(&self.stdin).copy.take() {
            copy.abort();
        }
    }
}

impl Owner<'_> {
    /// Gives a pipe to the user that the client named; otherwise the runtime gives it to the process's own.
    fn own(self, pipe: &OwnedFd) -> Result<()> {
        let Some((uid, gid)) = self.ids else {
            return Ok(());
        };
        let ids = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        Ok(fchown(pipe, ids.0, ids.1).os("fchown", format_args!("pipe {uid}:{gid}"))?)
    }
}

/// The reading end of the client's fifo and a writing end to hold. Opened in this order neither waits (fifo(7)).
fn open_stdin(path: &Path) -> Result<(Fd, OwnedFd)> {
    let open = |access| {
        let flags = access | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).os("open stdin", path.display())
    };
    let source = nonblocking(open(OFlags::RDONLY)?).os("epoll on", path.display())?;
    Ok((source, open(OFlags::WRONLY)?))
}

fn open_sink(target: Target, orphan: Option<Orphan>) -> Result<Option<Sink>> {
    match target {
        Target::Null => Ok(None),
        Target::File(path) => {
            make_parent(&path)?;
            open_file(&path).map(Some)
        }
        Target::Path(path) => {
            let kind = fs::metadata(&path).os("stat", path.display())?.file_type();
            if !kind.is_fifo() {
                return open_file(&path).map(Some);
            }
            // Both ends: the process gets no EPIPE while the client is away.
            let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let fifo = rustix::fs::open(&path, flags, Mode::empty()).os("open", path.display())?;
            let fifo = Fifo::new(fifo, orphan).os("epoll on", path.display())?;
            Ok(Some(Sink::Fifo(fifo)))
        }
        Target::Binary { path, .. } => Err(Error::InvalidArgument(format!(
            "stdio: stderr: binary://{}: stdout must name the same program",
            path.display()
        ))),
    }
}

/// Opens a log without following a link in its name, which whoever may write in its directory could put there (CVE-2026-53489);
/// links above it are the administrator's. Never waits for a fifo's reader.
fn open_file(path: &Path) -> Result<Sink> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o644)
        .custom_flags(flags.bits().cast_signed())
        .open(path);
    match opened {
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
            Err(Error::InvalidArgument(format!(
                "stdio: {}: is a symbolic link: name the file itself (its directory may be a link)",
                path.display()
            )))
        }
        opened => Ok(Sink::File(opened.os("open", path.display())?)),
    }
}

fn make_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    Ok(fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(parent)
        .os("mkdir", parent.display())?)
}

/// All locks of this module are held for a few instructions.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
