//! cgroup v2 (design D8): one directory for the container, delegated, with a leaf `init.scope` for its first process and
//! for exec'd ones.
//!
//! Limits and the device policy sit on the container's directory, whose files stay the host's; the container owns the
//! directory itself, the leaf and the files that the kernel lists for delegation, so it can make cgroups of its own and
//! enable controllers for them. `cgroup.max.descendants` and `cgroup.max.depth` cap what it makes.

mod apply;
mod beside;
mod counters;
mod device_rules;
mod devices;
mod events;
mod file;
mod hierarchy;
pub(crate) mod limits;
mod member;
pub(crate) mod scope;
mod signal;
pub(crate) mod stats;
mod tree;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::fs::{
    AtFlags, FlockOperation, Gid, Mode, OFlags, Uid, chownat, fchown, flock, mkdirat, openat,
};
use rustix::io::Errno;

pub(crate) use devices::Programs;
pub use hierarchy::Hierarchy;
use hierarchy::{Down, Refusal};
pub use limits::DeviceRule;
pub(crate) use member::is_member;
use stats::Stats;

use crate::config::CgroupConfig;
use crate::error::{Error, OsContext, Result};
use crate::systemd;

/// Name of the leaf. systemd as PID 1 expects to find itself in a cgroup of this name: it takes any other for its root.
pub(crate) const LEAF: &str = "init.scope";

/// Files by which a container is frozen, and killed. While they are open the kernel finds their names without the lock of the
/// directory, which a process of the container may hold for ever (fs/namei.c, `lookup_fast`).
const PINNED: [&str; 3] = ["cgroup.events", "cgroup.freeze", "cgroup.kill"];

/// How long to wait for the last process to die or to freeze.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to go on removing an unpopulated cgroup that somebody refills with directories.
const REMOVE_PATIENCE: Duration = Duration::from_secs(2);
/// How often to start again where others remove the directories that we have just made or found.
const ATTEMPTS: usize = 100;

/// A container's cgroup. Dropping one that was created and neither kept nor removed kills what is in it and removes it.
#[derive(Debug)]
pub struct Cgroup {
    /// Mount point of the hierarchy.
    root: PathBuf,
    /// Path below it.
    relative: String,
    /// Absolute path.
    path: PathBuf,
    /// The directory; where we created it, locked by flock(2) so that another shim takes it for in use while it is empty.
    dir: OwnedFd,
    /// The unit of systemd's that it is, if it is one.
    unit: Option<String>,
    /// Owner of what is delegated; `None` where it was opened for recovery.
    owner: Option<(Uid, Gid)>,
    /// What ancestors did not enable.
    refused: Vec<Refusal>,
    /// The device program in force.
    devices: Mutex<Option<Arc<OwnedFd>>>,
    /// [`PINNED`] of one that was created.
    _pinned: Vec<OwnedFd>,
    remove_on_drop: bool,
}

impl Cgroup {
    /// Makes the cgroup at `relative` (below the root of `hierarchy`), its ancestors as needed, and its leaf, and gives it
    /// to `owner`, the host's ids of the container's root.
    ///
    /// A directory that is there already but neither populated nor locked is what a dead runtime left: it is replaced, so
    /// that no limit, counter, program or owner of the last container stays.
    /// An ancestor that does not enable a controller matters only to a limit that needs it: [`Cgroup::apply`] warns.
    /// The policy `devices` is in force before anything can be in it.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] where it is in use; those of [`Cgroup::set_devices`].
    pub fn create(
        hierarchy: &Hierarchy,
        relative: &str,
        owner: (u32, u32),
        config: &CgroupConfig,
        devices: &[DeviceRule],
    ) -> Result<Cgroup> {
        let programs = Programs::default();
        Cgroup::create_sharing(hierarchy, relative, owner, config, (devices, &programs))
    }

