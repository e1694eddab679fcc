//! Walks of trees that somebody else made, of any size and depth: one descriptor, and memory with a bound.
//!
//! Depth first. The way back up is `..`, looked at before it is trusted, so neither depth nor the length of a path matters.
//! Of the directories ahead a walk remembers a share, and where in the directory the others begin.

use std::collections::VecDeque;
use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, SeekFrom, fstat, openat, openat2, seek,
    statat,
};
use rustix::io::Errno;

use crate::error::{OsContext, Result};

/// What getdents64(2) fills at once.
const BUFFER: usize = 32 * 1024;
/// The least, for one name of 255 bytes.
const SMALL_BUFFER: usize = 2 * 1024;
/// Bytes that remembered names take, on all levels together; each level takes at most half of what is left, and one name.
const AHEAD: usize = 512 * 1024;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Who is told what a walk meets.
pub(super) trait Visitor {
    /// What `dir` has at `name`, which is no directory.
    fn entry(&mut self, dir: &OwnedFd, name: &CStr, kind: FileType) -> Result<()>;

    /// Directory `dir`, which its parent has at `name`; false passes it by.
    fn enter(&mut self, dir: &OwnedFd, name: &CStr) -> Result<bool>;

    /// All below `dir` has been met. Not for the top.
    fn leave(&mut self, dir: &OwnedFd) -> Result<()>;
}

/// Walks all below `top`; `resolve` says what a directory's name may not be.
pub(super) fn walk(top: &OwnedFd, resolve: ResolveFlags, visitor: &mut impl Visitor) -> Result<()> {
    let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
    let mut dir = openat(top, ".", DIRECTORY, Mode::empty()).os("open", "top of a tree")?;
    let mut held = 0;
    let mut levels = vec![Level::new(&dir, &mut held, &mut buffer, visitor)?];
    while let Some(level) = levels.last_mut() {
        if let Some(name) = level.next(&dir, &mut held, &mut buffer)? {
            let below = openat2(&dir, &*name, DIRECTORY, Mode::empty(), resolve)
                .os("open", name.to_string_lossy())?;
            if visitor.enter(&below, &name)? {
                levels.push(Level::new(&below, &mut held, &mut buffer, visitor)?);
                dir = below;
            }
        } else {
            levels.pop();
            if let Some(parent) = levels.last() {
                visitor.leave(&dir)?;
                dir = parent.above(&dir)?;
            }
        }
    }
    Ok(())
}

/// A directory on the way.
struct Level {
    /// Device and inode.
    id: (u64, u64),
    /// Directories in it that are ahead.
    names: VecDeque<CString>,
    /// Where those begin that are not remembered.
    rest: Option<u64>,
}

impl Level {
    /// Tells of what is in `dir`.
    fn new(
        dir: &OwnedFd,
        held: &mut usize,
        buffer: &mut [MaybeUninit<u8>],
        visitor: &mut impl Visitor,
    ) -> Result<Level> {
        let stat = fstat(dir).os("stat", "directory")?;
        let mut level = Level {
            id: (stat.st_dev, stat.st_ino),
            names: VecDeque::new(),
            rest: None,
        };
        let share = AHEAD.saturating_sub(*held) / 2;
        level.read(dir, 0, share, held, buffer, Some(visitor))?;
        Ok(level)
    }

    fn next(
        &mut self,
        dir: &OwnedFd,
        held: &mut usize,
        buffer: &mut [MaybeUninit<u8>],
    ) -> Result<Option<CString>> {
        if self.names.is_empty()
            && let Some(rest) = self.rest.take()
        {
            let share = AHEAD.saturating_sub(*held) / 2;
            let size = (4 * share).clamp(SMALL_BUFFER, BUFFER).min(buffer.len());
            let buffer = buffer.get_mut(..size).unwrap_or_default();
            seek(dir, SeekFrom::Start(rest)).os("seek", "directory")?;
            self.read(dir, rest, share, held, buffer, None::<&mut Nobody>)?;
        }
        let name = self.names.pop_front();
        if let Some(name) = &name {
            *held = held.saturating_sub(cost(name));
        }
        Ok(name)
    }

