//! Tries to undo each mount of the container, as its root could: every attempt must fail.

use std::fs::{self, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

use crate::facts::{Mount, mounts};

/// A list of `{mount, kind, attempt, outcome}`; `outcome` is `ok` or the name of the error.
pub(crate) fn all() -> Result<Value> {
    let (dir, file) = (
        Path::new("/dev/shm/probe-dir"),
        Path::new("/dev/shm/probe-file"),
    );
    fs::create_dir_all(dir).context("create a directory to move mounts to")?;
    fs::write(file, "").context("create a file to move mounts to")?;
    let mut rows = Vec::new();
    for it in mounts()? {
        // A path leads to the topmost mount only: what that one covers is tried by its own row, or cannot be reached.
        if topmost(&it.point)? != Some(it.id) {
            continue;
        }
        let target = if Path::new(&it.point).is_dir() {
            dir
        } else {
            file
        };
        let mut row = |attempt: &str, result: nix::Result<()>| {
            let outcome = result.map_or_else(|error| error.to_string(), |()| "ok".to_owned());
            rows.push(
                json!({"mount": it.point, "kind": it.kind, "attempt": attempt, "outcome": outcome}),
            );
        };
        for (attempt, flags) in attempts(&it) {
            row(
                &attempt,
                mount(
                    None::<&str>,
                    it.point.as_str(),
                    None::<&str>,
                    flags,
                    None::<&str>,
                ),
            );
        }
        if it.point != "/" {
            row(
                "move",
                mount(
                    Some(it.point.as_str()),
                    target,
                    None::<&str>,
                    MsFlags::MS_MOVE,
                    None::<&str>,
                ),
            );
            row("unmount", umount2(it.point.as_str(), MntFlags::empty()));
            row(
                "unmount lazily",
                umount2(it.point.as_str(), MntFlags::MNT_DETACH),
            );
        }
    }
    fs::remove_dir(dir).context("remove the directory")?;
    fs::remove_file(file).context("remove the file")?;
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