    /// The same, where a cgroup of the same policy may exist whose device program is among `programs`.
    pub(crate) fn create_sharing(
        hierarchy: &Hierarchy,
        relative: &str,
        owner: (u32, u32),
        config: &CgroupConfig,
        (devices, programs): (&[DeviceRule], &Programs),
    ) -> Result<Cgroup> {
        let components = hierarchy::components(relative)?;
        let path = hierarchy.path(&components);
        for _ in 0..ATTEMPTS {
            let mut refused = Vec::new();
            let Down::Parent(parent) = hierarchy.make_parents(&components, &mut refused)? else {
                continue;
            };
            let Some(dir) = make(parent.as_fd(), &components, &path)? else {
                continue;
            };
            let cgroup = Cgroup::at(hierarchy, &components, dir).delegated(owner, refused)?;
            cgroup.set_program(programs.of(devices, &cgroup)?)?;
            cgroup.set_up(config)?;
            return Ok(cgroup);
        }
        Err(Error::AlreadyExists(format!(
            "cgroup {} (others keep making and removing it)",
            path.display()
        )))
    }

    /// Opens an existing one, to clean up after the shim that made it. Dropping it leaves it alone.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is none.
    pub fn open(hierarchy: &Hierarchy, relative: &str) -> Result<Cgroup> {
        let components = hierarchy::components(relative)?;
        let path = hierarchy.path(&components);
        let dir = hierarchy
            .open(&components)?
            .ok_or_else(|| Error::NotFound(format!("cgroup {}", path.display())))?;
        Ok(Cgroup::at(hierarchy, &components, dir))
    }

    /// That of `components`, whose directory is `dir`. Dropping it leaves it alone.
    fn at(hierarchy: &Hierarchy, components: &[&str], dir: OwnedFd) -> Cgroup {
        Cgroup {
            root: hierarchy.root().to_owned(),
            relative: components.join("/"),
            path: hierarchy.path(components),
            dir,
            unit: None,
            owner: None,
            refused: Vec::new(),
            devices: Mutex::new(None),
            _pinned: Vec::new(),
            remove_on_drop: false,
        }
    }

    /// One that has just been made for `owner`, where ancestors have refused so much. Dropping it removes it.
    fn delegated(mut self, (uid, gid): (u32, u32), refused: Vec<Refusal>) -> Result<Cgroup> {
        self.remove_on_drop = true;
        self.owner = Some((Uid::from_raw(uid), Gid::from_raw(gid)));
        self.refused = refused;
        self._pinned = pin(self.dir.as_fd()).os("open files of", self.path.display())?;
        Ok(self)
    }

    /// Makes the leaf, caps what the container may make, and delegates. The leaf comes first: a cap of 0 is for the
    /// container, not for us.
    fn set_up(&self, config: &CgroupConfig) -> Result<()> {
        self.make_leaf()?;
        for (name, value) in [
            ("cgroup.max.descendants", config.max_descendants),
            ("cgroup.max.depth", config.max_depth),
        ] {
            self.write(name, &value.to_string())?;
        }
        self.delegate(self.dir.as_fd(), &self.path)
    }

