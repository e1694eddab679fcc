//! Data roots of inner engines (design D7), host side: directories beside a snapshot's upper
//! directory, swapped into it while the container is stopped.
//!
//! An inner engine's overlay can lie neither on the container's overlay nor inside its upper
//! directory, so `/var/lib/docker` and the like are bound from `<snapshot>/sysbox/<name>`, and the
//! engine that removes the snapshot removes them. When the container stops, the directory and the
//! mount point in the upper directory change places (renameat2(2), RENAME_EXCHANGE), so commit, diff
//! and build find the data in the layer; before the next start they change back. Marks of inner overlays are hidden
//! meanwhile ([`whiteouts`]).

pub(crate) mod copy;
mod marks;
mod walk;
mod whiteouts;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, RenameFlags, ResolveFlags, XattrFlags, fsetxattr, mkdirat, openat,
    openat2, renameat, renameat_with, unlinkat,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{OsContext, Result};
use crate::sys;

pub(crate) use whiteouts::make as make_marks;

/// Directory beside the upper directory.
pub(crate) const DIR: &str = "sysbox";
/// Lists the data roots of a snapshot whose data lie in the upper directory. No data root has a name with a single dash
/// in front.
const MANIFEST: &str = "-captured.json";
const OPAQUE: &str = "trusted.overlay.opaque";
const FILLED: &str = "trusted.sysbox.filled";
/// What only data have that lie in the layer, or shall in a moment.
const CAPTURED: &str = "trusted.sysbox.captured";

/// One data root of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DataRoot {
    /// Path in the upper directory, links resolved (`var/lib/docker`).
    pub(crate) inside: String,
    /// Name of its directory in [`DIR`].
    pub(crate) name: String,
    /// Directories that we made for the mount point, deepest first: they go again while there are
    /// no data.
    pub(crate) made: Vec<String>,
}

/// Name of the directory for data root `path` (`/var/lib/docker` → `var-lib-docker`).
pub(crate) fn name(path: &str) -> String {
    path.trim_matches('/').replace('-', "--").replace('/', "-")
}

/// O_PATH descriptor of the directory of all data roots in snapshot directory `snapshot`, made if missing. Done as the upper
/// layer is opened, so that on disk it belongs to whom root inside is there.
pub(crate) fn prepare(snapshot: &OwnedFd) -> Result<OwnedFd> {
    make_dir(snapshot, DIR, 0o700)
}

/// The same of data root `name` in `dir`, the directory of all.
pub(crate) fn prepare_one(dir: &OwnedFd, name: &str) -> Result<OwnedFd> {
    make_dir(dir, name, 0o711)
}

fn make_dir(parent: &OwnedFd, name: &str, mode: u32) -> Result<OwnedFd> {
    match mkdirat(parent, name, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno).os("mkdir", name),
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty()).os("open", name)
}

fn beside(upper: &Path) -> PathBuf {
    upper.with_file_name(DIR)
}

/// A new directory for what the image has at data root `name`, which it becomes by [`filled`].
pub(crate) fn to_fill(dir: &OwnedFd, name: &str) -> Result<OwnedFd> {
    let new = new_name(name);
    let path = sys::fd::path(dir).join(&new);
    match std::fs::remove_dir_all(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).os("remove", path.display());
        }
        _ => {}
    }
    make_dir(dir, &new, 0o711)
}

/// Makes `new` of [`to_fill`] the data root, in place of the empty one, and marks it, so that the image's content is not
/// put there again even if all of it is removed.
pub(crate) fn filled(dir: &OwnedFd, name: &str, new: &OwnedFd) -> Result<()> {
    let new = open_dir(new, ".")?;
    fsetxattr(new, FILLED, b"y", XattrFlags::empty()).os("setxattr", FILLED)?;
    renameat(dir, new_name(name), dir, name).os("rename data root", name)
}

fn new_name(name: &str) -> String {
    format!("-new-{name}")
}

