//! Starting a stage and talking with it, from the shim's side.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::Serialize;

use crate::error::{Error, OsContext, Result};
use crate::proto::{Channel, Message, unexpected};
use crate::reap::reap_blocking;

/// A stage and the processes it makes for us, all children of ours. Dropping it kills and reaps
/// them; [`Children::release`] lets one live on.
#[derive(Debug)]
pub(crate) struct Children {
    pidfds: Vec<(i32, OwnedFd)>,
}

impl Children {
    /// Takes charge of child `pid`, which nobody has reaped yet.
    pub(crate) fn adopt(&mut self, pid: i32) -> Result<()> {
        let child = Pid::from_raw(pid).ok_or_else(|| unexpected("pid 0"))?;
        self.pidfds.push((
            pid,
            pidfd_open(child, PidfdFlags::empty()).os("pidfd_open", pid)?,
        ));
        Ok(())
    }

    /// Waits for every child but `kept`, which have nothing more to do, and hands `kept` over.
    pub(crate) fn release(mut self, kept: i32) -> Result<OwnedFd> {
        let index = self
            .pidfds
            .iter()
            .position(|(pid, _)| *pid == kept)
            .ok_or_else(|| unexpected("unknown child"))?;
        let (_, pidfd) = self.pidfds.swap_remove(index);
        for (_, other) in self.pidfds.drain(..) {
            reap_blocking(other)?;
        }
        Ok(pidfd)
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for (_, pidfd) in &self.pidfds {
            // Exited already: nothing to kill.
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
        for (_, pidfd) in &self.pidfds {
            let _ = reap_blocking(pidfd);
        }
    }
}

/// Starts stage `name` and sends it `request` with `fds`.
pub(crate) fn spawn<T: Serialize>(
    name: &str,
    request: &T,
    fds: &[BorrowedFd<'_>],
) -> Result<(Channel, Children)> {
    let (ours, theirs) = Channel::pair()?;
    // No pre_exec, so std starts it by posix_spawn(3): no fork of a threaded process.
    let child = Command::new("/proc/self/exe")
        .arg(name)
        .env_clear()
        .stdin(theirs.into_fd())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .os("spawn", format!("stage {name}"))?;
    let mut children = Children { pidfds: Vec::new() };
    children.adopt(
        i32::try_from(child.id())
            .map_err(std::io::Error::other)
            .os("pid of", "stage")?,
    )?;
    ours.send_request(request, fds)?;
    Ok((ours, children))
}

/// The stage's next message; its failure is ours. Children it announces are adopted.
pub(crate) fn next(channel: &Channel, children: &mut Children) -> Result<(Message, Vec<OwnedFd>)> {
    match channel.recv::<Message>()? {
        Some((Message::Failed(failure), _)) => Err(Error::Stage(failure)),
        Some((message, fds)) => {
            if let Message::Spawned { pid } | Message::Created { pid, .. } = message {
                children.adopt(pid)?;
            }
            Ok((message, fds))
        }
        None => Err(unexpected("the stage died")),
    }
}

/// Descriptors with their meanings, in one order.
#[derive(Debug, Default)]
pub(crate) struct Fds<'a> {
    pub(crate) kinds: Vec<crate::proto::FdKind>,
    pub(crate) fds: Vec<BorrowedFd<'a>>,
}

impl<'a> Fds<'a> {
    /// Adds `fd`, if there is one.
    pub(crate) fn add(&mut self, kind: crate::proto::FdKind, fd: Option<&'a impl AsFd>) {
        if let Some(fd) = fd {
            self.kinds.push(kind);
            self.fds.push(fd.as_fd());
        }
    }
}
