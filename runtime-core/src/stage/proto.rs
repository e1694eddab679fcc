//! Messages between the shim and its stage processes: JSON over a seqpacket socket, descriptors beside it.
//!
//! ```text
//! shim (L)                         stage (S)                 init (C)
//!   | -- InitRequest (memfd), fds --> |                          |
//!   |                                 | ··· clone3 H, clone3 C ··> (waits)
//!   | <-- Created{pid}, fds --------- |                          |
//!   | -- Go ------------------------> |   (after createRuntime hooks)
//!   |                                 | -- pivot_root, exits     |
//!   | <-- Ready ------------------------------------------------ |
//!   | -- Start ------------------------------------------------> |
//!   | <-- end of file (exec succeeded) or Failed --------------- |
//! ```
//! The exec stage: `ExecRequest, fds` → `Created{pid}` → end of file or `Failed`. The host-view stage: `HostViewRequest, fds`
//! → `Ready` or `Failed`.

use std::io::{IoSlice, IoSliceMut, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::Poll;
use std::time::Instant;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, OsContext, Result, StageFailure, Warning};
use crate::kernel::features::Features;
use crate::kernel::idmap::IdMap;
use crate::kernel::reap::readable_before;
use crate::plan::{Plan, Process};
use crate::rootfs::RootfsSource;
use crate::rootfs::data_roots::DataRoot;
use crate::stage::{Step, Times};

/// Most descriptors that one message carries.
pub(crate) const MAX_FDS: usize = 16;
/// Longest message; requests travel in a memfd.
const MAX_MESSAGE: usize = 64 * 1024;

/// One message.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Message {
    /// L → S: the request is the JSON in the first descriptor.
    Request,
    /// S → L: a process that will be L's child, to be reaped by L: the maker of namespaces.
    Spawned {
        /// Host pid.
        pid: i32,
    },
    /// H, C → L, first of all: the sender is a child of L. S says so, too ([`Message::Spawned`]), but may be killed
    /// before; L takes the pid from the kernel (unix(7), SO_PASSCRED).
    Born,
    /// S → L: data roots that it is about to make beside the layer, with what `capture` needs to know of each.
    DataRoots(Vec<DataRoot>),
    /// S → L: the process exists; `warnings` are downgrades so far.
    Created {
        /// Host pid.
        pid: i32,
        /// Mappings of the user namespace it is in.
        idmap: IdMap,
        /// Downgrades.
        warnings: Vec<Warning>,
        /// What the stage's steps took.
        times: Times,
        /// Descriptors beside the message, by meaning.
        fds: Vec<FdKind>,
    },
    /// L → S: hooks have run, go on to pivot_root.
    Go,
    /// C → L: waiting for `Start`. Host view → L: serving.
    Ready {
        /// What its steps took; of C, H's as well.
        times: Times,
    },
    /// L → C: exec the user's program.
    Start,
    /// Any stage → L: it failed and has undone what it made.
    Failed(StageFailure),
}

/// Meaning of a descriptor beside a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FdKind {
    /// JSON of the request.
    Request,
    /// Directory of the container's cgroup.
    Cgroup,
    /// Directory of the leaf that processes are born in.
    Leaf,
    /// Standard input of the process.
    Stdin,
    /// Standard output of the process.
    Stdout,
    /// Standard error of the process.
    Stderr,
    /// Master of the terminal that is /dev/kmsg.
    Kmsg,
    /// Master of the process's terminal.
    Console,
    /// Root of the container's devpts.
    Devpts,
    /// User namespace.
    Userns,
    /// Detached mount of the root file system with its data roots, to give the host a view of.
    Rootfs,
    /// Detached mount of the root file system alone, for the same purpose.
    Overlay,
    /// pidfd of the container's init.
    Init,
    /// Socket with the requests to the host's view.
    Requests,
    /// To the stage: the host-owned network namespace whose content moves. From it: the one that has it.
    Network,
}

