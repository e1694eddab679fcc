//! Tries to undo each mount of the container, as its root could.

use std::fs::{self, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

use crate::facts::{Mount, mounts};

/// A list of `{mount, kind, attempt, outcome}`; `outcome` is `ok` or the name of the error.
///
/// Each mount is tried in a copy of the mount namespace, by a process of its own: what can be undone is there for the next.
pub(crate) fn all() -> Result<Value> {
    let mut rows = Vec::new();
    for it in mounts()? {
        let program = fs::read_link("/proc/self/exe").context("find this program")?;
        let id = it.id.to_string();
        let tried = Command::new(program).args(["lock", &id]).output();
        let tried = tried.context("start the attempts")?;
        let errors = String::from_utf8_lossy(&tried.stderr);
        ensure!(tried.status.success(), "{}: {errors}", it.point);
        let more: Vec<Value> = serde_json::from_slice(&tried.stdout)?;
        rows.extend(more);
    }
    Ok(Value::Array(rows))
}

/// The same for the mount with this id.
pub(crate) fn one(id: &str) -> Result<Value> {
    let id: u64 = id.parse().context("a mount id is a number")?;
    let it = mounts()?.into_iter().find(|mount| mount.id == id);
    let it = it.context("no mount has this id")?;
    let mut rows = Vec::new();
    // A path leads to the topmost mount only: what that one covers is tried by its own row, or cannot be reached.
    if topmost(&it.point)? != Some(it.id) {
        return Ok(Value::Array(rows));
    }
    unshare(CloneFlags::CLONE_NEWNS).context("copy the mount namespace")?;
    // Nothing moves from a shared mount.
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).context("make / private")?;
    let name = format!("/dev/shm/probe-{id}");
    let target = Path::new(&name);
    if Path::new(&it.point).is_dir() {
        fs::create_dir(target).context("create a directory to move the mount to")?;
    } else {
        fs::write(target, "").context("create a file to move the mount to")?;
    }
    let point = it.point.as_str();
    let mut row = |attempt: &str, result: nix::Result<()>| {
        let outcome = result.map_or_else(|error| error.to_string(), |()| "ok".to_owned());
        rows.push(
            json!({"mount": it.point, "kind": it.kind, "attempt": attempt, "outcome": outcome}),
        );
    };
    for (attempt, flags) in attempts(&it) {
        row(
            &attempt,
            mount(None::<&str>, point, None::<&str>, flags, None::<&str>),
        );
    }
    if point != "/" {
        let moved = mount(
            Some(point),
            target,
            None::<&str>,
            MsFlags::MS_MOVE,
            None::<&str>,
        );
        let at = if moved.is_ok() { &name } else { point };
        row("move", moved);
        row("unmount", umount2(at, MntFlags::empty()));
        row("unmount lazily", umount2(at, MntFlags::MNT_DETACH));
    }
    // Not there where /dev/shm itself has gone.
    let _ = fs::remove_file(target);
    let _ = fs::remove_dir(target);
    Ok(Value::Array(rows))
}

/// The id of the mount that `path` leads to (proc_pid_fdinfo(5)); none where it leads nowhere.
fn topmost(path: &str) -> Result<Option<u64>> {
    let Ok(file) = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_PATH.bits())
        .open(path)
    else {
        return Ok(None);
    };
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))
        .context("read fdinfo")?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    id.context("fdinfo has no mount id")?
        .trim()
        .parse()
        .map(Some)
        .context("a mount id is a number")
}

/// Remounts that would give the container more than it has. What is not restricted has none.
fn attempts(it: &Mount) -> Vec<(String, MsFlags)> {
    let restrictions = [
        ("ro", MsFlags::MS_RDONLY),
        ("nosuid", MsFlags::MS_NOSUID),
        ("nodev", MsFlags::MS_NODEV),
        ("noexec", MsFlags::MS_NOEXEC),
    ];
    let held: Vec<_> = restrictions
        .into_iter()
        .filter(|(name, _)| it.options.iter().any(|option| option == name))
        .collect();
    let without = |dropped: &str| {
        held.iter()
            .filter(|(name, _)| *name != dropped)
            .fold(MsFlags::MS_REMOUNT | MsFlags::MS_BIND, |all, (_, flag)| {
                all | *flag
            })
    };
    held.iter()
        .map(|(name, _)| (format!("drop {name}"), without(name)))
        .collect()
}
