//! Walks of a container's subtree, which the container fills as it likes: thousands of cgroups, any depth the cap
//! allows, names of any bytes, all changing meanwhile.
//!
//! One descriptor is open at a time and the way back up is `..`, so neither depth nor the length of a path matters:
//! cgroup2 has no rename, so a directory's parent never changes.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fstat, openat, statat, unlinkat};
use rustix::io::{Errno, Result};

use super::file;

/// Opens directory `name` below `dir`.
pub(super) fn open(dir: BorrowedFd<'_>, name: impl rustix::path::Arg) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    openat(dir, name, flags, Mode::empty())
}

/// Whether the error says that the cgroup has been removed meanwhile.
pub(super) fn is_gone(error: Errno) -> bool {
    matches!(error, Errno::NOENT | Errno::NODEV)
}

/// Whether `name` in `parent` is still the directory `dir`; the kernel gives no inode number twice.
pub(super) fn is_at(parent: BorrowedFd<'_>, name: &str, dir: BorrowedFd<'_>) -> bool {
    let at = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
    matches!((at, fstat(dir)), (Ok(at), Ok(held)) if at.st_ino == held.st_ino && at.st_dev == held.st_dev)
}

/// Removes every cgroup below `dir`, deepest first. False: one is in use, or was made meanwhile.
pub(super) fn remove_below(dir: BorrowedFd<'_>) -> Result<bool> {
    let mut all = true;
    walk(
        dir,
        |_| Ok(()),
        |parent, name| {
            match unlinkat(parent, name, AtFlags::REMOVEDIR) {
                Ok(()) => {}
                Err(error) if is_gone(error) => {}
                Err(Errno::BUSY | Errno::NOTEMPTY) => all = false,
                Err(error) => return Err(error),
            }
            Ok(())
        },
    )?;
    Ok(all)
}

/// Pids of all processes in `dir` and below, in the reader's pid namespace, each once.
pub(super) fn pids(dir: BorrowedFd<'_>) -> Result<BTreeSet<u32>> {
    let mut pids = BTreeSet::new();
    walk(
        dir,
        |cgroup| {
            match file::read(cgroup, "cgroup.procs") {
                // 0: a process that the reader's pid namespace does not hold.
                Ok(text) => pids.extend(
                    text.lines()
                        .filter_map(|line| line.parse::<u32>().ok())
                        .filter(|pid| *pid != 0),
                ),
                // A threaded cgroup lists its processes in its domain, which is above it and in this tree.
                Err(Errno::OPNOTSUPP) => {}
                Err(error) if is_gone(error) => {}
                Err(error) => return Err(error),
            }
            Ok(())
        },
        |_, _| Ok(()),
    )?;
    Ok(pids)
}

/// Calls `enter` on `root` and every directory below it, parents first, and `leave` on every directory below it by its
/// parent and name, children first. What vanishes meanwhile is skipped.
fn walk(
    root: BorrowedFd<'_>,
    mut enter: impl FnMut(BorrowedFd<'_>) -> Result<()>,
    mut leave: impl FnMut(BorrowedFd<'_>, &CStr) -> Result<()>,
) -> Result<()> {
    enter(root)?;
    let mut dir = open(root, ".")?;
    let mut path: Vec<CString> = Vec::new();
    let mut pending = vec![subdirectories(dir.as_fd())?];
    while let Some(names) = pending.last_mut() {
        if let Some(name) = names.pop() {
            match open(dir.as_fd(), &*name) {
                Ok(child) => {
                    enter(child.as_fd())?;
                    pending.push(subdirectories(child.as_fd())?);
                    path.push(name);
                    dir = child;
                }
                Err(error) if is_gone(error) => {}
                Err(error) => return Err(error),
            }
        } else {
            pending.pop();
            if let Some(name) = path.pop() {
                dir = open(dir.as_fd(), "..")?;
                leave(dir.as_fd(), &name)?;
            }
        }
    }
    Ok(())
}

fn subdirectories(dir: BorrowedFd<'_>) -> Result<Vec<CString>> {
    let entries = match Dir::read_from(dir) {
        Ok(entries) => entries,
        Err(error) if is_gone(error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        match entry {
            Ok(entry) if entry.file_type() == FileType::Directory => {
                let name = entry.file_name();
                if name != c"." && name != c".." {
                    names.push(name.to_owned());
                }
            }
            Ok(_) => {}
            Err(error) if is_gone(error) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(names)
}
