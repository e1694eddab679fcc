//! `/dev/kmsg`, the first file of the pod's FUSE server.
//!
//! No kernel file does: the host's is not the container's, and journald dies on /dev/null, which
//! epoll refuses (whole.md 1). Never readable, swallows writes.

use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime};

use crate::error::{OsContext, Result};
use crate::kernel::features::Features;
use crate::kernel::fuse;
use crate::kernel::held::Held;
use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, INodeNo,
    LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, ReplyAttr, ReplyData, ReplyEmpty,
    ReplyOpen, ReplyPoll, ReplyWrite, Request, Session, SessionACL, TimeOrNow, WriteFlags,
};

/// How long the kernel may cache attributes that never change.
const FOREVER: Duration = Duration::from_secs(86400);

/// The served file system, whose root *is* the file. Ends when the last mount of it has gone.
#[derive(Debug)]
pub(crate) struct Kmsg {
    mount: Held,
}

impl Kmsg {
    /// Mounts it detached and serves it from a thread of its own.
    pub(crate) fn start(features: &Features) -> Result<Kmsg> {
        let fuse::Mounted { device, mount } = fuse::mount("kmsg", "100666", &["allow_other"])?;
        let session = Session::from_fd(File, device, SessionACL::All, fuser::Config::default())
            .os("serve", "kmsg")?;
        std::thread::Builder::new()
            .name("kmsg".into())
            // The end of a session is the end of its mounts; nobody waits for it.
            .spawn(move || drop(session.run()))
            .os("start thread", "kmsg")?;
        Ok(Kmsg {
            mount: Held::new(mount, features)?,
        })
    }

    /// A detached mount of the file, for one container.
    pub(crate) fn mount(&self) -> Result<OwnedFd> {
        self.mount.copy("kmsg")
    }
}

struct File;

fn attributes() -> FileAttr {
    let epoch = SystemTime::UNIX_EPOCH;
    FileAttr {
        ino: INodeNo::ROOT,
        size: 0,
        blocks: 0,
        atime: epoch,
        mtime: epoch,
        ctime: epoch,
        crtime: epoch,
        kind: FileType::RegularFile,
        perm: 0o666,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for File {
    fn getattr(&self, _: &Request, _: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOREVER, &attributes());
    }

    /// open(O_TRUNC) and chmod of it succeed and change nothing.
    fn setattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.attr(&FOREVER, &attributes());
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(
            FileHandle(0),
            FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_STREAM,
        );
    }

    /// As an empty kernel log read without blocking; a read that blocked would never return.
    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        reply.error(Errno::EAGAIN);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX));
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    /// Never readable: without this the kernel takes it as always ready, and journald spins.
    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: PollNotifier,
        _: PollEvents,
        _: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.poll(PollEvents::POLLOUT | PollEvents::POLLWRNORM);
    }
}
