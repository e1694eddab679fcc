//! Containers whose ids are not from a range of their own pod: those that join the user namespace of another pod (`docker run
//! --network container:X`) and may outlive it, and those whose ids the engine has chosen (`hostUsers: false`). A file
//! `<id>.<digest of the cgroup>` beside each lock file of the ids says so, and keeps them from being handed out while
//! somebody holds its lock or a process in that cgroup lives.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, openat, unlinkat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::lock::{Directory, is_empty, owner_is_gone};
use super::{RECLAIM_PAUSE, RECLAIM_TRIES, UNIT, reclaim, units};
use crate::cgroup::Hierarchy;
use crate::config::Ids;
use crate::error::{Error, OsContext, Result};
use crate::kernel::idmap::IdMap;

/// A container's use of ids that are not its own pod's range, until dropped.
#[derive(Debug)]
pub(crate) struct Guest {
    state_dir: PathBuf,
    cgroup: String,
    /// First ids of the lock files, and what holds the locks.
    units: Vec<(u32, OwnedFd)>,
}

impl Guest {
    /// Notes that the container in `cgroup` uses the ids of `idmap`, before a process of it runs; `None` where they are no
    /// range of ours. The range is safe if its owner lives when this has returned.
    pub(crate) fn enter(state_dir: &Path, idmap: &IdMap, cgroup: &str) -> Result<Option<Guest>> {
        let dir = Directory::make(state_dir)?;
        let wanted = units_of(idmap, 0..=u32::MAX);
        let ours = |unit: &u32| dir.path.join(unit.to_string()).exists();
        if !wanted.first().is_some_and(ours) {
            return Ok(None);
        }
        Guest::note(state_dir, &dir, wanted, cgroup).map(Some)
    }

    /// The same of ids that the engine has chosen, as far as they are in the pool `ids`.
    ///
    /// # Errors
    /// [`Error::Invalid`] names ids that a pod of ours has been given.
    pub(crate) fn claim(
        state_dir: &Path,
        ids: &Ids,
        idmap: &IdMap,
        cgroup: &str,
    ) -> Result<Option<Guest>> {
        let pool = ids.first..=ids.first.saturating_add(ids.count - 1);
        let wanted = units_of(idmap, pool);
        if wanted.is_empty() {
            return Ok(None);
        }
        let dir = Directory::make(state_dir)?;
        // Whoever is handed one of them later sees the note; whoever has one by now holds its lock.
        let guest = Guest::note(state_dir, &dir, wanted.clone(), cgroup)?;
        match wanted.iter().find(|unit| dir.has_owner(**unit)) {
            None => Ok(Some(guest)),
            Some(unit) => Err(Error::invalid(
                "linux.uidMappings",
                format!("ids {unit} to {}", u64::from(*unit) + u64::from(UNIT) - 1),
                "a pod of this runtime has them: give the kubelet a range of its own, by lines `kubelet:65536:7208960` in \
                 /etc/subuid and /etc/subgid for a user `kubelet`, with the program getsubids installed",
            )),
        }
    }

    fn note(state_dir: &Path, dir: &Directory, units: Vec<u32>, cgroup: &str) -> Result<Guest> {
        let mut guest = Guest {
            state_dir: state_dir.into(),
            cgroup: cgroup.into(),
            units: Vec::new(),
        };
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        for unit in units {
            let name = format!("{unit}.{}", digest(cgroup));
            let file =
                openat(&dir.fd, &*name, flags, Mode::from_raw_mode(0o600)).os("create", &name)?;
            flock(&file, FlockOperation::NonBlockingLockExclusive).os("flock", &name)?;
            rustix::io::write(&file, cgroup.as_bytes()).os("write", &name)?;
            guest.units.push((unit, file));
        }
        Ok(guest)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let units: Vec<_> = self.units.iter().map(|(unit, _)| *unit).collect();
        if let Err(error) = leave(&self.state_dir, &units, &self.cgroup) {
            let first = units.first();
            tracing::warn!(first, error = error.chain(), "left a range's guest behind");
        }
    }
}

impl Directory {
    /// Whether a pod has been handed the ids of the lock file `first`: somebody holds its lock for longer than who only looks,
    /// or a process of the owner that it names lives. What cannot be told counts as one.
    fn has_owner(&self, first: u32) -> bool {
        let path = self.path.join(first.to_string());
        for attempt in 0..RECLAIM_TRIES {
            if attempt > 0 {
                std::thread::sleep(RECLAIM_PAUSE);
            }
            let file = match std::fs::File::open(&path) {
                Err(error) => return error.kind() != std::io::ErrorKind::NotFound,
                Ok(file) => file,
            };
            if flock(&file, FlockOperation::NonBlockingLockShared) != Err(Errno::WOULDBLOCK) {
                return !owner_is_gone(&file);
            }
        }
        true
    }
}

/// First ids of the lock files for the host's ids of a mapping, as far as they are in `pool`.
fn units_of(idmap: &IdMap, pool: RangeInclusive<u32>) -> Vec<u32> {
    let lines = idmap.uids.iter().chain(&idmap.gids);
    let units: BTreeSet<_> = lines
        .flat_map(|line| {
            let last = line.host.saturating_add(line.size.saturating_sub(1));
            let (first, last) = (line.host.max(*pool.start()), last.min(*pool.end()));
            // Empty where the line is not in the pool.
            units(first, last.saturating_sub(first).saturating_add(1))
                .filter(move |_| first <= last)
        })
        .collect();
    units.into_iter().collect()
}

/// Ends the stay, and the range if its owner has gone.
fn leave(state_dir: &Path, units: &[u32], cgroup: &str) -> Result<()> {
    let dir = Directory::make(state_dir)?;
    for unit in units {
        let name = format!("{unit}.{}", digest(cgroup));
        match unlinkat(&dir.fd, &*name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno).os("unlink", &name),
        }
    }
    reclaim(state_dir, units)
}

/// The same for whatever range the container in `cgroup`, whose shim has died, was a guest in.
pub(super) fn leave_any(state_dir: &Path, cgroup: &str) -> Result<()> {
    let digest = digest(cgroup);
    let guests = all(&state_dir.join("ranges"))?;
    let units: Vec<_> = guests
        .iter()
        .filter(|(_, guest, _)| *guest == digest)
        .map(|(first, ..)| *first)
        .collect();
    if units.is_empty() {
        return Ok(());
    }
    leave(state_dir, &units, cgroup)
}

/// Whether one of `guests` is in the range from `first` on.
pub(super) fn is_in(guests: &[(u32, String, PathBuf)], first: u32) -> Result<bool> {
    for (_, _, path) in guests.iter().filter(|(range, ..)| *range == first) {
        let Ok(file) = std::fs::File::open(path) else {
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
pub(super) fn all(dir: &Path) -> Result<Vec<(u32, String, PathBuf)>> {
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
