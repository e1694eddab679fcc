//! The lock files of a range, and the directory of them.

use std::cell::{Cell, RefCell};
use std::fs::DirBuilder;
use std::io::{Read, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FlockOperation, Mode, OFlags, flock, fstat, ftruncate, openat, unlinkat,
};
use rustix::io::Errno;

use super::{Owner, guest};
use crate::cgroup::{Cgroup, Hierarchy};
use crate::error::{Error, OsContext, Result};

/// `<state dir>/ranges`
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) path: PathBuf,
    pub(super) fd: OwnedFd,
}

/// Lock files that we hold. Dropping them removes them.
#[derive(Debug)]
pub(super) struct Locks {
    dir: OwnedFd,
    path: PathBuf,
    pub(super) files: Vec<LockFile>,
    /// What we have written into all of them.
    owner: RefCell<Option<Owner>>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct LockFile {
    first: u32,
    pub(super) file: std::fs::File,
    /// Nobody but us writes, as long as we hold the lock.
    length: Cell<usize>,
}

impl Directory {
    pub(super) fn make(state_dir: &Path) -> Result<Directory> {
        private_directory(state_dir)?;
        let path = state_dir.join("ranges");
        let fd = private_directory(&path)?;
        Ok(Directory { path, fd })
    }

    /// Locks all of these, or none: `None` while somebody has one of them or a process of its last owner lives.
    pub(super) fn lock(&self, units: impl IntoIterator<Item = u32>) -> Result<Option<Locks>> {
        let mut locks = Locks {
            dir: self.fd.try_clone().os("dup", self.path.display())?,
            path: self.path.clone(),
            files: Vec::new(),
            owner: RefCell::default(),
        };
        for first in units {
            match self.take(first)? {
                Some(file) => locks.files.push(file),
                None => return Ok(None),
            }
        }
        let free = locks.abandoned().iter().all(|abandoned| *abandoned);
        Ok(free.then_some(locks))
    }

    /// Locks the file `first`; `None` while somebody has it.
    fn take(&self, first: u32) -> Result<Option<LockFile>> {
        let name = first.to_string();
        let path = self.path.join(&name);
        loop {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let mode = Mode::from_raw_mode(0o600);
            let file = openat(&self.fd, &*name, flags, mode).os("open", path.display())?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(error).os("flock", path.display()),
            }
            // Its last owner may have removed it between our open and our lock.
            let stat = fstat(&file).os("fstat", path.display())?;
            if stat.st_nlink > 0 {
                return Ok(Some(LockFile {
                    first,
                    file: file.into(),
                    length: Cell::new(usize::try_from(stat.st_size).unwrap_or_default()),
                }));
            }
        }
    }
}

impl Locks {
    /// Writes the record into each. It is the first line and written before the file is cut to its length, so that being
    /// killed at any moment leaves a whole one.
    pub(super) fn record(&self, owner: &Owner) -> Result<()> {
        let mut line = serde_json::to_vec(owner)
            .map_err(std::io::Error::from)
            .os("encode", self.path.display())?;
        line.push(b'\n');
        for lock in &self.files {
            lock.file
                .write_all_at(&line, 0)
                .os("write lock file", lock.first)?;
            if lock.length.replace(line.len()) > line.len() {
                ftruncate(&lock.file, line.len() as u64).os("truncate lock file", lock.first)?;
            }
        }
        self.owner.replace(Some(owner.clone()));
        Ok(())
    }

    /// Of each file, whether no process of the recorded owner or of a guest lives. What cannot be told counts as living.
    fn abandoned(&self) -> Vec<bool> {
        // Looked for after the locks were taken, for a guest leaves its note before it looks at them.
        let Ok(guests) = guest::all(&self.path) else {
            return vec![false; self.files.len()];
        };
        // Mostly one owner has them all.
        let mut known: Option<(Option<Owner>, bool)> = None;
        let mut is_abandoned = |lock: &LockFile| {
            if !guest::is_in(&guests, lock.first).is_ok_and(|guest| !guest) {
                return false;
            }
            let Ok(owner) = self.owner_in(lock) else {
                return false;
            };
            match &known {
                Some((last, gone)) if *last == owner => *gone,
                _ => {
                    let gone = is_gone(owner.as_ref());
                    known = Some((owner, gone));
                    gone
                }
            }
        };
        self.files.iter().map(&mut is_abandoned).collect()
    }

    fn owner_in(&self, lock: &LockFile) -> std::io::Result<Option<Owner>> {
        match &*self.owner.borrow() {
            None if lock.length.get() > 0 => read(&lock.file),
            known => Ok(known.clone()),
        }
    }
}

impl Drop for Locks {
    /// Removes each file while it is still locked, unless a process of the recorded owner lives: then the record is what
    /// keeps others away.
    fn drop(&mut self) {
        for (lock, abandoned) in self.files.iter().zip(self.abandoned()) {
            if !abandoned {
                continue;
            }
            if let Err(error) = unlinkat(&self.dir, lock.first.to_string(), AtFlags::empty()) {
                let path = self.path.join(lock.first.to_string());
                tracing::warn!(path = %path.display(), %error, "left a range's lock file behind");
            }
        }
    }
}

/// Whether no process of the owner that a lock file names lives. What cannot be told counts as living.
pub(super) fn owner_is_gone(file: &std::fs::File) -> bool {
    read(file).is_ok_and(|owner| is_gone(owner.as_ref()))
}

fn is_gone(owner: Option<&Owner>) -> bool {
    match owner {
        None => true,
        Some(owner) if owner.cgroups.is_empty() => true,
        Some(owner) => Hierarchy::find().is_ok_and(|hierarchy| {
            let mut cgroups = owner.cgroups.iter();
            cgroups.all(|cgroup| is_empty(&hierarchy, cgroup))
        }),
    }
}

/// The record in a lock file; `None` where there is none yet.
pub(super) fn read(mut file: &std::fs::File) -> std::io::Result<Option<Owner>> {
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    let line = text.lines().next();
    Ok(line.map(serde_json::from_str).transpose()?)
}

/// Whether no process lives in `cgroup`, or there is no such cgroup.
pub(super) fn is_empty(hierarchy: &Hierarchy, cgroup: &str) -> bool {
    match Cgroup::open(hierarchy, cgroup) {
        Ok(cgroup) => cgroup.populated().is_ok_and(|populated| !populated),
        Err(error) => matches!(error, Error::NotFound(_)),
    }
}

/// Makes and opens a directory that only we can enter.
///
/// # Errors
/// [`Error::Invalid`] where somebody else owns it or may enter it.
fn private_directory(path: &Path) -> Result<OwnedFd> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .os("mkdir", path.display())?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = openat(CWD, path, flags, Mode::empty()).os("open", path.display())?;
    let stat = fstat(&fd).os("fstat", path.display())?;
    let us = rustix::process::geteuid().as_raw();
    if stat.st_uid != us || stat.st_mode & 0o077 != 0 {
        return Err(Error::invalid(
            "state-dir",
            format!(
                "{} (owner {}, mode {:04o})",
                path.display(),
                stat.st_uid,
                stat.st_mode & 0o7777
            ),
            format!("must belong to uid {us} with mode 0700: chown and chmod it, or name another"),
        ));
    }
    Ok(fd)
}
