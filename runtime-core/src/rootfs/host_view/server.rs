//! The kernel's requests (fuse(4)) to a [`Tree`].

use std::ffi::OsStr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, FileAttr, FileHandle, Filesystem, FopenFlags, INodeNo, LockOwner, OpenFlags,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::{AtFlags, Stat, Timestamps};

use super::attributes::{attributes, timespec};
use super::reply::{Opening, Reply, Room};
use super::tree::{Change, Result, Tree};
use super::workers::Workers;

/// Reads requests in one thread and has everything done by others.
pub(super) struct Server {
    tree: Arc<Tree>,
    workers: Workers,
}

impl Server {
    pub(super) fn new(tree: Arc<Tree>, workers: Workers) -> Server {
        Server { tree, workers }
    }

    /// Has `act` done and `reply` answered with what comes out; at the deadline with ETIMEDOUT.
    fn answer<R: Reply>(
        &self,
        reply: R,
        act: impl FnOnce(&Tree) -> Result<R::Found> + Send + 'static,
    ) {
        let tree = Arc::clone(&self.tree);
        let waiting = Arc::new(Mutex::new(Some(reply)));
        let late = Arc::clone(&waiting);
        let take = |waiting: &Mutex<Option<R>>| {
            let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.take()
        };
        self.workers.run(
            move || match (act(&tree), take(&waiting)) {
                (Ok(found), Some(reply)) => reply.found(found),
                (Err(errno), Some(reply)) => {
                    reply.failed(fuser::Errno::from_i32(errno.raw_os_error()));
                }
                (Ok(found), None) => R::undo(&tree, found),
                (Err(_), None) => {}
            },
            move || {
                if let Some(reply) = take(&late) {
                    reply.failed(fuser::Errno::ETIMEDOUT);
                }
            },
        );
    }

    /// The same where something is found by name.
    fn entry(
        &self,
        reply: ReplyEntry,
        act: impl FnOnce(&Tree) -> Result<(u64, Stat)> + Send + 'static,
    ) {
        self.answer(reply, |tree| act(tree).map(shown));
    }
}

/// Attributes of what has been found.
fn shown((number, stat): (u64, Stat)) -> FileAttr {
    attributes(number, &stat)
}

impl Filesystem for Server {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.to_owned();
        self.entry(reply, move |tree| tree.lookup(parent.0, &name));
    }

    fn forget(&self, _: &Request, node: INodeNo, count: u64) {
        self.tree.forget(node.0, count);
    }

    fn getattr(&self, _: &Request, node: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        self.answer(reply, move |tree| {
            let stat = tree.stat(node.0, handle.map(|h| h.0))?;
            Ok(attributes(node.0, &stat))
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
        self.answer(reply, move |tree| {
            let stat = tree.change(node.0, handle.map(|h| h.0), change)?;
            Ok(attributes(node.0, &stat))
        });
    }

    fn readlink(&self, _: &Request, node: INodeNo, reply: ReplyData) {
        self.answer(reply, move |tree| tree.readlink(node.0));
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
        let (name, mode) = (name.to_owned(), mode & 0o7777);
        self.entry(reply, move |tree| tree.mkdir(parent.0, &name, mode));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.answer(reply, move |tree| {
            tree.unlink(parent.0, &name, AtFlags::empty())
        });
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.answer(reply, move |tree| {
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
        self.answer(reply, move |tree| {
            tree.rename((parent.0, &name), (new_parent.0, &new_name), flags.bits())
        });
    }

    fn link(&self, _: &Request, node: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.to_owned();
        self.entry(reply, move |tree| tree.link(node.0, parent.0, &name));
    }

    fn open(&self, _: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        // Past the page cache: what the container writes is seen at once.
        let opening = Opening(reply, FopenFlags::FOPEN_DIRECT_IO);
        self.answer(opening, move |tree| tree.open_file(node.0, flags.0));
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
        let (name, mode) = (name.to_owned(), mode & 0o7777);
        self.answer(reply, move |tree| {
            let (number, stat, handle) = tree.create(parent.0, &name, mode, flags)?;
            Ok((attributes(number, &stat), handle))
        });
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
        self.answer(reply, move |tree| tree.read(handle.0, offset, size));
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
        self.answer(reply, move |tree| tree.write(handle.0, offset, &data));
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
        self.answer(reply, move |tree| {
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
        self.answer(reply, move |tree| tree.fsync(handle.0, data_only));
    }

    fn opendir(&self, _: &Request, node: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let opening = Opening(reply, FopenFlags::empty());
        self.answer(opening, move |tree| tree.open_directory(node.0));
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        self.answer(reply, move |tree| tree.read_directory(handle.0, offset));
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.answer(reply, move |tree| {
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
        self.answer(reply, move |tree| tree.fsync(handle.0, data_only));
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        self.answer(reply, Tree::statfs);
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
        self.answer(reply, move |tree| {
            tree.set_xattr(node.0, &name, &value, flags)
        });
    }

    fn getxattr(&self, _: &Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = name.to_owned();
        self.answer(Room(reply, size), move |tree| tree.xattr(node.0, &name));
    }

    fn listxattr(&self, _: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        self.answer(Room(reply, size), move |tree| tree.xattrs(node.0));
    }

    fn removexattr(&self, _: &Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.answer(reply, move |tree| tree.remove_xattr(node.0, &name));
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
        self.answer(reply, move |tree| {
            tree.fallocate(handle.0, offset, length, mode)
        });
    }
}
