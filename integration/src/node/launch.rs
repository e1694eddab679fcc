//! The supervisor: on the host, outside the node's namespaces; it makes the cgroup and removes everything at the end.

use std::fs::{self, DirEntry, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};

use crate::cache;

/// How the cgroups of nodes are called, at the hierarchy's root.
const PREFIX: &str = "sysbox-test-";

/// What the supervisor and PID 1 of a node need to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Launch {
    /// Name of the node, its host name and its cgroup.
    pub name: String,
    /// The root directory shared by all nodes of a release, never written to.
    pub lower: PathBuf,
    /// The node's own directory.
    pub state: PathBuf,
}

/// `node-init supervise`: runs a node until standard input ends, prints PID 1's pid when it is up, then cleans up.
///
/// # Errors
/// If the node cannot be made, or something of it cannot be removed.
pub fn supervise(launch: &Launch) -> Result<()> {
    let lock = cache::lock(&launch.state.join("lock"))?;
    unshare(CloneFlags::CLONE_NEWNS).context("unshare the mount namespace")?;
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .context("make / private")?;
    let hierarchy = launch.state.join("cgroup");
    mount(
        Some("none"),
        &hierarchy,
        Some("cgroup2"),
        MsFlags::empty(),
        None::<&str>,
    )
    .context("mount cgroup2")?;
    remove_dead(&hierarchy);
    // Opened now: under `nsdelegate` a file opened inside the node's cgroup namespace could not lead out of it.
    let home = own_cgroup(&hierarchy)?.join("cgroup.procs");
    let mut home = File::options()
        .write(true)
        .open(&home)
        .with_context(|| format!("open {}", home.display()))?;
    let cgroup = hierarchy.join(format!("{PREFIX}{}", launch.name));
    fs::create_dir(&cgroup).with_context(|| format!("create {}", cgroup.display()))?;

    let ended = run_pid1(launch, &cgroup);
    // Out of the node's cgroup, else it cannot be removed.
    home.write_all(b"0")
        .context("move back out of the node's cgroup")?;
    remove_cgroup(&cgroup)?;
    umount2(&hierarchy, MntFlags::MNT_DETACH).context("unmount cgroup2")?;
    ended?;
    cache::remove(&launch.state)?;
    drop(lock);
    Ok(())
}

fn run_pid1(launch: &Launch, cgroup: &Path) -> Result<()> {
    fs::write(cgroup.join("cgroup.procs"), "0")
        .with_context(|| format!("move to {}", cgroup.display()))?;
    let spaces = CloneFlags::CLONE_NEWCGROUP
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC;
    unshare(spaces).context("unshare the node's namespaces")?;
    let mut pid1 = Command::new("/proc/self/exe");
    pid1.arg("pid1")
        .arg(serde_json::to_string(launch)?)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let mut pid1 = pid1.spawn().context("start PID 1")?;
    let status = pid1.wait().context("wait for PID 1")?;
    if !status.success() {
        bail!("PID 1 left with {status}");
    }
    Ok(())
}

/// Removes what nodes left whose supervisor was killed. A directory whose lock is held belongs to a live one.
pub(super) fn sweep(runs: &Path) {
    for entry in fs::read_dir(runs).into_iter().flatten().flatten() {
        let unlocked = || matches!(cache::try_lock(&entry.path().join("lock")), Ok(Some(_)));
        if settled(&entry)
            && unlocked()
            && let Err(error) = cache::remove(&entry.path())
        {
            eprintln!("setup: a dead node's directory stays: {error:#}");
        }
    }
}

/// Removes the cgroups of nodes whose supervisor was killed: a live node's is never empty, for its supervisor is in it.
fn remove_dead(hierarchy: &Path) {
    for entry in fs::read_dir(hierarchy).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let dead = || {
            fs::read_to_string(entry.path().join("cgroup.events"))
                .is_ok_and(|events| events.contains("populated 0"))
        };
        if ours
            && settled(&entry)
            && dead()
            && let Err(error) = remove_tree(&entry.path())
        {
            eprintln!("the cgroup of a dead node stays: {error}");
        }
    }
}

/// True once what is being set up there must be locked or populated.
fn settled(entry: &DirEntry) -> bool {
    entry
        .metadata()
        .and_then(|meta| meta.modified())
        .is_ok_and(|time| {
            time.elapsed()
                .is_ok_and(|age| age > Duration::from_secs(60))
        })
}

/// The directory of this process's cgroup below a mount of the hierarchy's root.
fn own_cgroup(hierarchy: &Path) -> Result<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").context("read /proc/self/cgroup")?;
    let path = text
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .context("this process is in no cgroup v2")?;
    Ok(hierarchy.join(path))
}

/// Kills what lives in a cgroup and removes it with all below it.
fn remove_cgroup(cgroup: &Path) -> Result<()> {
    fs::write(cgroup.join("cgroup.kill"), "1")
        .with_context(|| format!("kill {}", cgroup.display()))?;
    let mut last = None;
    for _ in 0..500 {
        match remove_tree(cgroup) {
            Ok(()) => return Ok(()),
            Err(error) => last = Some(error),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(last.unwrap_or_else(|| ErrorKind::TimedOut.into()))
        .with_context(|| format!("remove {}", cgroup.display()))
}

fn remove_tree(cgroup: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}
