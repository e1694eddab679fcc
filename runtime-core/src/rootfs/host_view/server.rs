//! The kernel's requests (fuse(4)) to a [`Tree`].

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::{AtFlags, Stat, Timestamps};
use rustix::io::Errno;

use super::attributes::{attributes, kind, timespec};
use super::nodes::ROOT;
use super::place::Place;
use super::tree::{Change, Result, Tree};
use super::workers::Workers;

/// The container changes its files, so the kernel asks every time.
const NEVER: Duration = Duration::ZERO;
/// Longest write in one request.
const MAX_WRITE: u32 = 1 << 20;
/// Names stand for one thing for ever: numbers are not used again.
const GENERATION: Generation = Generation(0);

/// How long an operation may take. One may copy a file of a lower layer, so it is longer than one thinks.
const PATIENCE: Duration = Duration::from_secs(10);

/// The tree until it is closed.
pub(super) type Shared = Arc<Mutex<Option<Arc<Tree>>>>;

/// Answers from one thread and has everything done by others.
pub(super) struct Server {
    tree: Shared,
    place: Arc<Place>,
    workers: Workers,
}

/// What becomes of a result for which nobody waits any more.
type Undo<T> = fn(&Tree, T);

impl Server {
    pub(super) fn new(tree: Shared, place: Arc<Place>) -> Server {
        Server {
            tree,
            place,
            workers: Workers::new(PATIENCE),
        }
    }

    /// Has `act` done and `answer` called with what came out; at the deadline with ETIMEDOUT, and `undo` later.
    fn with<R: Send + 'static, T: 'static>(
        &self,
        reply: R,
        act: impl FnOnce(&Tree) -> Result<T> + Send + 'static,
        answer: impl FnOnce(R, std::result::Result<T, fuser::Errno>) + Send + 'static,
        undo: Undo<T>,
    ) {
        let tree = self.tree.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(tree) = tree.clone() else {
            return answer(reply, Err(fuser::Errno::ENOTCONN));
        };
        let waiting = Arc::new(Mutex::new(Some((reply, answer))));
        let late = Arc::clone(&waiting);
        let take = |waiting: &Mutex<Option<_>>| {
            let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.take()
        };
        self.workers.run(
            move || {
                let result = act(&tree);
                match (take(&waiting), result) {
                    (Some((reply, answer)), result) => {
                        let code = |errno: Errno| fuser::Errno::from_i32(errno.raw_os_error());
                        answer(reply, result.map_err(code));
                    }
                    (None, Ok(result)) => undo(&tree, result),
                    (None, Err(_)) => {}
                }
            },
            move || {
                if let Some((reply, answer)) = take(&late) {
                    tracing::warn!(
                        "an operation on a view hangs: the container holds what it needs"
                    );
                    answer(reply, Err(fuser::Errno::ETIMEDOUT));
                }
            },
        );
    }

    fn entry(
        &self,
        reply: ReplyEntry,
        act: impl FnOnce(&Tree) -> Result<(u64, Stat)> + Send + 'static,
    ) {
        self.with(
            reply,
            |tree| {
                let (number, stat) = act(tree)?;
                Ok((number, attributes(tree, number, &stat)))
            },
            |reply, found| match found {
                Ok((_, attributes)) => reply.entry(&NEVER, &attributes, GENERATION),
                Err(errno) => reply.error(errno),
            },
            |tree, (number, _)| tree.forget(number, 1),
        );
    }

    fn attr(
        &self,
        node: INodeNo,
        reply: ReplyAttr,
        act: impl FnOnce(&Tree) -> Result<Stat> + Send + 'static,
    ) {
        self.with(
            reply,
            move |tree| {
                let stat = act(tree)?;
                Ok(attributes(tree, node.0, &stat))
            },
            |reply, found| match found {
                Ok(attributes) => reply.attr(&NEVER, &attributes),
                Err(errno) => reply.error(errno),
            },
            |_, _| {},
        );
    }

