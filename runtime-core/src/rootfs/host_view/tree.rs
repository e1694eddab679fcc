//! Passing file operations through to the container's root file system.
//!
//! Who does so is in the container's user namespace: ids, file capabilities and access control lists are in its terms, as on
//! disk. Everything in it is hostile. Paths are resolved below its root without following any link, and nothing but regular
//! files and directories is ever opened: no device, though the mount has `nodev` as well, and no pipe, which would hold
//! the server up. O_NONBLOCK keeps a lease of the container's from doing so (fcntl(2), F_SETLEASE).

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Gid, Mode, OFlags, RawDir, RenameFlags, ResolveFlags,
    SeekFrom, Stat, StatVfs, Timestamps, Uid, XattrFlags, chmod, chownat, fallocate, fdatasync,
    fstat, fstatvfs, fsync, ftruncate, getxattr, linkat, listxattr, mkdirat, mknodat, openat,
    openat2, readlinkat, removexattr, renameat_with, seek, setxattr, symlinkat, unlinkat,
    utimensat,
};
use rustix::io::{Errno, pread, pwrite};

use super::nodes::{Key, Nodes, ROOT};
use crate::sys::fd::path as proc_path;

/// Longest value of an extended attribute (XATTR_SIZE_MAX of linux/limits.h).
const MAX_XATTR: usize = 65536;
const DIR_BUFFER: usize = 8192;
/// Flags of open(2) that a file is opened with if asked.
const OPEN_FLAGS: OFlags = OFlags::RDWR
    .union(OFlags::WRONLY)
    .union(OFlags::APPEND)
    .union(OFlags::TRUNC);

/// Result of an operation.
pub(super) type Result<T> = std::result::Result<T, Errno>;

/// The container's root file system. What takes long is done without a lock: the container may hold whatever is touched.
#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
    nodes: Mutex<Nodes>,
    handles: Mutex<Handles>,
}

#[derive(Debug)]
struct Handles {
    open: HashMap<u64, Handle>,
    last: u64,
}

#[derive(Debug, Clone)]
struct Handle {
    fd: Arc<OwnedFd>,
    node: u64,
}

/// One entry of a directory.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) number: u64,
    pub(super) kind: FileType,
    pub(super) name: OsString,
    /// Where to go on behind it.
    pub(super) next: u64,
}

/// What setattr(FUSE) changes; `None` stays.
#[derive(Debug, Default)]
pub(super) struct Change {
    pub(super) mode: Option<u32>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) size: Option<u64>,
    pub(super) times: Option<Timestamps>,
}

impl AsFd for Tree {
    /// Its root.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

impl Tree {
    /// Serves what is mounted at `root`, by numbers above `last`.
    pub(super) fn new(root: OwnedFd, last: u64) -> Result<Tree> {
        let stat = fstat(&root)?;
        let handles = Handles {
            open: HashMap::new(),
            last,
        };
        Ok(Tree {
            root,
            nodes: Mutex::new(Nodes::new(key(&stat), last)),
            handles: Mutex::new(handles),
        })
    }

    /// Finds `name` in a directory; the kernel is told of it.
    pub(super) fn lookup(&self, parent: u64, name: &OsStr) -> Result<(u64, Stat)> {
        let directory = self.open(parent)?;
        let stat = fstat(below(
            &directory,
            Path::new(component(name)?),
            OFlags::PATH,
        )?)?;
        Ok((self.nodes().found(key(&stat), parent, name), stat))
    }

    pub(super) fn forget(&self, node: u64, count: u64) {
        self.nodes().forget(node, count);
    }

    /// Attributes of a node; one that has no name any more is known by its handles.
    pub(super) fn stat(&self, node: u64, handle: Option<u64>) -> Result<Stat> {
        if let Some(fd) = handle.and_then(|handle| self.fd(handle).ok()) {
            return fstat(fd);
        }
        self.open(node).and_then(fstat).or_else(|errno| {
            let nameless = |handle: &&Handle| handle.node == node;
            let handle = self.handles().open.values().find(nameless).cloned();
            handle.map_or(Err(errno), |handle| fstat(handle.fd))
        })
    }

