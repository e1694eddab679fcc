//! `binary://`: a logging program that reads a container's output (containerd `docs/runtime-v2.md`, "Logging").
//!
//! It finds stdout at descriptor 3, stderr at 4, and closes (or writes a byte to) 5 when it is ready. Safe code cannot
//! choose a child's descriptor numbers; so the child is this program again, which duplicates its stdin, stdout and stderr
//! (the lowest free numbers are 3, 4, 5) and then executes the logger.

use std::convert::Infallible;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use runtime_core::OsContext;
use rustix::fs::{Access, Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::time::timeout;

use super::copy;
use crate::error::{Error, Result};
use crate::reap;

/// First word of the command line of the process that becomes the logger.
const STAGE: &str = "logger";
/// As containerd allows for opening the streams.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// At its end of input a logger ends by itself; then it is asked to, and then made to, as containerd's own shim does.
const EOF_GRACE: Duration = Duration::from_secs(2);
const TERM_GRACE: Duration = Duration::from_secs(12);

/// A running logging program.
#[derive(Debug)]
pub(super) struct Logger {
    pidfd: OwnedFd,
}

/// Write ends of what the logger reads.
#[derive(Debug)]
pub(super) struct Outputs {
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

impl Logger {
    /// Starts the program and waits until it is ready. `id` is the container's, or the exec's.
    pub(super) async fn start(
        path: &Path,
        args: &[String],
        must_say_ready: bool,
        id: &str,
        namespace: &str,
    ) -> Result<(Logger, Outputs)> {
        rustix::fs::access(path, Access::EXEC_OK).os("execute logger", path.display())?;
        let new_pipe = || pipe_with(PipeFlags::CLOEXEC).os("pipe2", "");
        let (stdout_read, stdout) = new_pipe()?;
        let (stderr_read, stderr) = new_pipe()?;
        let (ready_read, ready_write) = new_pipe()?;
        let child = Command::new("/proc/self/exe")
            .arg(STAGE)
            .arg(path)
            .args(args)
            .env_clear()
            .env("CONTAINER_ID", id)
            .env("CONTAINER_NAMESPACE", namespace)
            .stdin(Stdio::from(stdout_read))
            .stdout(Stdio::from(stderr_read))
            .stderr(Stdio::from(ready_write))
            .spawn()
            .os("spawn logger", path.display())?;
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).os("pidfd_open", path.display())?;
        let logger = Logger { pidfd };
        match logger.wait_ready(ready_read, must_say_ready).await {
            Ok(()) => Ok((logger, Outputs { stdout, stderr })),
            Err(reason) => {
                logger.signal(Signal::KILL);
                reap::exit(logger.pidfd).await;
                Err(Error::FailedPrecondition(format!(
                    "logger {}: {reason}",
                    path.display()
                )))
            }
        }
    }

    async fn wait_ready(&self, pipe: OwnedFd, must_say_ready: bool) -> Result<(), String> {
        let pipe = copy::nonblocking(pipe).map_err(|e| e.to_string())?;
        let mut byte = [0];
        let read = pipe.async_io(Interest::READABLE, |fd| {
            Ok(rustix::io::read(fd, &mut byte)?)
        });
        match timeout(READY_TIMEOUT, read).await {
            Ok(Ok(0)) if must_say_ready => Err("exited before it was ready".into()),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) => Err(e.to_string()),
            Err(_) => Err(format!("not ready within {} s", READY_TIMEOUT.as_secs())),
        }
    }

    /// Waits for the logger's end, all writers of its input being gone.
    pub(super) async fn finish(self) {
        let Ok(pidfd) = self.pidfd.try_clone() else {
            self.signal(Signal::KILL);
            return;
        };
        let exit = reap::exit(pidfd);
        tokio::pin!(exit);
        for (grace, signal) in [(EOF_GRACE, Signal::TERM), (TERM_GRACE, Signal::KILL)] {
            if timeout(grace, &mut exit).await.is_ok() {
                return;
            }
            self.signal(signal);
        }
        exit.await;
    }

    fn signal(&self, signal: Signal) {
        // It may have exited just now.
        let _ = pidfd_send_signal(&self.pidfd, signal);
    }
}

/// Becomes the logger if this process was started for that; else returns.
pub(crate) fn run_if_logger() {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_none_or(|word| word != STAGE) {
        return;
    }
    let Some(program) = args.next() else { return };
    let Err(error) = become_logger(Command::new(program).args(args));
    // stderr is the ready pipe or /dev/null by now; the exit code is for whoever traces this.
    let _ = writeln!(io::stderr(), "logger: {error}");
    std::process::exit(127);
}

fn become_logger(logger: &mut Command) -> io::Result<Infallible> {
    let null = {
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        // Above the three numbers that the duplicates are to get.
        rustix::io::fcntl_dupfd_cloexec(&null, 10)?
    };
    for (stream, number) in [
        (rustix::io::dup(rustix::stdio::stdin())?, 3),
        (rustix::io::dup(rustix::stdio::stdout())?, 4),
        (rustix::io::dup(rustix::stdio::stderr())?, 5),
    ] {
        if stream.as_raw_fd() != number {
            return Err(io::Error::other("inherited an unknown descriptor"));
        }
        let _ = stream.into_raw_fd(); // Stays open across exec.
    }
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Err(logger.exec())
}
