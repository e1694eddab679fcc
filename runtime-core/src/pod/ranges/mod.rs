//! Exclusive ranges of host ids for pods (design D4).
//!
//! A range is lock files `<state dir>/ranges/<id>`, one for each 65536 ids, so that ranges of different sizes see each other.
//! They are held by flock(2): whoever holds them has the range, and a crash frees it. Each records who has it and the cgroups
//! of its containers, so that a range whose shim was killed but whose containers still run is not handed out again. Files
//! of free ranges are removed. Ids that an engine has chosen are kept out of others' ranges by a [`Guest`].

mod guest;
mod lock;

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::lock::{Directory, Locks};
use crate::config::Ids;
use crate::error::{Error, OsContext, Result};

pub(crate) use guest::Guest;

/// Files whose ranges belong to the host's users (subuid(5), subgid(5)).
const SUBIDS: [&str; 2] = ["/etc/subuid", "/etc/subgid"];
/// Before Kubernetes 1.30 the kubelet gave pods the ids from 65536 to 65536×(maxPods+1), and that is what its documentation
/// has administrators give to the user `kubelet` in [`SUBIDS`]. Where they did not, it takes any ids (getKubeletMappings in
/// pkg/kubelet/kubelet_pods.go), which [`Guest::claim`] deals with.
const KUBELET: RangeInclusive<u64> = 65_536..=65_536 * (4096 + 1) - 1;
/// How often and at what distance [`reclaim`] looks for a lock that somebody holds.
const RECLAIM_TRIES: u32 = 20;
const RECLAIM_PAUSE: Duration = Duration::from_millis(5);
/// The ids of one lock file, and the smallest range: what images and systemd take for granted.
const UNIT: u32 = 65_536;

/// The ranges that this host may hand out.
#[derive(Debug)]
pub(crate) struct Pool {
    ids: Ids,
    dir: Directory,
    reserved: Vec<RangeInclusive<u64>>,
}

/// A range that is ours until this value is dropped.
#[derive(Debug)]
pub(crate) struct Range {
    /// First host id.
    pub first: u32,
    /// Number of ids.
    pub count: u32,
    locks: Locks,
}

/// Who has a range.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owner {
    /// Id of the pod: its sandbox, or the only container.
    pub pod: String,
    /// cgroups of its containers, relative to the root of the hierarchy ([`Cgroup::relative`]).
    pub cgroups: BTreeSet<String>,
}

impl Pool {
    /// The pool that the configuration describes, less what `/etc/subuid`, `/etc/subgid` and the kubelet use. Makes
    /// `state_dir` if need be.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a pool without room for one range, and for a state directory that others can enter.
    pub(crate) fn new(ids: &Ids, state_dir: &Path) -> Result<Pool> {
        let mut reserved = vec![KUBELET];
        for path in SUBIDS {
            match std::fs::read(path) {
                Ok(text) => reserved.extend(subids(&String::from_utf8_lossy(&text))),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).os("read", path),
            }
        }
        Pool::without(ids, state_dir, reserved)
    }

    fn without(ids: &Ids, state_dir: &Path, reserved: Vec<RangeInclusive<u64>>) -> Result<Pool> {
        if ids.per_pod < UNIT {
            return Err(Error::invalid(
                "ids.per-pod",
                ids.per_pod,
                "give at least 65536",
            ));
        }
        // 2^32 - 1 is no id: it means "leave as it is" to chown(2).
        if u64::from(ids.first) + u64::from(ids.count) > u64::from(u32::MAX) {
            return Err(Error::invalid(
                "ids.count",
                ids.count,
                format!("first + count must not exceed {}", u32::MAX),
            ));
        }
        let pool = Pool {
            ids: ids.clone(),
            dir: Directory::make(state_dir)?,
            reserved,
        };
        if !(0..pool.slots()).any(|slot| pool.range_of(slot).is_some()) {
            return Err(Error::invalid(
                "ids",
                format!("first {} count {}", ids.first, ids.count),
                format!(
                    "leave room for {} ids beside those of /etc/subuid, /etc/subgid and the kubelet (65536 to {})",
                    ids.per_pod,
                    KUBELET.end()
                ),
            ));
        }
        Ok(pool)
    }

    /// Takes a range that nobody has. Ranges are tried from a random one on: with many in use it takes few tries, and a
    /// range is not soon handed out again, in case that something of its last owner lies about.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the pool when all are in use.
    pub(crate) fn allocate(&self) -> Result<Range> {
        let slots = self.slots();
        let start = RandomState::new().hash_one(0u8) % u64::from(slots.max(1));
        for step in 0..u64::from(slots) {
            let slot = u32::try_from((start + step) % u64::from(slots)).unwrap_or_default();
            let Some(first) = self.range_of(slot) else {
                continue;
            };
            if let Some(locks) = self.dir.lock(units(first, self.ids.per_pod))? {
                // Whatever it held is over: these locks are the proof.
                return Ok(Range {
                    first,
                    count: self.ids.per_pod,
                    locks,
                });
            }
        }
        Err(Error::invalid(
            "ids.count",
            self.ids.count,
            format!(
                "every range of {} ids from {} on is in use: delete containers or make the pool larger",
                self.ids.per_pod, self.ids.first
            ),
        ))
    }

    fn slots(&self) -> u32 {
        self.ids.count / self.ids.per_pod
    }

    /// First id of a slot, unless somebody else uses one of its ids.
    fn range_of(&self, slot: u32) -> Option<u32> {
        let first = self.ids.first + slot * self.ids.per_pod;
        let ids = u64::from(first)..=u64::from(first) + u64::from(self.ids.per_pod) - 1;
        let overlaps =
            |other: &RangeInclusive<u64>| ids.start() <= other.end() && other.start() <= ids.end();
        (!self.reserved.iter().any(overlaps)).then_some(first)
    }
}

