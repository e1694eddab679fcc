//! Artefacts that are costly to make, kept outside the tree and keyed by the recipe that made them.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

/// Where artefacts and the state of running nodes live: `$SYSBOX_CACHE` or `/var/cache/sysbox-v2-test`.
///
/// # Errors
/// If the directory cannot be made, or lies on a file system on which containerd's overlay snapshotter cannot work.
pub fn root() -> Result<PathBuf> {
    let dir = std::env::var_os("SYSBOX_CACHE")
        .map_or_else(|| PathBuf::from("/var/cache/sysbox-v2-test"), PathBuf::from);
    fs::create_dir_all(&dir)
        .with_context(|| format!("create the cache directory {}", dir.display()))?;
    let dir = dir
        .canonicalize()
        .with_context(|| format!("resolve {}", dir.display()))?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    let kind =
        file_system_of(&mounts, &dir).context("find the file system of the cache directory")?;
    if matches!(kind, "overlay" | "tmpfs" | "fuse" | "nfs" | "nfs4" | "9p") {
        bail!(
            "the cache directory {} is on {kind}: set SYSBOX_CACHE to a directory on ext4, xfs or btrfs",
            dir.display()
        );
    }
    Ok(dir)
}

/// A short, stable name for a recipe.
#[must_use]
pub fn key(recipe: &str) -> String {
    Sha256::digest(recipe.as_bytes())
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The artefact `kind-<hash of recipe>`, built by `build` in a temporary directory if it is not there yet.
///
/// Builders of the same artefact wait for each other; what `build` leaves appears under its final name in one rename.
///
/// # Errors
/// Those of `build`, and of the file system.
pub fn artefact(
    kind: &str,
    recipe: &str,
    build: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let root = root()?;
    let name = format!("{kind}-{}", key(recipe));
    let done = root.join(&name);
    if done.exists() {
        return Ok(done);
    }
    let _lock = lock(&root.join(format!("{name}.lock")))?;
    if done.exists() {
        return Ok(done);
    }
    let part = root.join(format!("{name}.part"));
    remove(&part)?;
    fs::create_dir(&part).with_context(|| format!("create {}", part.display()))?;
    println!("setup: building {name}");
    let begin = Instant::now();
    build(&part).with_context(|| format!("build {name}"))?;
    fs::write(part.join(".recipe"), recipe)
        .with_context(|| format!("write the recipe of {name}"))?;
    fs::rename(&part, &done).with_context(|| format!("move {name} into place"))?;
    println!(
        "setup: built {name} in {:.1} s",
        begin.elapsed().as_secs_f64()
    );
    Ok(done)
}

/// Holds an exclusive lock on `path` until the file is dropped.
///
/// # Errors
/// If the file cannot be made or locked.
pub fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    file.lock()
        .with_context(|| format!("lock {}", path.display()))?;
    Ok(file)
}

/// The lock on `path`, or none if another process holds it.
///
/// # Errors
/// If the file cannot be made or locked for another reason.
pub fn try_lock(path: &Path) -> Result<Option<File>> {
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("lock {}", path.display()))
        }
    }
}

/// Removes a tree; one that is not there is no error.
///
/// # Errors
/// If something in it cannot be removed.
pub fn remove(tree: &Path) -> Result<()> {
    match fs::remove_dir_all(tree) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", tree.display()))
        }
        _ => Ok(()),
    }
}

/// The type of the file system that holds `path`, by the longest mount point above it (proc_pid_mountinfo(5)).
fn file_system_of<'a>(mountinfo: &'a str, path: &Path) -> Option<&'a str> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let point = left.split(' ').nth(4)?;
            path.starts_with(point)
                .then(|| (point.len(), right.split(' ').next()))
        })
        // Of two mounts on one point the later one is seen.
        .max_by_key(|(length, _)| *length)
        .and_then(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_and_latest_mount_point_holds_the_path() {
        let table = "1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:9 / /var rw - tmpfs none rw\n3 1 0:9 / /var rw shared:1 - overlay o rw\n";
        assert_eq!(
            file_system_of(table, Path::new("/var/cache")),
            Some("overlay")
        );
        assert_eq!(file_system_of(table, Path::new("/varnish")), Some("ext4"));
    }

    #[test]
    fn a_key_changes_with_its_recipe() {
        assert_eq!(key("a"), key("a"));
        assert_ne!(key("a"), key("b"));
    }
}
