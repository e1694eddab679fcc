//! The only place that waits for a child. Every child of ours is waited for by its own pidfd, never by "any child", so
//! no wait can steal another's status.

use std::os::fd::AsFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, waitid};

use crate::error::{Error, OsContext, Result};
use crate::sys;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// exit(2) with this code.
    Code(i32),
    /// Ended by this signal.
    Signal(i32),
}

impl ExitStatus {
    /// As containerd and shells report it: the code, or 128 + signal.
    pub fn code(self) -> u32 {
        match self {
            ExitStatus::Code(code) => code.unsigned_abs(),
            ExitStatus::Signal(signal) => 128 + signal.unsigned_abs(),
        }
    }
}

/// Collects the child behind `pidfd` if it has exited; call when the pidfd is readable (pidfd_open(2), waitid(2)).
pub fn reap(pidfd: impl AsFd) -> Result<Option<ExitStatus>> {
    wait(pidfd, WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
}

/// Blocks until the child behind `pidfd` has exited and collects it.
pub fn reap_blocking(pidfd: impl AsFd) -> Result<ExitStatus> {
    loop {
        if let Some(status) = wait(pidfd.as_fd(), WaitIdOptions::EXITED)? {
            return Ok(status);
        }
    }
}

/// The same until `deadline` at most; `None` where the child has not exited then.
pub(crate) fn reap_before(pidfd: impl AsFd, deadline: Instant) -> Result<Option<ExitStatus>> {
    let pidfd = pidfd.as_fd();
    readable_before(pidfd, deadline).os("poll", "pidfd")?;
    reap(pidfd)
}

/// Waits until `fd` is readable, or at its end; false when `deadline` has passed.
pub(crate) fn readable_before(fd: impl AsFd, deadline: Instant) -> rustix::io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // A time that long has no end.
        let timeout = Timespec::try_from(left).ok();
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], timeout.as_ref()) {
            Err(Errno::INTR) => {}
            polled => return polled.map(|ready| ready > 0),
        }
    }
}

/// Sends a signal, a realtime one, too (pidfd_send_signal(2)). [`Error::NotFound`] when the process has exited.
pub fn send_signal(pidfd: impl AsFd, signal: i32) -> Result<()> {
    match sys::process::signal(pidfd, signal) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {
            Err(Error::NotFound("process".into()))
        }
        sent => sent.os("send signal", signal),
    }
}

fn wait(pidfd: impl AsFd, options: WaitIdOptions) -> Result<Option<ExitStatus>> {
    let pidfd = pidfd.as_fd();
    let status = loop {
        match waitid(WaitId::PidFd(pidfd), options) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other.os("waitid on", "pidfd")?,
        }
    };
    Ok(status.map(
        |status| match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => ExitStatus::Code(code),
            (None, Some(signal)) => ExitStatus::Signal(signal),
            // WEXITED reports exits and deaths by signal only.
            (None, None) => ExitStatus::Signal(9),
        },
    ))
}