    fn make_leaf(&self) -> Result<OwnedFd> {
        let path = self.path.join(LEAF);
        match mkdirat(&self.dir, LEAF, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error).os("mkdir", path.display()),
        }
        let leaf = tree::open(self.dir.as_fd(), LEAF).os("open", path.display())?;
        self.delegate(leaf.as_fd(), &path)?;
        Ok(leaf)
    }

    /// Gives `dir` and the files that the kernel lists for delegation to the owner.
    fn delegate(&self, dir: BorrowedFd<'_>, path: &Path) -> Result<()> {
        let Some((uid, gid)) = self.owner else {
            return Ok(());
        };
        // mkdir(2) obeyed whatever umask the shim was started with.
        rustix::fs::fchmod(dir, Mode::from_raw_mode(0o755)).os("chmod 0755", path.display())?;
        fchown(dir, Some(uid), Some(gid)).os("chown", path.display())?;
        const DELEGATE: &str = "/sys/kernel/cgroup/delegate";
        let files = std::fs::read_to_string(DELEGATE).os("read", DELEGATE)?;
        for name in files.split_ascii_whitespace() {
            match chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW) {
                // The list holds files of controllers that are not enabled here.
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error).os("chown", path.join(name).display()),
            }
        }
        Ok(())
    }

    /// Absolute path of the directory on the host.
    pub fn dir(&self) -> &Path {
        &self.path
    }

    /// Path below the root of the hierarchy, without a leading slash: what [`Cgroup::open`] takes.
    pub fn relative(&self) -> &str {
        &self.relative
    }

    /// A descriptor of the directory.
    pub fn open_dir(&self) -> Result<OwnedFd> {
        tree::open(self.dir.as_fd(), ".").os("open", self.path.display())
    }

    /// A descriptor of the leaf, for CLONE_INTO_CGROUP (clone3(2)). Makes it again where the container removed it.
    pub fn open_leaf(&self) -> Result<OwnedFd> {
        match tree::open(self.dir.as_fd(), LEAF) {
            Err(Errno::NOENT) => self.make_leaf(),
            other => other.os("open", self.path.join(LEAF).display()),
        }
    }

    /// Stops every process of the container; returns when all have stopped.
    ///
    /// # Errors
    /// [`Error::Os`] with ETIMEDOUT where one does not within 10 s (it sleeps uninterruptibly); all go on then.
    pub fn freeze(&self) -> Result<()> {
        self.write("cgroup.freeze", "1")?;
        self.wait_for("frozen", 1, "freeze").inspect_err(|_| {
            // The error to report is why it did not freeze.
            let _ = self.write("cgroup.freeze", "0");
        })
    }

    /// Undoes [`Cgroup::freeze`].
    pub fn thaw(&self) -> Result<()> {
        self.write("cgroup.freeze", "0")?;
        self.wait_for("frozen", 0, "thaw")
    }

    /// Kills every process of the container and waits until the last has died. A process that nobody has reaped yet
    /// counts as dead. Nothing to kill, or no cgroup any more, is success.
    ///
    /// # Errors
    /// [`Error::Os`] with ETIMEDOUT where one does not die within 10 s.
    pub fn kill(&self) -> Result<()> {
        if !self.populated()? {
            return Ok(());
        }
        match file::write(self.dir.as_fd(), "cgroup.kill", "1") {
            Err(error) if tree::is_gone(error) => return Ok(()),
            other => other.os("write \"1\" to", self.path.join("cgroup.kill").display())?,
        }
        self.wait_for("populated", 0, "kill")
    }

    /// Whether any process of the container lives.
    pub fn populated(&self) -> Result<bool> {
        events::populated(self.dir.as_fd()).os("read", self.path.join("cgroup.events").display())
    }

    /// Pids of all processes, in the caller's pid namespace, ascending.
    pub fn pids(&self) -> Result<Vec<u32>> {
        let pids = tree::pids(self.dir.as_fd()).os("list processes of", self.path.display())?;
        Ok(pids.into_iter().collect())
    }

    /// Calls `send` with a pidfd of every process, each once, until all have been met; those that come meanwhile, too, up to
    /// a bound: who makes processes faster than they are met has to be killed.
    pub fn signal(&self, send: impl FnMut(&OwnedFd) -> Result<()>) -> Result<()> {
        signal::each(&|| self.pids(), send)
    }

    /// All counters. They last until [`Cgroup::remove`], whatever lives.
    ///
    /// # Errors
    /// [`Error::NotFound`] where the cgroup has been removed.
    pub fn stats(&self) -> Result<Stats> {
        match counters::read(self.dir.as_fd()) {
            Err(Errno::NODEV) => Err(self.not_found()),
            Ok(stats) if stats.cpu.is_none() => Err(self.not_found()),
            other => other.os("read counters of", self.path.display()),
        }
    }

    /// How many processes the kernel has killed for want of memory, in the container and in every cgroup it made;
    /// `None` without the memory controller.
    pub fn oom_kills(&self) -> Option<u64> {
        counters::oom_kills(self.dir.as_fd())
    }

    /// Removes the cgroup, all that the container made below it, and the ancestors that a shim made for it or for its
    /// neighbours and that are empty now. Does not kill. Removed already is success. Where it is a unit of systemd's, that
    /// is stopped.
    ///
    /// # Errors
    /// [`Error::Os`] with EBUSY where a process still lives in it.
    pub fn remove(&self) -> Result<()> {
        if let Some(unit) = &self.unit {
            end_unit(unit);
        }
        let components: Vec<_> = self.relative.split('/').collect();
        let (Some(name), parents) = (components.last(), &components[..components.len() - 1]) else {
            return Ok(());
        };
        let parent =
            tree::open(self.dir.as_fd(), "..").os("open parent of", self.path.display())?;
        remove(parent.as_fd(), name, self.dir.as_fd()).os("rmdir", self.path.display())?;
        hierarchy::remove_made(parent, parents);
        Ok(())
    }

    /// Leaves the cgroup as it is when this value goes.
    pub fn keep(mut self) {
        self.remove_on_drop = false;
    }

    fn not_found(&self) -> Error {
        Error::NotFound(format!("cgroup {}", self.path.display()))
    }

    fn wait_for(&self, key: &'static str, value: u8, verb: &'static str) -> Result<()> {
        let events = self.path.join("cgroup.events");
        if events::wait(self.dir.as_fd(), key, value, PATIENCE).os("wait on", events.display())? {
            return Ok(());
        }
        Err(Errno::TIMEDOUT).os(
            verb,
            format!("{} ({key} is not {value})", self.path.display()),
        )
    }

    fn write(&self, name: &str, value: &str) -> Result<()> {
        file::write(self.dir.as_fd(), name, value).os(
            "write",
            format!("{} {value:?}", self.path.join(name).display()),
        )
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if !self.remove_on_drop {
            return;
        }
        if let Err(error) = self.kill().and_then(|()| self.remove()) {
            tracing::warn!(cgroup = %self.path.display(), error = error.chain(), "left a cgroup behind");
        }
    }
}