    fn done(&self, reply: ReplyEmpty, act: impl FnOnce(&Tree) -> Result<()> + Send + 'static) {
        self.with(
            reply,
            act,
            |reply, done| match done {
                Ok(()) => reply.ok(),
                Err(errno) => reply.error(errno),
            },
            |_, ()| {},
        );
    }

    fn data(&self, reply: ReplyData, act: impl FnOnce(&Tree) -> Result<Vec<u8>> + Send + 'static) {
        self.with(
            reply,
            act,
            |reply, data| match data {
                Ok(data) => reply.data(&data),
                Err(errno) => reply.error(errno),
            },
            |_, _| {},
        );
    }

    fn opened(
        &self,
        reply: ReplyOpen,
        flags: FopenFlags,
        act: impl FnOnce(&Tree) -> Result<u64> + Send + 'static,
    ) {
        self.with(
            reply,
            act,
            move |reply, opened| match opened {
                Ok(handle) => reply.opened(FileHandle(handle), flags),
                Err(errno) => reply.error(errno),
            },
            |tree, handle| tree.release(handle),
        );
    }

    /// getxattr(2) and listxattr(2) ask for the length first.
    fn xattr(
        &self,
        size: u32,
        reply: ReplyXattr,
        act: impl FnOnce(&Tree) -> Result<Vec<u8>> + Send + 'static,
    ) {
        self.with(
            reply,
            act,
            move |reply, value| match value {
                Ok(value) => match u32::try_from(value.len()) {
                    Ok(length) if size == 0 => reply.size(length),
                    Ok(length) if length <= size => reply.data(&value),
                    _ => reply.error(fuser::Errno::ERANGE),
                },
                Err(errno) => reply.error(errno),
            },
            |_, _| {},
        );
    }
}

/// Whether thread `tid` is dockerd's, also when its file has been replaced by another version.
fn is_engine(tid: u32) -> bool {
    let exe = std::fs::read_link(format!("/proc/{tid}/exe")).unwrap_or_default();
    let name = exe.file_name().map(OsStr::as_encoded_bytes);
    name.is_some_and(|name| name.starts_with(b"dockerd"))
}