impl Range {
    /// Records who has the range; again whenever a container joins or leaves the pod, before its first process runs.
    pub(crate) fn record(&self, owner: &Owner) -> Result<()> {
        self.locks.record(owner)
    }
}

/// First ids of the lock files for `count` ids from `first` on.
fn units(first: u32, count: u32) -> impl Iterator<Item = u32> {
    let last = first.saturating_add(count.saturating_sub(1));
    (first / UNIT..=last / UNIT).map(|unit| unit * UNIT)
}

/// Frees the ids of the lock files `units` that a dead shim has left, unless a process of its containers still lives. Free or
/// somebody else's by now: nothing to do.
pub(crate) fn reclaim(state_dir: &Path, units: &[u32]) -> Result<()> {
    let dir = Directory::make(state_dir)?;
    let mut left = units.to_vec();
    // An allocator that looks at the range holds its lock for a moment, and so does a child that the allocator's process
    // has forked and that has not come to exec. Only a new owner holds it for longer.
    for _ in 0..RECLAIM_TRIES {
        let mut held = Vec::new();
        for first in left {
            // Dropping the lock removes the file.
            if dir.lock([first])?.is_none() {
                held.push(first);
            }
        }
        if held.is_empty() {
            break;
        }
        left = held;
        std::thread::sleep(RECLAIM_PAUSE);
    }
    Ok(())
}

/// Frees the range that a dead shim had handed to the pod of the container in `cgroup`, as [`reclaim`] does, and any that
/// a shim was killed at before it had written whose it is.
pub(crate) fn reclaim_of(state_dir: &Path, cgroup: &str) -> Result<()> {
    guest::leave_any(state_dir, cgroup)?;
    let dir = state_dir.join("ranges");
    let entries = match std::fs::read_dir(&dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.os("list", dir.display())?,
    };
    let mut units = Vec::new();
    for entry in entries.flatten() {
        let Some(first) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let owner = text.lines().next().map(serde_json::from_str::<Owner>);
        match owner {
            Some(Ok(owner)) if owner.cgroups.contains(cgroup) => units.push(first),
            None => drop(Directory::make(state_dir)?.lock([first])?),
            _ => {}
        }
    }
    reclaim(state_dir, &units)
}

/// The ranges of a subuid(5) text; lines that are none (comments, blanks) are ignored as shadow does.
fn subids(text: &str) -> impl Iterator<Item = RangeInclusive<u64>> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':').skip(1);
        let first: u64 = fields.next()?.parse().ok()?;
        let count: u64 = fields.next()?.parse().ok()?;
        (count > 0).then(|| first..=first.saturating_add(count - 1))
    })
}

#[cfg(test)]
mod exclusive_tests;
#[cfg(test)]
mod tests;
