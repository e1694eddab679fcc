//! Starting a stage and talking with it, from the shim's side.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio};
use std::task::Poll;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::Serialize;

use crate::error::{Error, OsContext, Result};
use crate::kernel::reap::{readable_before, reap_before};
use crate::rootfs::data_roots::DataRoot;
use crate::stage::proto::{Channel, Message, Received, unexpected};

/// How long a stage may take to end once it has nothing more to do, or has been killed.
const PATIENCE: Duration = Duration::from_secs(5);

/// A stage and the processes it makes for us, all children of ours. Dropping it kills and reaps
/// them, also those that nobody has announced yet; [`Children::release`] lets one live on.
#[derive(Debug)]
pub(crate) struct Children {
    pidfds: Vec<(i32, OwnedFd)>,
    channel: Channel,
    /// What a stage was about to make when it was killed.
    unheard: Option<Vec<DataRoot>>,
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

    /// Sends a stage what it waits for first.
    ///
    /// # Errors
    /// As [`Children::tell`].
    pub(crate) fn request<T: Serialize>(
        &mut self,
        request: &T,
        fds: &[BorrowedFd<'_>],
    ) -> Result<()> {
        let sent = self.channel.send_request(request, fds);
        self.heard_out(sent)
    }

    /// Sends a message to a stage.
    ///
    /// # Errors
    /// Where it has hung up: why, if it has said so.
    pub(crate) fn tell(&mut self, message: &Message) -> Result<()> {
        let sent = self.channel.send(message);
        self.heard_out(sent)
    }

    fn heard_out(&mut self, sent: Result<()>) -> Result<()> {
        let Err(error) = sent else {
            return Ok(());
        };
        while let Poll::Ready(Some(received)) = self.channel.try_recv_from()? {
            heard(received, self)?;
        }
        Err(error)
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
        let deadline = Instant::now() + PATIENCE;
        while let Some((pid, child)) = self.pidfds.pop() {
            if reap_before(&child, deadline)?.is_none() {
                self.pidfds.push((pid, child));
                return Err(Errno::TIMEDOUT).os("wait for the end of", "a stage");
            }
        }
        Ok(())
    }

    /// Kills all, and has whoever is announced later know that nobody listens.
    pub(crate) fn kill(&self) {
        for (_, pidfd) in &self.pidfds {
            // Exited already: nothing to kill.
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
        let _ = self.channel.close_sending();
    }

    /// Kills whom nobody has announced yet, without waiting: true once there are no more.
    pub(crate) fn kill_unborn(&mut self) -> Result<bool> {
        // Whoever is left holds the other end until it has died, and says first of all that it was born.
        while let Poll::Ready(received) = self.channel.try_recv_from::<Message>()? {
            let Some(received) = received else {
                return Ok(true);
            };
            // One that was killed and has no pid any more needs no care.
            if let Ok(Message::DataRoots(roots)) = self.hear(received.message, received.sender) {
                self.unheard = Some(roots);
            }
            self.kill();
        }
        Ok(false)
    }

    /// Kills and reaps all. Returns what they have told nobody yet of data roots that they were about to make.
    pub(crate) fn end(&mut self) -> Option<Vec<DataRoot>> {
        if self.pidfds.is_empty() {
            return None;
        }
        let deadline = Instant::now() + PATIENCE;
        self.kill();
        while let Ok(false) = self.kill_unborn()
            && let Ok(true) = readable_before(&self.channel, deadline)
        {}
        for (pid, pidfd) in self.pidfds.drain(..) {
            if let Ok(None) = reap_before(&pidfd, deadline) {
                tracing::warn!(pid, "a stage does not die");
            }
        }
        self.unheard.take()
    }

    /// Hands all over, to be reaped.
    pub(crate) fn into_pidfds(mut self) -> Vec<OwnedFd> {
        let all = std::mem::take(&mut self.pidfds).into_iter();
        all.map(|(_, pidfd)| pidfd).collect()
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        self.end();
    }
}

/// Starts stage `name`, which waits for its request ([`Children::request`]).
pub(crate) fn spawn(name: &str) -> Result<(Channel, Children)> {
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
        unheard: None,
    };
    children.adopt(
        i32::try_from(child.id())
            .map_err(std::io::Error::other)
            .os("pid of", "stage")?,
    )?;
    Ok((ours, children))
}

/// The stage's next message that is no announcement of a child, within `patience`; its failure is ours. Children it
/// announces are adopted.
pub(crate) fn news(
    channel: &Channel,
    children: &mut Children,
    patience: Duration,
) -> Result<(Message, Vec<OwnedFd>)> {
    let deadline = Instant::now() + patience;
    loop {
        let received = channel.recv_before(deadline)?;
        match heard(
            received.ok_or_else(|| unexpected("the stage died"))?,
            children,
        )? {
            (Message::Spawned { .. }, _) => {}
            news => return Ok(news),
        }
    }
}

/// The stage's next message if it is there; `Ready(None)` at the end of file.
pub(crate) fn try_next(
    channel: &Channel,
    children: &mut Children,
) -> Result<Poll<Option<Message>>> {
    match channel.try_recv_from()? {
        Poll::Pending => Ok(Poll::Pending),
        Poll::Ready(None) => Ok(Poll::Ready(None)),
        Poll::Ready(Some(received)) => {
            let (message, _) = heard(received, children)?;
            Ok(Poll::Ready(Some(message)))
        }
    }
}

/// What a child says of itself is like what the stage says of it.
fn heard(received: Received<Message>, children: &mut Children) -> Result<(Message, Vec<OwnedFd>)> {
    match children.hear(received.message, received.sender)? {
        Message::Failed(failure) => Err(Error::Stage(failure)),
        message => Ok((message, received.fds)),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::StageFailure;

    fn failed(channel: &Channel) {
        let failure = StageFailure {
            step: "join".into(),
            chain: "the reason".into(),
            errno: None,
        };
        channel.send(&Message::Failed(failure)).unwrap();
    }

    fn nobody(channel: &Channel) -> Children {
        Children {
            pidfds: Vec::new(),
            channel: channel.try_clone().unwrap(),
            unheard: None,
        }
    }

    #[test]
    fn who_hangs_up_is_heard_out() {
        let (ours, theirs) = Channel::pair().unwrap();
        failed(&theirs);
        drop(theirs);
        let outcome = nobody(&ours).tell(&Message::Start);
        assert!(outcome.unwrap_err().chain().contains("the reason"));
    }

    #[test]
    fn who_hangs_up_without_listening_is_heard_out() {
        let (ours, theirs) = Channel::pair().unwrap();
        failed(&theirs);
        ours.send(&Message::Start).unwrap();
        drop(theirs);
        let heard = news(&ours, &mut nobody(&ours), PATIENCE);
        assert!(heard.unwrap_err().chain().contains("the reason"));
    }

    #[test]
    fn who_says_nothing_is_not_heard() {
        let (ours, theirs) = Channel::pair().unwrap();
        drop(theirs);
        let outcome = nobody(&ours).tell(&Message::Start);
        assert_eq!(outcome.unwrap_err().errno(), Some(libc::EPIPE));
    }
}
