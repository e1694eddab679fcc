//! The mount API (fsopen(2), fsmount(2), move_mount(2), open_tree(2)) with errors that carry the
//! kernel's own words.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, OFlags, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
    open_tree,
};
use serde::{Deserialize, Serialize};

use super::features::{Feature, Features};
use super::mountinfo;
use crate::error::{Error, OsContext, Result};

/// One file-system option: a flag, or a key with a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FsOption {
    /// Key (`size`).
    pub key: String,
    /// Value (`64m`), none for a flag.
    pub value: Option<String>,
}

/// nosuid, nodev, noexec: what no pseudo file system needs.
pub(crate) const PLAIN: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// How much mount(2) takes, a zero included: a page, which is 4 KiB or more.
pub(crate) const MAX_OPTIONS: usize = 4096;

/// Opens a context for file system `fs_type` and sets `options`.
pub(crate) fn context(fs_type: &str, options: &[FsOption]) -> Result<OwnedFd> {
    let fs = fsopen(fs_type, FsOpenFlags::FSOPEN_CLOEXEC).os("fsopen", fs_type)?;
    if !options.iter().any(|option| option.key == "source") {
        // What /proc/mounts shows as the device; `none` confuses tools that look for `overlay`.
        fsconfig_set_string(&fs, "source", fs_type)
            .map_err(|errno| explain(&fs, "set source of", fs_type, errno))?;
    }
    for option in options {
        let set = match &option.value {
            Some(value) => fsconfig_set_string(&fs, option.key.as_str(), value.as_str()),
            None => fsconfig_set_flag(&fs, option.key.as_str()),
        };
        if let Err(errno) = set {
            let value = option.value.as_deref().unwrap_or("");
            return Err(explain(
                &fs,
                "set option of",
                &format!("{fs_type} {}={value}", option.key),
                errno,
            ));
        }
    }
    Ok(fs)
}

/// Creates the superblock of context `fs`.
pub(crate) fn create(fs: &OwnedFd, fs_type: &str) -> Result<()> {
    fsconfig_create(fs).map_err(|errno| explain(fs, "create file system", fs_type, errno))
}

/// Makes a detached mount of the created context `fs`.
pub(crate) fn mount(fs: &OwnedFd, fs_type: &str, attributes: MountAttrFlags) -> Result<OwnedFd> {
    fsmount(fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .map_err(|errno| explain(fs, "fsmount", fs_type, errno))
}

/// A new file system, mounted detached.
pub(crate) fn new(
    fs_type: &str,
    options: &[FsOption],
    attributes: MountAttrFlags,
) -> Result<OwnedFd> {
    let fs = context(fs_type, options)?;
    create(&fs, fs_type)?;
    mount(&fs, fs_type, attributes)
}

/// Mounts an overlay with these options on `point` by mount(2), which takes no more than a page of them.
pub(crate) fn mount_overlay(options: &str, point: &Path) -> Result<()> {
    if options.len() >= MAX_OPTIONS {
        return Err(Error::Unsupported {
            feature: format!("an overlay with {} bytes of options", options.len()),
            needs: "Linux 6.13 or newer, or an image of fewer layers".into(),
        });
    }
    let options = CString::new(options)
        .map_err(std::io::Error::from)
        .os("encode", "overlay options")?;
    let flags = MountFlags::empty();
    rustix::mount::mount("overlay", point, "overlay", flags, options.as_c_str())
        .os("mount overlay on", point.display())
}

/// Attaches the detached mount `mount` on `target`.
pub(crate) fn attach(mount: impl AsFd, target: impl AsFd, name: &str) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags).os("move_mount to", name)
}

/// A detached copy of the mount at `path`, with those below it if `recursive`.
pub(crate) fn clone_path(path: &Path, recursive: bool) -> Result<OwnedFd> {
    open_tree(CWD, path, tree_flags(recursive)).os("open_tree", path.display())
}

/// A detached copy of the mount behind `fd` (an O_PATH descriptor), rooted at it. Not every kernel copies what is not
/// attached in the caller's mount namespace ([`Feature::CloneDetached`]); where that is pretended, none does.
pub(crate) fn clone_fd(
    features: &Features,
    fd: impl AsFd,
    recursive: bool,
    name: &str,
) -> Result<OwnedFd> {
    if features.pretend_without(Feature::CloneDetached) && !is_attached(&fd)? {
        return Err(Errno::INVAL).os("open_tree", name);
    }
    copy_mount(fd, recursive, name)
}

/// The same on every kernel, for those who know that the mount is attached in this mount namespace.
pub(crate) fn copy_mount(fd: impl AsFd, recursive: bool, name: &str) -> Result<OwnedFd> {
    open_tree(fd, "", tree_flags(recursive) | OpenTreeFlags::AT_EMPTY_PATH).os("open_tree", name)
}

/// Whether `fd` is on a mount of this mount namespace.
fn is_attached(fd: impl AsFd) -> Result<bool> {
    let stat = statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).os("statx", "mount")?;
    Ok(mountinfo::read()?
        .iter()
        .any(|mount| mount.id == stat.stx_mnt_id))
}

fn tree_flags(recursive: bool) -> OpenTreeFlags {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags | OpenTreeFlags::AT_RECURSIVE
    } else {
        flags
    }
}

/// A key with a value.
pub(crate) fn option(key: &str, value: impl ToString) -> FsOption {
    FsOption {
        key: key.into(),
        value: Some(value.to_string()),
    }
}

/// An error with what the kernel logged in the context (fsopen(2): messages are read from it).
pub(crate) fn explain(
    fs: &OwnedFd,
    op: &'static str,
    target: &str,
    errno: rustix::io::Errno,
) -> Error {
    let mut log = Vec::new();
    if let Ok(flags) = rustix::fs::fcntl_getfl(fs) {
        let _ = rustix::fs::fcntl_setfl(fs, flags | OFlags::NONBLOCK);
    }
    let mut line = [0; 1024];
    while let Ok(length @ 1..) = rustix::io::read(fs, &mut line) {
        log.push(String::from_utf8_lossy(&line[..length]).trim().to_string());
        if log.len() == 8 {
            break;
        }
    }
    let target = if log.is_empty() {
        target.to_string()
    } else {
        format!("{target} ({})", log.join("; "))
    };
    Error::Os {
        op,
        target,
        source: errno.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_mount_2_would_cut_are_refused() {
        let error = mount_overlay(&"x".repeat(MAX_OPTIONS), Path::new("/nonexistent")).unwrap_err();
        assert!(error.to_string().contains("4096 bytes"), "{error}");
    }
}