fn pin(dir: BorrowedFd<'_>) -> rustix::io::Result<Vec<OwnedFd>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    PINNED
        .iter()
        .map(|name| openat(dir, *name, flags, Mode::empty()))
        .collect()
}

/// Has systemd end `unit`.
pub(crate) fn end_unit(unit: &str) {
    left_to_systemd(unit, systemd::stop(unit));
}

/// Has systemd forget `unit`, if it has failed.
pub(crate) fn forget_unit(unit: &str) {
    left_to_systemd(unit, systemd::forget(unit));
}

/// Where systemd does not answer, what is left of a unit ends by itself: nothing is in it any more.
fn left_to_systemd(unit: &str, done: Result<()>) {
    if let Err(error) = done {
        tracing::warn!(unit, error = error.chain(), "left a unit to systemd");
    }
}

/// Makes the container's directory and locks it. `None`: somebody removed it or its parent meanwhile.
fn make(parent: BorrowedFd<'_>, components: &[&str], path: &Path) -> Result<Option<OwnedFd>> {
    let name = components.last().copied().unwrap_or_default();
    let fresh = match mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(error) if tree::is_gone(error) => return Ok(None),
        Err(error) => return Err(error).os("mkdir", path.display()),
    };
    let dir = match tree::open(parent, name) {
        Ok(dir) => dir,
        Err(error) if tree::is_gone(error) => return Ok(None),
        Err(error) => return Err(error).os("open", path.display()),
    };
    let taken = || Error::AlreadyExists(format!("cgroup {}", path.display()));
    match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Err(taken()),
        Err(error) => return Err(error).os("flock", path.display()),
    }
    if !fresh {
        if events::populated(dir.as_fd()).os("read cgroup.events of", path.display())? {
            return Err(taken());
        }
        return match remove(parent, name, dir.as_fd()) {
            Ok(()) => Ok(None),
            Err(Errno::BUSY | Errno::NOTEMPTY) => Err(taken()),
            Err(error) => Err(error).os("rmdir", path.display()),
        };
    }
    // Between mkdir and flock another shim may have taken it for a left-over.
    Ok(tree::is_at(parent, name, dir.as_fd()).then_some(dir))
}

/// Removes all below `dir` and then `dir` itself, which is `name` in `parent`.
fn remove(parent: BorrowedFd<'_>, name: &str, dir: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let deadline = Instant::now() + REMOVE_PATIENCE;
    loop {
        tree::remove_below(dir)?;
        if !tree::is_at(parent, name, dir) {
            return Ok(());
        }
        match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) => return Ok(()),
            Err(error) if tree::is_gone(error) => return Ok(()),
            Err(Errno::BUSY | Errno::NOTEMPTY) if Instant::now() < deadline => {
                // A dying process, or one outside that makes directories: both end soon.
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