    pub(super) fn change(&self, node: u64, handle: Option<u64>, change: Change) -> Result<Stat> {
        let fd = match handle.and_then(|handle| self.fd(handle).ok()) {
            Some(fd) => fd,
            None => Arc::new(self.open(node)?),
        };
        if change.uid.is_some() || change.gid.is_some() {
            let (uid, gid) = (change.uid.map(Uid::from_raw), change.gid.map(Gid::from_raw));
            chownat(&fd, "", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if let Some(mode) = change.mode {
            chmod(proc_path(&fd), Mode::from_raw_mode(mode))?;
        }
        if let Some(size) = change.size {
            ftruncate(reopen(&fd, OFlags::WRONLY, FileType::RegularFile)?, size)?;
        }
        if let Some(times) = &change.times {
            utimensat(&fd, "", times, AtFlags::EMPTY_PATH)?;
        }
        fstat(fd)
    }

    pub(super) fn readlink(&self, node: u64) -> Result<Vec<u8>> {
        Ok(readlinkat(self.open(node)?, "", Vec::new())?.into_bytes())
    }

    /// A pipe, a socket or a file. Devices are the host's.
    pub(super) fn mknod(&self, parent: u64, name: &OsStr, mode: u32) -> Result<(u64, Stat)> {
        let kind = FileType::from_raw_mode(mode);
        if !matches!(
            kind,
            FileType::Fifo | FileType::Socket | FileType::RegularFile
        ) {
            return Err(Errno::PERM);
        }
        let directory = self.open(parent)?;
        mknodat(
            directory,
            component(name)?,
            kind,
            Mode::from_raw_mode(mode),
            0,
        )?;
        self.lookup(parent, name)
    }

    pub(super) fn mkdir(&self, parent: u64, name: &OsStr, mode: u32) -> Result<(u64, Stat)> {
        mkdirat(
            self.open(parent)?,
            component(name)?,
            Mode::from_raw_mode(mode),
        )?;
        self.lookup(parent, name)
    }

    pub(super) fn symlink(&self, parent: u64, name: &OsStr, target: &Path) -> Result<(u64, Stat)> {
        symlinkat(target, self.open(parent)?, component(name)?)?;
        self.lookup(parent, name)
    }

    pub(super) fn link(&self, node: u64, parent: u64, name: &OsStr) -> Result<(u64, Stat)> {
        // By its descriptor (AT_EMPTY_PATH) only the host's root may, before Linux 6.10.
        let (file, directory) = (self.open(node)?, self.open(parent)?);
        let flags = AtFlags::SYMLINK_FOLLOW;
        linkat(CWD, proc_path(&file), directory, component(name)?, flags)?;
        self.lookup(parent, name)
    }

    /// Removes a name, a directory's with [`AtFlags::REMOVEDIR`].
    pub(super) fn unlink(&self, parent: u64, name: &OsStr, flags: AtFlags) -> Result<()> {
        unlinkat(self.open(parent)?, component(name)?, flags)
    }

    pub(super) fn rename(&self, from: (u64, &OsStr), to: (u64, &OsStr), flags: u32) -> Result<()> {
        let flags = RenameFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        // A whiteout is a device.
        if flags.contains(RenameFlags::WHITEOUT) {
            return Err(Errno::INVAL);
        }
        let (old, new) = (self.open(from.0)?, self.open(to.0)?);
        renameat_with(&old, component(from.1)?, &new, component(to.1)?, flags)
    }

    /// Opens a regular file; `flags` are those of open(2).
    pub(super) fn open_file(&self, node: u64, flags: i32) -> Result<u64> {
        let flags = OFlags::from_bits_truncate(flags.unsigned_abs()) & OPEN_FLAGS;
        let fd = reopen(self.open(node)?, flags, FileType::RegularFile)?;
        Ok(self.handle(fd, node))
    }

    /// Opens a directory.
    pub(super) fn open_directory(&self, node: u64) -> Result<u64> {
        let fd = reopen(self.open(node)?, OFlags::RDONLY, FileType::Directory)?;
        Ok(self.handle(fd, node))
    }

    /// Makes a regular file and opens it; one that is there already is opened, unless `flags` have O_EXCL.
    pub(super) fn create(
        &self,
        parent: u64,
        name: &OsStr,
        mode: u32,
        flags: i32,
    ) -> Result<(u64, Stat, u64)> {
        let asked = OFlags::from_bits_truncate(flags.unsigned_abs());
        let new = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = openat(
            self.open(parent)?,
            component(name)?,
            (asked & OPEN_FLAGS) | new,
            Mode::from_raw_mode(mode),
        );
        match made {
            Ok(fd) => {
                let stat = fstat(&fd)?;
                let node = self.nodes().found(key(&stat), parent, name);
                Ok((node, stat, self.handle(fd, node)))
            }
            Err(Errno::EXIST) if !asked.contains(OFlags::EXCL) => {
                let (node, stat) = self.lookup(parent, name)?;
                // The kernel is not told of it where opening fails.
                let handle = self
                    .open_file(node, flags)
                    .inspect_err(|_| self.nodes().forget(node, 1))?;
                Ok((node, stat, handle))
            }
            Err(errno) => Err(errno),
        }
    }

    pub(super) fn read(&self, handle: u64, offset: u64, size: u32) -> Result<Vec<u8>> {
        let fd = self.fd(handle)?;
        let mut data = vec![0; usize::try_from(size).map_err(|_| Errno::INVAL)?];
        let mut length = 0;
        // Short only at the end of the file: the kernel takes the rest for it.
        while let Some(rest) = data.get_mut(length..).filter(|rest| !rest.is_empty()) {
            match pread(&fd, rest, offset + length as u64) {
                Ok(0) => break,
                Ok(more) => length += more,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        data.truncate(length);
        Ok(data)
    }

    pub(super) fn write(&self, handle: u64, offset: u64, data: &[u8]) -> Result<usize> {
        pwrite(self.fd(handle)?, data, offset)
    }

    pub(super) fn fsync(&self, handle: u64, data_only: bool) -> Result<()> {
        let fd = self.fd(handle)?;
        if data_only { fdatasync(fd) } else { fsync(fd) }
    }

    pub(super) fn fallocate(&self, handle: u64, offset: u64, length: u64, mode: i32) -> Result<()> {
        let mode = FallocateFlags::from_bits(mode.unsigned_abs()).ok_or(Errno::OPNOTSUPP)?;
        fallocate(self.fd(handle)?, mode, offset, length)
    }

    pub(super) fn release(&self, handle: u64) {
        let closed = self.handles().open.remove(&handle);
        // Not under the lock.
        drop(closed);
    }

    /// Entries of an open directory from `offset` on, as many as the kernel gives at a time.
    pub(super) fn read_directory(&self, handle: u64, offset: u64) -> Result<Vec<Entry>> {
        let fd = self.fd(handle)?;
        seek(&fd, SeekFrom::Start(offset))?;
        let mut buffer = [MaybeUninit::uninit(); DIR_BUFFER];
        let mut entries = RawDir::new(&*fd, &mut buffer);
        let mut all = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = entry?;
            all.push(Entry {
                number: entry.ino(),
                kind: entry.file_type(),
                name: OsStr::from_bytes(entry.file_name().to_bytes()).into(),
                next: entry.next_entry_cookie(),
            });
            if entries.is_buffer_empty() {
                break;
            }
        }
        Ok(all)
    }

    pub(super) fn statfs(&self) -> Result<StatVfs> {
        fstatvfs(&self.root)
    }

    pub(super) fn set_xattr(
        &self,
        node: u64,
        name: &OsStr,
        value: &[u8],
        flags: i32,
    ) -> Result<()> {
        let name = attribute(name)?;
        let flags = XattrFlags::from_bits(flags.unsigned_abs()).ok_or(Errno::INVAL)?;
        setxattr(proc_path(&self.open(node)?), name, value, flags)
    }

    pub(super) fn xattr(&self, node: u64, name: &OsStr) -> Result<Vec<u8>> {
        let name = attribute(name)?;
        let fd = self.open(node)?;
        let mut value = vec![0; MAX_XATTR];
        let length = getxattr(proc_path(&fd), name, &mut value)?;
        value.truncate(length);
        Ok(value)
    }

    /// Names of the extended attributes that the host may read, each with its NUL.
    pub(super) fn xattrs(&self, node: u64) -> Result<Vec<u8>> {
        let fd = self.open(node)?;
        let mut names = vec![0; MAX_XATTR];
        let length = listxattr(proc_path(&fd), &mut names)?;
        names.truncate(length);
        Ok(names
            .split_inclusive(|byte| *byte == 0)
            .filter(|name| !name.starts_with(TRUSTED.as_bytes()))
            .flatten()
            .copied()
            .collect())
    }

    pub(super) fn remove_xattr(&self, node: u64, name: &OsStr) -> Result<()> {
        removexattr(proc_path(&self.open(node)?), attribute(name)?)
    }

    /// O_PATH descriptor of a node, if it is still what the kernel knows it as.
    fn open(&self, node: u64) -> Result<OwnedFd> {
        let (path, known) = self.nodes().path(node)?;
        let fd = below(&self.root, &path, OFlags::PATH)?;
        if node != ROOT && key(&fstat(&fd)?) != known {
            return Err(Errno::STALE);
        }
        Ok(fd)
    }

    fn handle(&self, fd: OwnedFd, node: u64) -> u64 {
        let mut handles = self.handles();
        handles.last += 1;
        let (last, fd) = (handles.last, Arc::new(fd));
        handles.open.insert(last, Handle { fd, node });
        last
    }

    fn fd(&self, handle: u64) -> Result<Arc<OwnedFd>> {
        let handles = self.handles();
        let handle = handles.open.get(&handle).ok_or(Errno::BADF)?;
        Ok(Arc::clone(&handle.fd))
    }

    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        // A panic leaves at most a node too many.
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handles(&self) -> MutexGuard<'_, Handles> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Attributes that are overlayfs's own, and the kernel's secrets.
const TRUSTED: &str = "trusted.";

fn attribute(name: &OsStr) -> Result<&str> {
    let name = name.to_str().ok_or(Errno::INVAL)?;
    if name.starts_with(TRUSTED) {
        return Err(Errno::OPNOTSUPP);
    }
    Ok(name)
}

fn key(stat: &Stat) -> Key {
    (stat.st_dev, stat.st_ino)
}

/// One component of a path.
fn component(name: &OsStr) -> Result<&OsStr> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') {
        return Err(Errno::INVAL);
    }
    Ok(name)
}

/// Opens `path` below `directory`; no link in it is followed, the last one is opened itself.
fn below(directory: &OwnedFd, path: &Path, flags: OFlags) -> Result<OwnedFd> {
    openat2(
        directory,
        path,
        flags | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )
}

/// Opens what O_PATH descriptor `fd` refers to, which must be of this kind.
fn reopen(fd: impl AsFd, flags: OFlags, kind: FileType) -> Result<OwnedFd> {
    if FileType::from_raw_mode(fstat(&fd)?.st_mode) != kind {
        return Err(Errno::INVAL);
    }
    let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK;
    openat(CWD, proc_path(&fd), flags, Mode::empty())
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
