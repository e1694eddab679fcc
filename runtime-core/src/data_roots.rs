//! Data roots of inner engines (design D7), host side: directories beside a snapshot's upper
//! directory, swapped into it while the container is stopped.
//!
//! An inner engine's overlay can lie neither on the container's overlay nor inside its upper
//! directory, so `/var/lib/docker` and the like are bound from `<snapshot>/sysbox/<name>`, and the
//! engine that removes the snapshot removes them. When the container stops, the directory and the
//! mount point in the upper directory change places (renameat2(2), RENAME_EXCHANGE), so commit, diff
//! and build find the data in the layer; before the next start they change back.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, RenameFlags, ResolveFlags, XattrFlags, fsetxattr, mkdirat, openat,
    openat2, renameat_with, unlinkat,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{OsContext, Result};

/// Directory beside the upper directory.
pub(crate) const DIR: &str = "sysbox";
/// Lists the data roots of a snapshot whose data lie in the upper directory.
const MANIFEST: &str = "captured.json";
const OPAQUE: &str = "trusted.overlay.opaque";
const FILLED: &str = "trusted.sysbox.filled";

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

/// O_PATH descriptor of the directory of data root `name` in snapshot directory `snapshot`, made if missing. Done
/// as the upper layer is opened, so that on disk it belongs to whom root inside is there.
pub(crate) fn prepare(snapshot: &OwnedFd, name: &str) -> Result<OwnedFd> {
    let dir = make_dir(snapshot, DIR, 0o700)?;
    make_dir(&dir, name, 0o711)
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

/// Marks `data` as filled from the image, so that the image's content is not put there again even
/// if all of it is removed.
pub(crate) fn mark_filled(data: impl AsFd) -> Result<()> {
    fsetxattr(data, FILLED, b"y", XattrFlags::empty()).os("setxattr", FILLED)
}

/// Whether [`mark_filled`] was done.
pub(crate) fn is_filled(data: impl AsFd) -> Result<bool> {
    has_mark(data, FILLED)
}

/// Makes the data part of the layer: for a stopped or frozen container. Data roots without data
/// leave no trace. Doing it twice is doing it once.
pub(crate) fn capture(upper: &Path, roots: &[DataRoot]) -> Result<()> {
    let Some((upper, dir)) = open(upper)? else {
        return Ok(());
    };
    if exists(&dir, MANIFEST)? {
        return Ok(());
    }
    let full: Vec<_> = roots
        .iter()
        .filter_map(|root| match has_no_data(&dir, &root.name) {
            Ok(true) => None,
            Ok(false) => Some(Ok(root.clone())),
            Err(error) => Some(Err(error)),
        })
        .collect::<Result<_>>()?;
    // Written first: a crash half-way leaves a manifest from which `restore` finds the true state.
    write_manifest(&dir, &full)?;
    for root in roots {
        if full.contains(root) {
            let data = open_dir(&dir, &root.name)?;
            fsetxattr(&data, OPAQUE, b"y", XattrFlags::empty())
                .os("setxattr opaque on", &root.name)?;
            exchange(&upper, &dir, root)?;
        } else {
            for made in &root.made {
                remove_empty(&upper, made)?;
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
        // Only the data carry the mark, so it tells on which side a crash left them.
        let Ok(inside) = open_below(&upper, &root.inside) else {
            continue;
        };
        if is_opaque(&inside)? && !is_opaque(&open_dir(&dir, &root.name)?)? {
            exchange(&upper, &dir, root)?;
        }
        let data = open_dir(&dir, &root.name)?;
        match rustix::fs::fremovexattr(&data, OPAQUE) {
            Ok(()) | Err(Errno::NODATA) => {}
            Err(errno) => return Err(errno).os("removexattr opaque on", &root.name),
        }
    }
    match unlinkat(&dir, MANIFEST, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno).os("unlink", MANIFEST),
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

fn has_no_data(dir: &OwnedFd, name: &str) -> Result<bool> {
    let data = open_dir(dir, name)?;
    Ok(is_empty(&data)? && !is_filled(&data)?)
}

/// Whether directory `dir` has no entries.
pub(crate) fn is_empty(dir: &OwnedFd) -> Result<bool> {
    let mut entries = rustix::fs::Dir::read_from(dir).os("read directory", "of a data root")?;
    Ok(
        !entries
            .any(|entry| entry.is_ok_and(|e| !matches!(e.file_name().to_bytes(), b"." | b".."))),
    )
}

fn is_opaque(fd: impl AsFd) -> Result<bool> {
    has_mark(fd, OPAQUE)
}

fn has_mark(fd: impl AsFd, mark: &str) -> Result<bool> {
    let mut value = [0; 8];
    match rustix::fs::fgetxattr(fd, mark, &mut value) {
        Ok(length) => Ok(value.get(..length) == Some(b"y")),
        Err(Errno::NODATA) => Ok(false),
        Err(errno) => Err(errno).os("getxattr", mark),
    }
}

fn exists(dir: &OwnedFd, name: &str) -> Result<bool> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno).os("stat", name),
    }
}

fn write_manifest(dir: &OwnedFd, roots: &[DataRoot]) -> Result<()> {
    let json = serde_json::to_vec(roots)
        .map_err(std::io::Error::from)
        .os("encode", MANIFEST)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = openat(dir, MANIFEST, flags, Mode::from_raw_mode(0o600)).os("create", MANIFEST)?;
    std::io::Write::write_all(&mut std::fs::File::from(file), &json).os("write", MANIFEST)
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
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_flat() {
        assert_eq!(name("/var/lib/docker"), "var-lib-docker");
        assert_ne!(name("/var/lib/a-b"), name("/var/lib/a/b"));
    }
}