/// What the stage needs to make a container.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct InitRequest {
    /// Container id.
    pub(crate) id: String,
    /// The plan.
    pub(crate) plan: Plan,
    /// Mappings to write; `None` where a namespace is joined.
    pub(crate) idmap: Option<IdMap>,
    /// The root file system.
    pub(crate) rootfs: RootfsSource,
    /// Whether to report it as [`FdKind::Rootfs`] and [`FdKind::Overlay`].
    pub(crate) view: bool,
    /// Bundle.
    pub(crate) bundle: String,
    /// What to do about mounts that cannot be ID-mapped.
    pub(crate) unmappable_mount: crate::config::OnUnmappable,
    /// What the kernel has.
    pub(crate) features: Features,
    /// Step at which to fail, for tests.
    pub(crate) fail_at: Option<Step>,
    /// Descriptors beside the request, by meaning.
    pub(crate) fds: Vec<FdKind>,
}

/// What the exec stage needs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ExecStageRequest {
    /// Container id.
    pub(crate) id: String,
    /// The process.
    pub(crate) process: Process,
    /// Mappings of the container.
    pub(crate) idmap: IdMap,
    /// Step at which to fail, for tests.
    pub(crate) fail_at: Option<Step>,
    /// Descriptors beside the request, by meaning.
    pub(crate) fds: Vec<FdKind>,
}

/// What the stage that serves the host's view of a root file system needs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HostViewRequest {
    /// Numbers above this one are free for files.
    pub(crate) last: u64,
    /// Descriptors beside the request, by meaning.
    pub(crate) fds: Vec<FdKind>,
}

/// A message as it came.
#[derive(Debug)]
pub(crate) struct Received<M> {
    /// The message.
    pub(crate) message: M,
    /// Descriptors beside it.
    pub(crate) fds: Vec<OwnedFd>,
    /// Pid of who sent it, on a channel [`Channel::with_senders`].
    pub(crate) sender: Option<i32>,
}

/// One end of the socket.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

impl Channel {
    /// A connected pair.
    pub(crate) fn pair() -> Result<(Channel, Channel)> {
        let (a, b) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .os("socketpair", "for a stage")?;
        Ok((Channel(a), Channel(b)))
    }

    /// Has the kernel tell who sent what ([`Channel::recv_from`]).
    pub(crate) fn with_senders(self) -> Result<Channel> {
        rustix::net::sockopt::set_socket_passcred(&self.0, true).os("setsockopt", "SO_PASSCRED")?;
        Ok(self)
    }

    /// No more messages will go to the other end, which sees its end of file.
    pub(crate) fn close_sending(&self) -> Result<()> {
        rustix::net::shutdown(&self.0, rustix::net::Shutdown::Write).os("shutdown", "stage socket")
    }

    /// Another descriptor of this end.
    pub(crate) fn try_clone(&self) -> Result<Channel> {
        Ok(Channel(self.0.try_clone().os("dup", "stage socket")?))
    }

    /// Wraps a connected seqpacket socket.
    pub(crate) fn from_fd(fd: OwnedFd) -> Channel {
        Channel(fd)
    }

