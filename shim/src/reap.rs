//! Waits for a child's exit without a thread: its pidfd becomes readable (pidfd_open(2)).

use std::os::fd::OwnedFd;
use std::time::SystemTime;

use runtime_core::{ExitStatus, reap};
use tokio::io::Interest;

use crate::epoll;

/// What is reported where the kernel's answer is lost; containerd's own "unknown".
pub(crate) const UNKNOWN: u32 = 255;

/// How and when a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit {
    /// Exit code, or 128 + signal.
    pub(crate) status: u32,
    /// When it was collected; `None` if it was never started.
    pub(crate) at: Option<SystemTime>,
}

/// Waits for the child behind `pidfd` and collects it.
pub(crate) async fn exit(pidfd: OwnedFd) -> Exit {
    let status = match wait(pidfd).await {
        Ok(status) => status.code(),
        Err(error) => {
            tracing::error!(error = error.chain(), "exit status lost");
            UNKNOWN
        }
    };
    Exit {
        status,
        at: Some(SystemTime::now()),
    }
}

async fn wait(pidfd: OwnedFd) -> runtime_core::Result<ExitStatus> {
    use runtime_core::OsContext;
    let pidfd = epoll::register(pidfd, Interest::READABLE).os("epoll on", "pidfd")?;
    loop {
        let mut ready = pidfd.readable().await.os("epoll on", "pidfd")?;
        if let Some(status) = reap(pidfd.get_ref())? {
            return Ok(status);
        }
        ready.clear_ready();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
    use std::process::Command;

    #[expect(clippy::zombie_processes, reason = "reaped by its pidfd")]
    fn spawn(script: &str) -> OwnedFd {
        let child = Command::new("/bin/sh")
            .args(["-c", script])
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
        pidfd_open(pid, PidfdFlags::empty()).unwrap()
    }

    #[tokio::test]
    async fn codes_and_signals() {
        let before = SystemTime::now();
        let ended = exit(spawn("exit 42")).await;
        assert_eq!(ended.status, 42);
        assert!(ended.at.unwrap() >= before);
        let sleeper = spawn("sleep 100");
        pidfd_send_signal(&sleeper, Signal::TERM).unwrap();
        assert_eq!(exit(sleeper).await.status, 128 + 15);
    }

    #[tokio::test]
    async fn many_at_once_keep_their_own_codes() {
        let waits: Vec<_> = (0..100)
            .map(|n| tokio::spawn(exit(spawn(&format!("exit {n}")))))
            .collect();
        for (n, wait) in waits.into_iter().enumerate() {
            assert_eq!(wait.await.unwrap().status as usize, n);
        }
    }
}
