//! Answers to the kernel's requests (fuse(4)), all of one shape: what an operation has found, or an error number.

use std::time::Duration;

use fuser::{
    Errno, FileAttr, FileHandle, FopenFlags, Generation, INodeNo, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite,
    ReplyXattr,
};
use rustix::fs::StatVfs;

use super::attributes::kind;
use super::tree::{Entry, Tree};

/// The container changes its files, so the kernel asks every time.
const NEVER: Duration = Duration::ZERO;
/// Names stand for one thing for ever: numbers are not used again.
const GENERATION: Generation = Generation(0);

/// Who waits for an answer.
pub(super) trait Reply: Send + 'static {
    /// What the operation finds.
    type Found: 'static;

    /// It is done.
    fn found(self, found: Self::Found);

    /// It has failed.
    fn failed(self, errno: Errno);

    /// What becomes of a result for which nobody waits any more.
    fn undo(_tree: &Tree, _found: Self::Found) {}
}

impl Reply for ReplyEntry {
    type Found = FileAttr;

    fn found(self, attributes: FileAttr) {
        self.entry(&NEVER, &attributes, GENERATION);
    }

    fn failed(self, errno: Errno) {
        self.error(errno);
    }

    fn undo(tree: &Tree, attributes: FileAttr) {
        tree.forget(attributes.ino.0, 1);
    }
}

impl Reply for ReplyAttr {
    type Found = FileAttr;

    fn found(self, attributes: FileAttr) {
        self.attr(&NEVER, &attributes);
    }

    fn failed(self, errno: Errno) {
        self.error(errno);
    }
}

impl Reply for ReplyEmpty {
    type Found = ();

    fn found(self, (): ()) {
        self.ok();
    }

    fn failed(self, errno: Errno) {
        self.error(errno);
    }
}

impl Reply for ReplyData {
    type Found = Vec<u8>;

    fn found(self, data: Vec<u8>) {
        self.data(&data);
    }

    fn failed(self, errno: Errno) {
        self.error(errno);
    }
}

impl Reply for ReplyWrite {
    type Found = usize;

    fn found(self, length: usize) {
        self.written(u32::try_from(length).unwrap_or(u32::MAX));
    }

    fn failed(self, errno: Errno) {
        self.error(errno);
    }
}

impl Reply for ReplyDirectory {
    type Found = Vec<Entry>;

    fn found(mut self, entries: Vec<Entry>) {
        // What does not fit is asked for again.
        let _ = entries.iter().all(|entry| {
            !self.add(
                INodeNo(entry.number),
                entry.next,
                kind(entry.kind),
                &entry.name,
            )
        });
        self.ok();
    }

    fn failed(self, errno: Errno) {
        self.error(errno);
    }
}

impl Reply for ReplyStatfs {
    type Found = StatVfs;

    fn found(self, fs: StatVfs) {
        let short = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        self.statfs(
            fs.f_blocks,
            fs.f_bfree,
            fs.f_bavail,
            fs.f_files,
            fs.f_ffree,
            short(fs.f_bsize),
            short(fs.f_namemax),
            short(fs.f_frsize),
        );
    }

    fn failed(self, errno: Errno) {
        self.error(errno);
    }
}

/// Files are read past the page cache: what the container writes is seen at once.
impl Reply for ReplyCreate {
    type Found = (FileAttr, u64);

    fn found(self, (attributes, handle): (FileAttr, u64)) {
        let (handle, flags) = (FileHandle(handle), FopenFlags::FOPEN_DIRECT_IO);
        self.created(&NEVER, &attributes, GENERATION, handle, flags);
    }

    fn failed(self, errno: Errno) {
        self.error(errno);
    }

    fn undo(tree: &Tree, (attributes, handle): (FileAttr, u64)) {
        tree.release(handle);
        tree.forget(attributes.ino.0, 1);
    }
}

/// Who opens something, and how the kernel is to use it.
pub(super) struct Opening(pub(super) ReplyOpen, pub(super) FopenFlags);

impl Reply for Opening {
    type Found = u64;

    fn found(self, handle: u64) {
        self.0.opened(FileHandle(handle), self.1);
    }

    fn failed(self, errno: Errno) {
        self.0.error(errno);
    }

    fn undo(tree: &Tree, handle: u64) {
        tree.release(handle);
    }
}

/// Who asks for an extended attribute, with room for so many bytes: getxattr(2) and listxattr(2) ask for the length first.
pub(super) struct Room(pub(super) ReplyXattr, pub(super) u32);

impl Reply for Room {
    type Found = Vec<u8>;

    fn found(self, value: Vec<u8>) {
        let Room(reply, room) = self;
        match u32::try_from(value.len()) {
            Ok(length) if room == 0 => reply.size(length),
            Ok(length) if length <= room => reply.data(&value),
            _ => reply.error(Errno::ERANGE),
        }
    }

    fn failed(self, errno: Errno) {
        self.0.error(errno);
    }
}