    /// Reads on from `at`: all of it where a visitor is to be told, else until the share is full.
    fn read(
        &mut self,
        dir: &OwnedFd,
        mut at: u64,
        share: usize,
        held: &mut usize,
        buffer: &mut [MaybeUninit<u8>],
        mut visitor: Option<&mut impl Visitor>,
    ) -> Result<()> {
        let mut taken = 0;
        let mut entries = RawDir::new(dir, buffer);
        while let Some(entry) = entries.next() {
            let entry = entry.os("read", "directory")?;
            let name = entry.file_name();
            let begins = std::mem::replace(&mut at, entry.next_entry_cookie());
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let kind = match entry.file_type() {
                // The file system does not tell.
                FileType::Unknown => match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    Err(Errno::NOENT) => continue,
                    Err(errno) => return Err(errno).os("stat", name.to_string_lossy()),
                },
                kind => kind,
            };
            match (kind, &mut visitor) {
                (FileType::Directory, _) if self.rest.is_none() => {
                    if self.names.is_empty() || taken < share {
                        taken += cost(name);
                        *held += cost(name);
                        self.names.push_back(name.to_owned());
                        continue;
                    }
                    self.rest = Some(begins);
                    if visitor.is_none() {
                        return Ok(());
                    }
                }
                (FileType::Directory, _) | (_, None) => {}
                (kind, Some(visitor)) => visitor.entry(dir, name, kind)?,
            }
        }
        Ok(())
    }

    /// This directory again, which `below` is in.
    fn above(&self, below: &OwnedFd) -> Result<OwnedFd> {
        let dir = openat(below, "..", DIRECTORY, Mode::empty()).os("open", "parent")?;
        let stat = fstat(&dir).os("stat", "parent")?;
        if (stat.st_dev, stat.st_ino) != self.id {
            return Err(Errno::STALE).os("walk", "a directory that was moved meanwhile");
        }
        Ok(dir)
    }
}

/// Bytes that a remembered name takes, about.
fn cost(name: &CStr) -> usize {
    name.count_bytes() + 48
}

/// For a directory whose other entries have been met.
struct Nobody;

impl Visitor for Nobody {
    fn entry(&mut self, _: &OwnedFd, _: &CStr, _: FileType) -> Result<()> {
        Ok(())
    }

    fn enter(&mut self, _: &OwnedFd, _: &CStr) -> Result<bool> {
        Ok(false)
    }

    fn leave(&mut self, _: &OwnedFd) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Count {
        entries: usize,
        entered: usize,
        depth: usize,
        deepest: usize,
    }

    impl Visitor for Count {
        fn entry(&mut self, dir: &OwnedFd, name: &CStr, _: FileType) -> Result<()> {
            statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).os("stat", "entry")?;
            self.entries += 1;
            Ok(())
        }

        fn enter(&mut self, _: &OwnedFd, name: &CStr) -> Result<bool> {
            if name == c"passed by" {
                return Ok(false);
            }
            self.entered += 1;
            self.depth += 1;
            self.deepest = self.deepest.max(self.depth);
            Ok(true)
        }

        fn leave(&mut self, _: &OwnedFd) -> Result<()> {
            self.depth -= 1;
            Ok(())
        }
    }

    fn count(dir: &std::path::Path) -> Count {
        let top = rustix::fs::open(dir, DIRECTORY, Mode::empty()).unwrap();
        let mut count = Count::default();
        walk(&top, ResolveFlags::BENEATH, &mut count).unwrap();
        assert_eq!(count.depth, 0);
        count
    }

    #[test]
    fn everything_is_met_once() {
        let dir = tempfile::tempdir().unwrap();
        // More names than a level remembers, on two levels, with files between.
        let top = dir.path();
        for at in [top.to_owned(), top.join("below")] {
            std::fs::create_dir_all(at.join("passed by/not met")).unwrap();
            for number in 0..1200 {
                std::fs::create_dir(at.join(format!("{number}{}", "n".repeat(200)))).unwrap();
                std::fs::write(at.join(format!("file{number}")), "").unwrap();
            }
        }
        std::os::unix::fs::symlink("below", top.join("link")).unwrap();
        let seen = count(dir.path());
        assert_eq!((seen.entries, seen.entered, seen.deepest), (2401, 2401, 2));
    }

    #[test]
    fn depth_costs_no_descriptor() {
        let dir = tempfile::tempdir().unwrap();
        let mut at = rustix::fs::open(dir.path(), DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..1200 {
            rustix::fs::mkdirat(&at, "deep", Mode::RWXU).unwrap();
            at = openat(&at, "deep", DIRECTORY, Mode::empty()).unwrap();
        }
        rustix::fs::mknodat(&at, "file", FileType::RegularFile, Mode::RWXU, 0).unwrap();
        let seen = count(dir.path());
        assert_eq!((seen.entries, seen.deepest), (1, 1200));
        // std's own removal needs a descriptor for each level.
        rustix::fs::unlinkat(&at, "file", AtFlags::empty()).unwrap();
        for _ in 0..1200 {
            at = openat(&at, "..", DIRECTORY, Mode::empty()).unwrap();
            rustix::fs::unlinkat(&at, "deep", AtFlags::REMOVEDIR).unwrap();
        }
    }
}