/// Whether [`filled`] made it.
pub(crate) fn is_filled(data: impl AsFd) -> Result<bool> {
    has_mark(data, FILLED)
}

/// Makes the data part of the layer: for a stopped or frozen container. Data roots without data
/// leave no trace. Doing it twice is doing it once. Once `cancelled` is true marks of inner overlays are left as they are,
/// for looking for them takes time.
pub(crate) fn capture(upper: &Path, roots: &[DataRoot], cancelled: &AtomicBool) -> Result<()> {
    let Some((upper_dir, dir)) = open(upper)? else {
        return Ok(());
    };
    if let Some(captured) = read_manifest(&dir)? {
        let there = captured.iter().map(|root| is_captured(&upper_dir, root));
        if there
            .collect::<Result<Vec<_>>>()?
            .iter()
            .all(|there| *there)
        {
            return Ok(());
        }
        // Somebody was killed half-way.
        restore(upper)?;
    }
    let full: Vec<_> = roots
        .iter()
        .filter_map(|root| match has_no_data(&dir, &root.name) {
            Ok(true) => None,
            Ok(false) => Some(Ok(root.clone())),
            Err(error) => Some(Err(error)),
        })
        .collect::<Result<_>>()?;
    if !full.is_empty() {
        // Written first: a crash half-way leaves a manifest from which `restore` finds the true state.
        write_manifest(&dir, &full)?;
    }
    for root in roots {
        if full.contains(root) {
            let data = open_dir(&dir, &root.name)?;
            if let Err(error) = whiteouts::hide(&dir, &root.name, &data, cancelled) {
                tracing::warn!(
                    path = root.inside,
                    error = error.chain(),
                    "what inner layers delete comes back in images of this container"
                );
                whiteouts::show(&dir, &root.name, &data)?;
            }
            for mark in [OPAQUE, CAPTURED] {
                fsetxattr(&data, mark, b"y", XattrFlags::empty()).os("setxattr on", &root.name)?;
            }
            exchange(&upper_dir, &dir, root)?;
        } else {
            for made in &root.made {
                remove_empty(&upper_dir, made)?;
            }
        }
    }
    Ok(())
}

/// The data roots whose data lie in the layer.
pub(crate) fn captured(upper: &Path) -> Result<Vec<DataRoot>> {
    let Some((_, dir)) = open(upper)? else {
        return Ok(Vec::new());
    };
    Ok(read_manifest(&dir)?.unwrap_or_default())
}

/// Takes the data out of the layer again: before the container is mounted.
pub(crate) fn restore(upper: &Path) -> Result<()> {
    let Some((upper, dir)) = open(upper)? else {
        return Ok(());
    };
    let Some(roots) = read_manifest(&dir)? else {
        return Ok(());
    };
    for root in &roots {
        if is_captured(&upper, root)? {
            exchange(&upper, &dir, root)?;
        }
        let data = open_dir(&dir, &root.name)?;
        whiteouts::show(&dir, &root.name, &data)?;
        for mark in [OPAQUE, CAPTURED] {
            match rustix::fs::fremovexattr(&data, mark) {
                Ok(()) | Err(Errno::NODATA) => {}
                Err(errno) => return Err(errno).os("removexattr on", &root.name),
            }
        }
    }
    remove(&dir, MANIFEST)
}

/// On which side of the exchange the data of a data root are that is in the manifest.
fn is_captured(upper: &OwnedFd, root: &DataRoot) -> Result<bool> {
    match open_below(upper, &root.inside) {
        Ok(inside) => has_mark(&inside, CAPTURED),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(false),
        Err(errno) => Err(errno).os("open in the layer", &root.inside),
    }
}

