//! The lock file of a range, and the directory of them.

use std::fs::DirBuilder;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
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

/// A lock file that we hold.
#[derive(Debug)]
pub(super) struct LockFile {
    dir: OwnedFd,
    path: PathBuf,
    name: String,
    pub(super) file: std::fs::File,
}

impl Directory {
    pub(super) fn make(state_dir: &Path) -> Result<Directory> {
        private_directory(state_dir)?;
        let path = state_dir.join("ranges");
        let fd = private_directory(&path)?;
        Ok(Directory { path, fd })
    }

    /// All of these, or none.
    pub(super) fn lock_all(
        &self,
        units: impl Iterator<Item = u32>,
    ) -> Result<Option<Vec<LockFile>>> {
        // The first that is missing ends it, and drops what was taken.
        units.map(|first| self.lock(first)).collect()
    }

    /// Locks the file `first`; `None` while somebody has it or a process of its last owner lives.
    pub(super) fn lock(&self, first: u32) -> Result<Option<LockFile>> {
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
            if fstat(&file).os("fstat", path.display())?.st_nlink == 0 {
                continue;
            }
            let file = LockFile {
                dir: self.fd.try_clone().os("dup", self.path.display())?,
                path,
                name,
                file: file.into(),
            };
            return Ok(file.is_abandoned().then_some(file));
        }
    }
}

impl LockFile {
    /// Whether no process of the recorded owner or of a guest lives. What cannot be told counts as living.
    fn is_abandoned(&self) -> bool {
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        guest::is_in(dir, &self.name).is_ok_and(|guest| !guest) && owner_is_gone(&self.file)
    }

    /// The record is the first line and written before the file is cut to its length, so that being killed at any moment
    /// leaves a whole one.
    pub(super) fn write(&self, owner: &Owner) -> Result<()> {
        let mut line = serde_json::to_vec(owner)
            .map_err(std::io::Error::from)
            .os("encode", self.path.display())?;
        line.push(b'\n');
        let mut file = &self.file;
        file.rewind()
            .and_then(|()| file.write_all(&line))
            .os("write", self.path.display())?;
        ftruncate(&self.file, line.len() as u64).os("truncate", self.path.display())
    }
}

impl Drop for LockFile {
    /// Removes the file while it is still locked, unless a process of the recorded owner lives: then the record is what
    /// keeps others away.
    fn drop(&mut self) {
        if !self.is_abandoned() {
            return;
        }
        if let Err(error) = unlinkat(&self.dir, &*self.name, AtFlags::empty()) {
            tracing::warn!(path = %self.path.display(), %error, "left a range's lock file behind");
        }
    }
}

/// Whether no process of the owner that a lock file names lives. What cannot be told counts as living.
pub(super) fn owner_is_gone(file: &std::fs::File) -> bool {
    match read(file) {
        Ok(None) => true,
        Ok(Some(owner)) if owner.cgroups.is_empty() => true,
        Ok(Some(owner)) => Hierarchy::find().is_ok_and(|hierarchy| {
            let mut cgroups = owner.cgroups.iter();
            cgroups.all(|cgroup| is_empty(&hierarchy, cgroup))
        }),
        Err(_) => false,
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