impl Filesystem for Server {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // The answer is the nearest that is possible.
        let _ = config.set_max_write(MAX_WRITE);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.to_owned();
        self.entry(reply, move |tree| tree.lookup(parent.0, &name));
    }

    fn forget(&self, _: &Request, node: INodeNo, count: u64) {
        // Nobody is left to forget it where the tree is closed.
        let tree = self.tree.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tree) = &*tree {
            tree.forget(node.0, count);
        }
    }

    fn getattr(&self, _: &Request, node: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        self.attr(node, reply, move |tree| {
            tree.stat(node.0, handle.map(|h| h.0))
        });
    }

    fn setattr(
        &self,
        _: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        handle: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let times = (atime.is_some() || mtime.is_some()).then(|| Timestamps {
            last_access: timespec(atime),
            last_modification: timespec(mtime),
        });
        let change = Change {
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            times,
        };
        self.attr(node, reply, move |tree| {
            tree.change(node.0, handle.map(|h| h.0), change)
        });
    }

    fn readlink(&self, _: &Request, node: INodeNo, reply: ReplyData) {
        self.data(reply, move |tree| tree.readlink(node.0));
    }

    fn mknod(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let name = name.to_owned();
        self.entry(reply, move |tree| tree.mknod(parent.0, &name, mode));
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let name = name.to_owned();
        self.entry(reply, move |tree| {
            tree.mkdir(parent.0, &name, mode & 0o7777)
        });
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.done(reply, move |tree| {
            tree.unlink(parent.0, &name, AtFlags::empty())
        });
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.done(reply, move |tree| {
            tree.unlink(parent.0, &name, AtFlags::REMOVEDIR)
        });
    }

    fn symlink(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let (name, target) = (name.to_owned(), target.to_owned());
        self.entry(reply, move |tree| tree.symlink(parent.0, &name, &target));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (name, new_name) = (name.to_owned(), new_name.to_owned());
        self.done(reply, move |tree| {
            tree.rename((parent.0, &name), (new_parent.0, &new_name), flags.bits())
        });
    }

    fn link(&self, _: &Request, node: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.to_owned();
        self.entry(reply, move |tree| tree.link(node.0, parent.0, &name));
    }

    /// Past the page cache: what the container writes is seen at once.
    fn open(&self, _: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.opened(reply, FopenFlags::FOPEN_DIRECT_IO, move |tree| {
            tree.open_file(node.0, flags.0)
        });
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let name = name.to_owned();
        self.with(
            reply,
            move |tree| {
                let (number, stat, handle) = tree.create(parent.0, &name, mode & 0o7777, flags)?;
                Ok((attributes(tree, number, &stat), number, handle))
            },
            |reply, made| match made {
                Ok((attributes, _, handle)) => reply.created(
                    &NEVER,
                    &attributes,
                    GENERATION,
                    FileHandle(handle),
                    FopenFlags::FOPEN_DIRECT_IO,
                ),
                Err(errno) => reply.error(errno),
            },
            |tree, (_, number, handle)| {
                tree.release(handle);
                tree.forget(number, 1);
            },
        );
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.data(reply, move |tree| tree.read(handle.0, offset, size));
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let data = data.to_vec();
        self.with(
            reply,
            move |tree| tree.write(handle.0, offset, &data),
            |reply, written| match written {
                Ok(length) => reply.written(u32::try_from(length).unwrap_or(u32::MAX)),
                Err(errno) => reply.error(errno),
            },
            |_, _| {},
        );
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.done(reply, move |tree| {
            tree.release(handle.0);
            Ok(())
        });
    }

    fn fsync(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.done(reply, move |tree| tree.fsync(handle.0, data_only));
    }

    fn opendir(&self, _: &Request, node: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.opened(reply, FopenFlags::empty(), move |tree| {
            tree.open_directory(node.0)
        });
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        self.with(
            reply,
            move |tree| tree.read_directory(handle.0, offset),
            |mut reply, entries| match entries {
                Ok(entries) => {
                    // What does not fit is asked for again.
                    let _ = entries.iter().all(|entry| {
                        let kind = kind(entry.kind);
                        !reply.add(INodeNo(entry.number), entry.next, kind, &entry.name)
                    });
                    reply.ok();
                }
                Err(errno) => reply.error(errno),
            },
            |_, _| {},
        );
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.done(reply, move |tree| {
            tree.release(handle.0);
            Ok(())
        });
    }

    fn fsyncdir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.done(reply, move |tree| tree.fsync(handle.0, data_only));
    }

    fn statfs(&self, request: &Request, node: INodeNo, reply: ReplyStatfs) {
        if node.0 == ROOT && is_engine(request.pid()) {
            match self.place.pose() {
                Ok(()) => return reply.error(fuser::Errno::ESTALE),
                Err(error) => {
                    let error = error.chain();
                    tracing::warn!(error, "an engine asks for the type of a view");
                }
            }
        }
        let short = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        self.with(
            reply,
            Tree::statfs,
            move |reply, fs| match fs {
                Ok(fs) => reply.statfs(
                    fs.f_blocks,
                    fs.f_bfree,
                    fs.f_bavail,
                    fs.f_files,
                    fs.f_ffree,
                    short(fs.f_bsize),
                    short(fs.f_namemax),
                    short(fs.f_frsize),
                ),
                Err(errno) => reply.error(errno),
            },
            |_, _| {},
        );
    }

    fn setxattr(
        &self,
        _: &Request,
        node: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        let (name, value) = (name.to_owned(), value.to_owned());
        self.done(reply, move |tree| {
            tree.set_xattr(node.0, &name, &value, flags)
        });
    }

    fn getxattr(&self, _: &Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = name.to_owned();
        self.xattr(size, reply, move |tree| tree.xattr(node.0, &name));
    }

    fn listxattr(&self, _: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        self.xattr(size, reply, move |tree| tree.xattrs(node.0));
    }

    fn removexattr(&self, _: &Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.done(reply, move |tree| tree.remove_xattr(node.0, &name));
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.done(reply, move |tree| {
            tree.fallocate(handle.0, offset, length, mode)
        });
    }
}