    /// The descriptor.
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Sends a request too large for a message: JSON in a memfd, as the first of `fds`.
    pub(crate) fn send_request<T: Serialize>(
        &self,
        request: &T,
        fds: &[BorrowedFd<'_>],
    ) -> Result<()> {
        let memfd = rustix::fs::memfd_create("request", rustix::fs::MemfdFlags::CLOEXEC)
            .os("memfd_create", "request")?;
        let mut file = std::fs::File::from(memfd);
        let json = serde_json::to_vec(request)
            .map_err(std::io::Error::from)
            .os("encode", "request")?;
        file.write_all(&json).os("write", "request")?;
        let mut all = vec![file.as_fd()];
        all.extend_from_slice(fds);
        self.send_with(&Message::Request, &all)
    }

    /// Receives what [`Channel::send_request`] sent, with the further descriptors.
    pub(crate) fn recv_request<T: DeserializeOwned>(&self) -> Result<(T, Vec<OwnedFd>)> {
        let (message, mut fds) = self
            .recv::<Message>()?
            .ok_or_else(|| unexpected("end of file"))?;
        if !matches!(message, Message::Request) || fds.is_empty() {
            return Err(unexpected("not a request"));
        }
        let mut file = std::fs::File::from(fds.remove(0));
        file.rewind().os("rewind", "request")?;
        let mut json = Vec::new();
        file.read_to_end(&mut json).os("read", "request")?;
        let request = serde_json::from_slice(&json)
            .map_err(std::io::Error::from)
            .os("decode", "request")?;
        Ok((request, fds))
    }

    /// Sends a message.
    pub(crate) fn send<M: Serialize>(&self, message: &M) -> Result<()> {
        self.send_with(message, &[])
    }

    /// Sends a message with descriptors.
    pub(crate) fn send_with<M: Serialize>(
        &self,
        message: &M,
        fds: &[BorrowedFd<'_>],
    ) -> Result<()> {
        let json = serde_json::to_vec(message)
            .map_err(std::io::Error::from)
            .os("encode", "message")?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(unexpected("too many descriptors"));
        }
        loop {
            match sendmsg(
                &self.0,
                &[IoSlice::new(&json)],
                &mut control,
                SendFlags::NOSIGNAL,
            ) {
                Err(rustix::io::Errno::INTR) => {}
                sent => return sent.map(|_| ()).os("sendmsg to", "stage socket"),
            }
        }
    }

    /// Receives a message; `None` at end of file.
    pub(crate) fn recv<M: DeserializeOwned>(&self) -> Result<Option<(M, Vec<OwnedFd>)>> {
        Ok(self
            .recv_from()?
            .map(|received| (received.message, received.fds)))
    }

    /// The same with the sender's pid, on a channel [`Channel::with_senders`].
    pub(crate) fn recv_from<M: DeserializeOwned>(&self) -> Result<Option<Received<M>>> {
        loop {
            if let Poll::Ready(received) = self.receive(RecvFlags::empty())? {
                return Ok(received);
            }
        }
    }

    /// The same without waiting.
    pub(crate) fn try_recv_from<M: DeserializeOwned>(&self) -> Result<Poll<Option<Received<M>>>> {
        self.receive(RecvFlags::DONTWAIT)
    }

    /// The same, waiting until `deadline` at most.
    ///
    /// # Errors
    /// [`Error::Os`] with ETIMEDOUT.
    pub(crate) fn recv_before<M: DeserializeOwned>(
        &self,
        deadline: Instant,
    ) -> Result<Option<Received<M>>> {
        loop {
            if let Poll::Ready(received) = self.try_recv_from()? {
                return Ok(received);
            }
            if !readable_before(&self.0, deadline).os("poll", "stage socket")? {
                return Err(rustix::io::Errno::TIMEDOUT).os("wait for", "a stage");
            }
        }
    }

    fn receive<M: DeserializeOwned>(&self, flags: RecvFlags) -> Result<Poll<Option<Received<M>>>> {
        let mut buffer = vec![0; MAX_MESSAGE];
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS), ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut slices = [IoSliceMut::new(&mut buffer)];
            let flags = flags | RecvFlags::CMSG_CLOEXEC;
            match recvmsg(&self.0, &mut slices, &mut control, flags) {
                // The latter, once: the peer died with our message unread. What it said before comes next.
                Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNRESET) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(Poll::Pending),
                received => break received.os("recvmsg from", "stage socket")?,
            }
        };
        let (mut fds, mut sender) = (Vec::new(), None);
        for message in control.drain() {
            match message {
                RecvAncillaryMessage::ScmRights(more) => fds.extend(more),
                RecvAncillaryMessage::ScmCredentials(who) => {
                    sender = Some(who.pid.as_raw_nonzero().get());
                }
                _ => {}
            }
        }
        if received.bytes == 0 {
            return Ok(Poll::Ready(None));
        }
        let message = serde_json::from_slice(&buffer[..received.bytes])
            .map_err(std::io::Error::from)
            .os("decode", "message")?;
        Ok(Poll::Ready(Some(Received {
            message,
            fds,
            sender,
        })))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Takes the descriptor of meaning `kind` out of `fds`, which stand in the order of `kinds`.
pub(crate) fn take_fd(
    kinds: &[FdKind],
    fds: &mut [Option<OwnedFd>],
    kind: FdKind,
) -> Option<OwnedFd> {
    let index = kinds.iter().position(|k| *k == kind)?;
    fds.get_mut(index)?.take()
}

/// A message that the sequence above does not allow.
pub(crate) fn unexpected(what: &str) -> Error {
    Error::Os {
        op: "stage protocol:",
        target: what.to_string(),
        source: std::io::Error::from(std::io::ErrorKind::InvalidData),
    }
}