fn open(upper: &Path) -> Result<Option<(OwnedFd, OwnedFd)>> {
    let open = |path: &Path| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match openat(CWD, path, flags, Mode::empty()) {
            Ok(dir) => Ok(Some(dir)),
            // Nothing was made here, or the engine has removed the snapshot.
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno).os("open", path.display()),
        }
    };
    Ok(open(upper)?.zip(open(&beside(upper))?))
}

/// The upper directory is the container's: no link in it is followed.
fn open_below(upper: &OwnedFd, path: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2(
        upper,
        path,
        flags,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    )
}

fn parent_of(upper: &OwnedFd, path: &str) -> Result<(OwnedFd, String)> {
    let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
    Ok((
        open_below(upper, parent).os("open in the layer", parent)?,
        name.to_string(),
    ))
}

fn exchange(upper: &OwnedFd, dir: &OwnedFd, root: &DataRoot) -> Result<()> {
    let (parent, name) = parent_of(upper, &root.inside)?;
    renameat_with(
        dir,
        root.name.as_str(),
        &parent,
        name.as_str(),
        RenameFlags::EXCHANGE,
    )
    .os("exchange", &root.inside)
}

/// Removes a mount point that we made, and nothing that has content.
fn remove_empty(upper: &OwnedFd, path: &str) -> Result<()> {
    let Ok((parent, name)) = parent_of(upper, path) else {
        return Ok(());
    };
    match unlinkat(&parent, name.as_str(), AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::NOTDIR) => Ok(()),
        Err(errno) => Err(errno).os("rmdir in the layer", path),
    }
}

fn open_dir(dir: &OwnedFd, name: &str) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    openat(dir, name, flags, Mode::empty()).os("open data root", name)
}

/// Also where a stage was killed before it had made the directory.
fn has_no_data(dir: &OwnedFd, name: &str) -> Result<bool> {
    match open_dir(dir, name) {
        Ok(data) => Ok(is_empty(&data)? && !is_filled(&data)?),
        Err(error) if error.errno() == Some(libc::ENOENT) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Whether directory `dir` has no entries.
pub(crate) fn is_empty(dir: &OwnedFd) -> Result<bool> {
    let mut entries = rustix::fs::Dir::read_from(dir).os("read directory", "of a data root")?;
    Ok(
        !entries
            .any(|entry| entry.is_ok_and(|e| !matches!(e.file_name().to_bytes(), b"." | b".."))),
    )
}

fn has_mark(fd: impl AsFd, mark: &str) -> Result<bool> {
    let mut value = [0; 8];
    match rustix::fs::fgetxattr(fd, mark, &mut value) {
        Ok(length) => Ok(value.get(..length) == Some(b"y")),
        Err(Errno::NODATA) => Ok(false),
        Err(errno) => Err(errno).os("getxattr", mark),
    }
}

/// Removes file `name`, if it is there. A directory is none of ours.
fn remove(dir: &OwnedFd, name: &str) -> Result<()> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT | Errno::ISDIR) => Ok(()),
        Err(errno) => Err(errno).os("unlink", name),
    }
}

fn write_manifest(dir: &OwnedFd, roots: &[DataRoot]) -> Result<()> {
    let json = serde_json::to_vec(roots)
        .map_err(std::io::Error::from)
        .os("encode", MANIFEST)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = openat(dir, MANIFEST, flags, Mode::from_raw_mode(0o600)).os("create", MANIFEST)?;
    let mut file = std::fs::File::from(file);
    std::io::Write::write_all(&mut file, &json).os("write", MANIFEST)?;
    file.sync_data().os("fdatasync", MANIFEST)
}

fn read_manifest(dir: &OwnedFd) -> Result<Option<Vec<DataRoot>>> {
    let file = match openat(
        dir,
        MANIFEST,
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
    ) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno).os("open", MANIFEST),
    };
    let roots = serde_json::from_reader(std::fs::File::from(file))
        .map_err(std::io::Error::from)
        .os("decode", MANIFEST)?;
    Ok(Some(roots))
}

#[cfg(test)]
mod tests;
