//! Starting a stage and talking with it, from the shim's side.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::Serialize;

use crate::error::{Error, OsContext, Result};
use crate::kernel::reap::reap_blocking;
use crate::stage::proto::{Channel, Message, unexpected};

/// A stage and the processes it makes for us, all children of ours. Dropping it kills and reaps
/// them, also those that nobody has announced yet; [`Children::release`] lets one live on.
#[derive(Debug)]
pub(crate) struct Children {
    pidfds: Vec<(i32, OwnedFd)>,
    channel: Channel,
}

impl Children {
    /// Takes charge of child `pid`, which nobody has reaped yet. Twice is once.
    pub(crate) fn adopt(&mut self, pid: i32) -> Result<()> {
        if self.pidfds.iter().any(|(known, _)| *known == pid) {
            return Ok(());
        }
        let child = Pid::from_raw(pid).ok_or_else(|| unexpected("pid 0"))?;
        self.pidfds.push((
            pid,
            pidfd_open(child, PidfdFlags::empty()).os("pidfd_open", pid)?,
        ));
        Ok(())
    }

    /// Adopts whom a message announces.
    fn hear(&mut self, message: Message, sender: Option<i32>) -> Result<Message> {
        let message = match (message, sender) {
            (Message::Born, Some(pid)) => Message::Spawned { pid },
            (message, _) => message,
        };
        if let Message::Spawned { pid } | Message::Created { pid, .. } = message {
            self.adopt(pid)?;
        }
        Ok(message)
    }

    /// Hands child `kept` over; the others stay.
    pub(crate) fn release(&mut self, kept: i32) -> Result<OwnedFd> {
        let index = self
            .pidfds
            .iter()
            .position(|(pid, _)| *pid == kept)
            .ok_or_else(|| unexpected("unknown child"))?;
        Ok(self.pidfds.swap_remove(index).1)
    }

    /// Waits for every child; they have nothing more to do.
    pub(crate) fn finish(mut self) -> Result<()> {
        for (_, child) in std::mem::take(&mut self.pidfds) {
            reap_blocking(child)?;
        }
        Ok(())
    }
}

impl Children {
    fn kill(&self) {
        for (_, pidfd) in &self.pidfds {
            // Exited already: nothing to kill.
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        if self.pidfds.is_empty() {
            return;
        }
        self.kill();
        // Whoever is left holds the other end until it has died, and says first of all that it was born.
        let _ = self.channel.close_sending();
        while let Ok(Some(received)) = self.channel.recv_from::<Message>() {
            // One that was killed and has no pid any more needs no care.
            let _ = self.hear(received.message, received.sender);
            self.kill();
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
    let ours = ours.with_senders()?;
    // No pre_exec, so std starts it by posix_spawn(3): no fork of a threaded process.
    let child = Command::new("/proc/self/exe")
        .arg(name)
        .env_clear()
        .stdin(theirs.into_fd())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .os("spawn", format!("stage {name}"))?;
    let mut children = Children {
        pidfds: Vec::new(),
        channel: ours.try_clone()?,
    };
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
    receive(channel, children)?.ok_or_else(|| unexpected("the stage died"))
}

/// The next message that is no announcement of a child.
pub(crate) fn news(channel: &Channel, children: &mut Children) -> Result<(Message, Vec<OwnedFd>)> {
    loop {
        match next(channel, children)? {
            (Message::Spawned { .. }, _) => {}
            news => return Ok(news),
        }
    }
}

/// Waits until the user's program is executed, which closes the other end.
pub(crate) fn executed(channel: &Channel, children: &mut Children) -> Result<()> {
    loop {
        match receive(channel, children)? {
            None => return Ok(()),
            Some((Message::Spawned { .. }, _)) => {}
            Some((other, _)) => return Err(unexpected(&format!("{other:?} from the stage"))),
        }
    }
}

/// One message; `None` at the end of file. What a child says of itself is like what the stage says of it.
fn receive(channel: &Channel, children: &mut Children) -> Result<Option<(Message, Vec<OwnedFd>)>> {
    let Some(received) = channel.recv_from::<Message>()? else {
        return Ok(None);
    };
    match children.hear(received.message, received.sender)? {
        Message::Failed(failure) => Err(Error::Stage(failure)),
        message => Ok(Some((message, received.fds))),
    }
}

/// Descriptors with their meanings, in one order.
#[derive(Debug, Default)]
pub(crate) struct Fds<'a> {
    pub(crate) kinds: Vec<crate::stage::proto::FdKind>,
    pub(crate) fds: Vec<BorrowedFd<'a>>,
}

impl<'a> Fds<'a> {
    /// Adds `fd`, if there is one.
    pub(crate) fn add(&mut self, kind: crate::stage::proto::FdKind, fd: Option<&'a impl AsFd>) {
        if let Some(fd) = fd {
            self.kinds.push(kind);
            self.fds.push(fd.as_fd());
        }
    }
}
