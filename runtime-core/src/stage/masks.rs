//! `linux.maskedPaths` and `linux.readonlyPaths`.

use std::os::fd::OwnedFd;

use rustix::fs::FileType;

use super::unlocked::Unlocked;
use super::{dev, inroot};
use crate::error::{OsContext, Result};
use crate::kernel::features::Features;
use crate::kernel::fs::{self, PLAIN, option};
use crate::sys::mount::{Change, NODEV, NOEXEC, NOSUID, RDONLY, set_attr};

/// Covers each path that exists: a file by /dev/null, a directory by an empty tmpfs, one for all.
pub(super) fn mask(
    features: &Features,
    root: &OwnedFd,
    paths: &[String],
    unlocked: &mut Unlocked,
) -> Result<()> {
    let mut empty: Option<OwnedFd> = None;
    for path in paths {
        let Some(target) = inroot::existing(root, path)? else {
            continue;
        };
        let stat = rustix::fs::fstat(&target).os("stat", path)?;
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let cover = match &empty {
            Some(first) if is_dir => fs::copy_mount(first, false, path)?,
            None if is_dir => empty_directory(path)?,
            _ => dev::host_node(features, "null", 1, 3)?,
        };
        unlocked.keep_locked(&target)?;
        fs::attach(&cover, target, path)?;
        if is_dir {
            empty.get_or_insert(cover);
        }
    }
    Ok(())
}

fn empty_directory(path: &str) -> Result<OwnedFd> {
    let options = [
        option("mode", "0555"),
        option("size", "4k"),
        option("nr_inodes", 2),
    ];
    let cover = fs::new("tmpfs", &options, PLAIN)?;
    let change = Change {
        set: RDONLY,
        ..Change::default()
    };
    set_attr(&cover, change).os("mount_setattr", path)?;
    Ok(cover)
}

/// Binds each path that exists on itself, read-only.
pub(super) fn readonly(
    features: &Features,
    root: &OwnedFd,
    paths: &[String],
    unlocked: &mut Unlocked,
) -> Result<()> {
    for path in paths {
        let Some(target) = inroot::existing(root, path)? else {
            continue;
        };
        let tree = fs::clone_fd(features, &target, true, path)?;
        let set = RDONLY | NOSUID | NODEV | NOEXEC;
        set_attr(
            &tree,
            Change {
                set,
                recursive: true,
                ..Change::default()
            },
        )
        .os("mount_setattr", path)?;
        unlocked.keep_locked(&target)?;
        fs::attach(tree, target, path)?;
    }
    Ok(())
}
