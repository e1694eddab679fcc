//! Containers that join the user namespace of another pod (`docker run --network container:X`): they use its range, and
//! may outlive it. A file `<first id>.<digest of the cgroup>` beside the range's lock file says so, and keeps the range from
//! being handed out while somebody holds its lock or a process in that cgroup lives.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, openat, unlinkat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::lock::{Directory, is_empty};
use super::reclaim;
use crate::cgroup::Hierarchy;
use crate::error::{OsContext, Result};

/// A container's stay in another pod's range, until dropped.
#[derive(Debug)]
pub struct Guest {
    state_dir: PathBuf,
    first: u32,
    cgroup: String,
    /// Holds the lock.
    _file: OwnedFd,
}

impl Guest {
    /// Notes that the container in `cgroup` uses the range from `first` on, before a process of it runs; `None` where
    /// that is no range of ours. The range is safe if its owner lives when this has returned.
    pub fn enter(state_dir: &Path, first: u32, cgroup: &str) -> Result<Option<Guest>> {
        let dir = Directory::make(state_dir)?;
        if !dir.path.join(first.to_string()).exists() {
            return Ok(None);
        }
        let name = format!("{first}.{}", digest(cgroup));
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file =
            openat(&dir.fd, &*name, flags, Mode::from_raw_mode(0o600)).os("create", &name)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).os("flock", &name)?;
        rustix::io::write(&file, cgroup.as_bytes()).os("write", &name)?;
        Ok(Some(Guest {
            state_dir: state_dir.into(),
            first,
            cgroup: cgroup.into(),
            _file: file,
        }))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Err(error) = leave(&self.state_dir, self.first, &self.cgroup) {
            tracing::warn!(
                first = self.first,
                error = error.chain(),
                "left a range's guest behind"
            );
        }
    }
}

/// Ends the stay, and the range if its owner has gone.
fn leave(state_dir: &Path, first: u32, cgroup: &str) -> Result<()> {
    let dir = Directory::make(state_dir)?;
    let name = format!("{first}.{}", digest(cgroup));
    match unlinkat(&dir.fd, &*name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno).os("unlink", &name),
    }
    reclaim(state_dir, first)
}

/// The same for whatever range the container in `cgroup`, whose shim has died, was a guest in.
pub(super) fn leave_any(state_dir: &Path, cgroup: &str) -> Result<()> {
    let digest = digest(cgroup);
    for (first, guest, _) in all(&state_dir.join("ranges"))? {
        if guest == digest {
            leave(state_dir, first, cgroup)?;
        }
    }
    Ok(())
}

/// Whether a guest is in the range from `first` on.
pub(super) fn is_in(dir: &Path, first: &str) -> Result<bool> {
    for (range, _, path) in all(dir)? {
        if range.to_string() != first {
            continue;
        }
        let Ok(file) = std::fs::File::open(&path) else {
            // It has just left.
            continue;
        };
        if flock(&file, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK) {
            return Ok(true);
        }
        let cgroup = std::io::read_to_string(file).os("read", path.display())?;
        if !cgroup.is_empty() && !is_empty(&Hierarchy::find()?, &cgroup) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// First id, digest and file of every guest.
fn all(dir: &Path) -> Result<Vec<(u32, String, PathBuf)>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.os("list", dir.display())?,
    };
    Ok(entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let (first, digest) = name.split_once('.')?;
            Some((first.parse().ok()?, digest.to_owned(), entry.path()))
        })
        .collect())
}

/// A name for a cgroup: its path may be longer than a file name.
fn digest(cgroup: &str) -> String {
    let digest = Sha256::digest(cgroup);
    digest
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
