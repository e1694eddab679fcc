//! Exclusive ranges of host ids for pods (design D4).
//!
//! A range is a lock file `<state dir>/ranges/<first id>`, held by flock(2): whoever holds it has the range, and a crash
//! frees it. The file records who has it and the cgroups of its containers, so that a range whose shim was killed but
//! whose containers still run is not handed out again. Files of free ranges are removed.

mod guest;

use std::collections::BTreeSet;
use std::fs::DirBuilder;
use std::hash::{BuildHasher, RandomState};
use std::io::{Read, Seek, Write};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{
    AtFlags, CWD, FlockOperation, Mode, OFlags, flock, fstat, ftruncate, openat, unlinkat,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::cgroup::{Cgroup, Hierarchy};
use crate::config::Ids;
use crate::error::{Error, OsContext, Result};

pub use guest::Guest;

/// Files whose ranges belong to the host's users (subuid(5), subgid(5)).
const SUBIDS: [&str; 2] = ["/etc/subuid", "/etc/subgid"];
/// The kubelet gives pods the ids from 65536 to 65536×(maxPods+1) (pkg/kubelet/userns). maxPods is 110 by default and in
/// the kubelet's own configuration, which we do not read: this many is more than any node is given.
const KUBELET: RangeInclusive<u64> = 65_536..=65_536 * (4096 + 1) - 1;
/// How often and at what distance [`reclaim`] looks for a lock that somebody holds.
const RECLAIM_TRIES: u32 = 20;
const RECLAIM_PAUSE: Duration = Duration::from_millis(5);
/// Smallest range: what images and systemd take for granted.
const MIN_IDS: u32 = 65_536;

/// The ranges that this host may hand out.
#[derive(Debug)]
pub struct Pool {
    ids: Ids,
    dir: Directory,
    reserved: Vec<RangeInclusive<u64>>,
}

/// A range that is ours until this value is dropped.
#[derive(Debug)]
pub struct Range {
    /// First host id.
    pub first: u32,
    /// Number of ids.
    pub count: u32,
    file: LockFile,
}

/// Who has a range.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Id of the pod: its sandbox, or the only container.
    pub pod: String,
    /// cgroups of its containers, relative to the root of the hierarchy ([`Cgroup::relative`]).
    pub cgroups: BTreeSet<String>,
}

/// `<state dir>/ranges`
#[derive(Debug)]
struct Directory {
    path: PathBuf,
    fd: OwnedFd,
}

/// A lock file that we hold.
#[derive(Debug)]
struct LockFile {
    dir: OwnedFd,
    path: PathBuf,
    name: String,
    file: std::fs::File,
}

impl Pool {
    /// The pool that the configuration describes, less what `/etc/subuid`, `/etc/subgid` and the kubelet use. Makes
    /// `state_dir` if need be.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a pool without room for one range, and for a state directory that others can enter.
    pub fn new(ids: &Ids, state_dir: &Path) -> Result<Pool> {
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
        if ids.per_pod < MIN_IDS {
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
    pub fn allocate(&self) -> Result<Range> {
        let slots = self.slots();
        let start = RandomState::new().hash_one(0u8) % u64::from(slots.max(1));
        for step in 0..u64::from(slots) {
            let slot = u32::try_from((start + step) % u64::from(slots)).unwrap_or_default();
            let Some(first) = self.range_of(slot) else {
                continue;
            };
            if let Some(file) = self.dir.lock(first)? {
                // Whatever it held is over: this lock is the proof.
                return Ok(Range {
                    first,
                    count: self.ids.per_pod,
                    file,
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
    pub fn record(&self, owner: &Owner) -> Result<()> {
        self.file.write(owner)
    }
}

/// Frees the range from `first` on that a dead shim has left, unless a process of its containers still lives. Free or
/// somebody else's by now: nothing to do.
pub fn reclaim(state_dir: &Path, first: u32) -> Result<()> {
    let dir = Directory::make(state_dir)?;
    // An allocator that looks at the range holds its lock for a moment, and so does a child that the allocator's process
    // has forked and that has not come to exec. Only a new owner holds it for longer.
    for _ in 0..RECLAIM_TRIES {
        if let Some(file) = dir.lock(first)? {
            // Dropping the lock removes the file.
            drop(file);
            break;
        }
        std::thread::sleep(RECLAIM_PAUSE);
    }
    Ok(())
}

/// Frees the range that a dead shim had handed to the pod of the container in `cgroup`, as [`reclaim`] does, and any that
/// a shim was killed at before it had written whose it is.
pub fn reclaim_of(state_dir: &Path, cgroup: &str) -> Result<()> {
    guest::leave_any(state_dir, cgroup)?;
    let dir = state_dir.join("ranges");
    let entries = match std::fs::read_dir(&dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.os("list", dir.display())?,
    };
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
            Some(Ok(owner)) if owner.cgroups.contains(cgroup) => reclaim(state_dir, first)?,
            None => drop(Directory::make(state_dir)?.lock(first)?),
            _ => {}
        }
    }
    Ok(())
}

impl Directory {
    fn make(state_dir: &Path) -> Result<Directory> {
        private_directory(state_dir)?;
        let path = state_dir.join("ranges");
        let fd = private_directory(&path)?;
        Ok(Directory { path, fd })
    }

    /// Locks the file of the range from `first` on; `None` while somebody has it or a process of its last owner lives.
    fn lock(&self, first: u32) -> Result<Option<LockFile>> {
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
        if !guest::is_in(dir, &self.name).is_ok_and(|guest| !guest) {
            return false;
        }
        match self.read() {
            Ok(None) => true,
            Ok(Some(owner)) if owner.cgroups.is_empty() => true,
            Ok(Some(owner)) => Hierarchy::find().is_ok_and(|hierarchy| {
                owner
                    .cgroups
                    .iter()
                    .all(|cgroup| is_empty(&hierarchy, cgroup))
            }),
            Err(_) => false,
        }
    }

    /// The record; `None` where there is none yet.
    fn read(&self) -> Result<Option<Owner>> {
        let mut text = String::new();
        let mut file = &self.file;
        file.rewind()
            .and_then(|()| file.read_to_string(&mut text))
            .os("read", self.path.display())?;
        match text.lines().next() {
            None => Ok(None),
            Some(line) => serde_json::from_str(line)
                .map(Some)
                .map_err(std::io::Error::from)
                .os("read", self.path.display()),
        }
    }

    /// The record is the first line and written before the file is cut to its length, so that being killed at any moment
    /// leaves a whole one.
    fn write(&self, owner: &Owner) -> Result<()> {
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

/// Whether no process lives in `cgroup`, or there is no such cgroup.
fn is_empty(hierarchy: &Hierarchy, cgroup: &str) -> bool {
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
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const POD: u32 = 262_144;

    fn ids(first: u32, slots: u32) -> Ids {
        Ids {
            first,
            count: slots * POD,
            per_pod: POD,
        }
    }

    fn state_dir() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o700)).unwrap();
        dir
    }

    fn files(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir.join("ranges")).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn ranges_are_exclusive_until_dropped_and_leave_no_file() {
        let dir = state_dir();
        let pool = Pool::new(&ids(1 << 30, 3), dir.path()).unwrap();
        let mut taken: Vec<_> = (0..3).map(|_| pool.allocate().unwrap()).collect();
        taken.sort_by_key(|range| range.first);
        let firsts: Vec<_> = taken.iter().map(|range| range.first).collect();
        assert_eq!(firsts, [0, 1, 2].map(|slot| (1 << 30) + slot * POD));
        assert!(taken.iter().all(|range| range.count == POD));
        let error = pool.allocate().unwrap_err();
        assert!(matches!(&error, Error::Invalid { field, .. } if field == "ids.count"));
        assert!(error.to_string().contains("in use"), "{error}");

        let free = taken.remove(1).first;
        assert_eq!(pool.allocate().unwrap().first, free);
        drop(taken);
        assert_eq!(files(dir.path()), [""; 0]);
    }

    #[test]
    fn ranges_of_others_are_skipped() {
        let dir = state_dir();
        let reserved =
            subids("# users\n\njoe:1073741824:65536\nann:1074790399:1\nbad:x:1\nnone:5:0\n");
        let reserved: Vec<_> = reserved.collect();
        assert_eq!(
            reserved,
            [1 << 30..=(1 << 30) + 65_535, 1_074_790_399..=1_074_790_399]
        );
        // Slot 0 holds joe's ids, slot 3 ends with ann's.
        let pool = Pool::without(&ids(1 << 30, 4), dir.path(), reserved).unwrap();
        let mut taken: Vec<_> = (0..2).map(|_| pool.allocate().unwrap()).collect();
        taken.sort_by_key(|range| range.first);
        assert_eq!(taken[0].first, (1 << 30) + POD);
        assert_eq!(taken[1].first, (1 << 30) + 2 * POD);
        assert!(pool.allocate().is_err());
    }

    #[test]
    fn the_kubelets_ranges_are_skipped() {
        let dir = state_dir();
        let pool = ids(65_536, 4097 / 4 + 1);
        let pool = Pool::new(&pool, dir.path()).unwrap();
        let first = pool.allocate().unwrap().first;
        assert!(u64::from(first) > *KUBELET.end(), "{first}");
        let error = Pool::new(&ids(100_000, 10), dir.path()).unwrap_err();
        assert!(matches!(&error, Error::Invalid { field, .. } if field == "ids"));
    }

    #[test]
    fn wrong_configurations_are_named() {
        let dir = state_dir();
        let wrong = |ids: Ids, dir: &Path| match Pool::new(&ids, dir).unwrap_err() {
            Error::Invalid { field, .. } => field,
            error => panic!("{}", error.chain()),
        };
        let small = Ids {
            per_pod: 65_535,
            ..Ids::default()
        };
        assert_eq!(wrong(small, dir.path()), "ids.per-pod");
        let beyond = Ids {
            first: u32::MAX - 262_143,
            count: 262_144,
            ..Ids::default()
        };
        assert_eq!(wrong(beyond, dir.path()), "ids.count");
        let none = Ids {
            count: 262_143,
            ..Ids::default()
        };
        assert_eq!(wrong(none, dir.path()), "ids");
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o750)).unwrap();
        assert_eq!(wrong(Ids::default(), dir.path()), "state-dir");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        assert!(Pool::new(&Ids::default(), &link).is_err());
    }

    #[test]
    fn the_state_directory_is_made_for_us_alone() {
        let dir = state_dir();
        let state = dir.path().join("a/state");
        Pool::new(&Ids::default(), &state).unwrap();
        for path in [state.clone(), state.join("ranges")] {
            let mode = std::fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o700);
        }
    }

    #[test]
    fn a_record_is_whole_at_any_moment() {
        let dir = state_dir();
        let range = Pool::new(&ids(1 << 30, 1), dir.path())
            .unwrap()
            .allocate()
            .unwrap();
        let owner = |cgroups: &[&str]| Owner {
            pod: "p".into(),
            cgroups: cgroups.iter().map(ToString::to_string).collect(),
        };
        assert_eq!(range.file.read().unwrap(), None);
        range.record(&owner(&["a/long/cgroup", "b"])).unwrap();
        assert_eq!(
            range.file.read().unwrap(),
            Some(owner(&["a/long/cgroup", "b"]))
        );
        range.record(&owner(&["b"])).unwrap();
        assert_eq!(range.file.read().unwrap(), Some(owner(&["b"])));
        // Killed between writing and cutting: the rest of the longer record follows.
        let mut file = &range.file.file;
        file.seek(std::io::SeekFrom::End(0)).unwrap();
        file.write_all(b"rest of a longer record\n").unwrap();
        assert_eq!(range.file.read().unwrap(), Some(owner(&["b"])));
    }

    #[test]
    fn a_crash_frees_the_range_but_not_one_with_an_unreadable_record() {
        let dir = state_dir();
        let pool = Pool::new(&ids(1 << 30, 2), dir.path()).unwrap();
        let path = dir.path().join("ranges");
        std::fs::write(path.join((1 << 30).to_string()), "").unwrap();
        std::fs::write(path.join(((1 << 30) + POD).to_string()), "torn").unwrap();
        let range = pool.allocate().unwrap();
        assert_eq!(range.first, 1 << 30);
        assert!(pool.allocate().is_err());
        drop(range);
        assert_eq!(files(dir.path()), [((1 << 30) + POD).to_string()]);
    }

    #[test]
    fn a_range_is_found_by_a_cgroup_of_its_pod() {
        let dir = state_dir();
        drop(Pool::new(&ids(1 << 30, 4), dir.path()).unwrap());
        let ranges = dir.path().join("ranges");
        let write = |n: u32, text: &str| {
            std::fs::write(ranges.join(((1 << 30) + n * POD).to_string()), text).unwrap();
        };
        write(
            0,
            "{\"pod\":\"p\",\"cgroups\":[\"no/such/a\",\"no/such/b\"]}\n",
        );
        write(1, "{\"pod\":\"q\",\"cgroups\":[\"no/such/c\"]}\n");
        write(2, "");
        reclaim_of(dir.path(), "no/such/b").unwrap();
        assert_eq!(files(dir.path()), [((1 << 30) + POD).to_string()]);
        reclaim_of(&dir.path().join("none"), "no/such/b").unwrap();
    }

    #[test]
    fn reclaim_frees_what_the_dead_left_and_nothing_else() {
        let dir = state_dir();
        let pool = Pool::new(&ids(1 << 30, 1), dir.path()).unwrap();
        let range = pool.allocate().unwrap();
        reclaim(dir.path(), range.first).unwrap();
        assert_eq!(files(dir.path()), [range.first.to_string()]);
        drop(range);
        std::fs::write(
            dir.path().join("ranges").join((1 << 30).to_string()),
            "{\"pod\":\"p\",\"cgroups\":[]}\n",
        )
        .unwrap();
        reclaim(dir.path(), 1 << 30).unwrap();
        assert_eq!(files(dir.path()), [""; 0]);
        reclaim(dir.path(), 1 << 30).unwrap();
        assert_eq!(files(dir.path()), [""; 0]);
    }

    #[test]
    fn reclaim_waits_for_one_who_only_looks() {
        let dir = state_dir();
        drop(Pool::new(&ids(1 << 30, 1), dir.path()).unwrap());
        let path = dir.path().join("ranges").join((1 << 30).to_string());
        let file = std::fs::File::create(&path).unwrap();
        flock(&file, FlockOperation::LockExclusive).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(2 * RECLAIM_PAUSE);
                flock(&file, FlockOperation::Unlock).unwrap();
            });
            reclaim(dir.path(), 1 << 30).unwrap();
        });
        assert_eq!(files(dir.path()), [""; 0]);
    }
}
