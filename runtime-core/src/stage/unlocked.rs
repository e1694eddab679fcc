//! Which mounts the kernel locks for root inside, and which it does not.
//!
//! When init copies the mounts into a namespace of its own, which belongs to a less privileged user namespace than the one
//! they were made in, the kernel locks each of them twice over (mount_namespaces(7)): its restrictions (read-only, nosuid
//! and the like) cannot be dropped, and it cannot be taken away from its place. The second is in the way of whoever works
//! with mounts: no `mount --bind` of a directory that has such a mount below it, and no `umount -R` of an `rbind` of it.
//!
//! What covers only the image, or a file system that we have made ourselves, hides nothing from root inside, who owns what is
//! below. So S takes every such mount out of the root file system again, and has both side by side on a staging tmpfs, the root
//! of its namespace. Init copies that, locked; over it it mounts *copies* of what is there, each in its place. The restrictions
//! of a copy stay locked, and so do the mounts below it, but not the copy itself.
//!
//! Locked in their places stay:
//! - what covers `linux.maskedPaths` and `linux.readonlyPaths`, and what is mounted below /proc and /sys: the kernel's own files
//!   are below. Hence no `mount --bind` of /proc or /sys yet, which is to be served as a recursive one with the view;
//! - what is mounted in a volume: the volume may be writable where that is not.
//!
//! The staging tmpfs stays below `/`, out of reach, with the hidden procfs and sysfs (see `kernfs`) and all originals, whose
//! slaves the copies are. So an inner engine may
//! bind anything as a slave (`-v /:/host:rslave`), `mount --move` and pivot_root(2) work, for which no mount may be shared,
//! and unmounting a recursive bind does not unmount what it was made of. Where systemd is the container's program, `/` and
//! what is mounted in it are shared as well, as on a machine that systemd has booted.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, StatxFlags, mkdirat, mknodat, openat, statx,
};
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change, move_mount,
    open_tree, unmount,
};
use serde::{Deserialize, Serialize};

use super::inroot;
use crate::error::{OsContext, Result};
use crate::kernel::fs;
use crate::plan::Propagation;
use crate::rootfs::data_roots::copy::path_of;
use crate::sys::mount::{Change, set_attr};

/// Directory of the root file system on the staging tmpfs; the other mounts have numbers.
const ROOT: &str = "root";

/// Trees that inner engines and builders of images bind and unmount recursively, so never shared.
const API: [&str; 3] = ["/dev", "/proc", "/sys"];

/// Mounts to be unlocked, in the order in which they were made.
#[derive(Debug)]
pub(super) struct Unlocked {
    /// Where the root file system is in S's namespace.
    base: String,
    /// Ids of the mounts whose directories hide nothing from root inside.
    grounds: Vec<u64>,
    mounts: Vec<Taken>,
}

#[derive(Debug)]
struct Taken {
    /// Path inside, free of links.
    path: String,
    mount: OwnedFd,
    is_dir: bool,
}

impl Unlocked {
    pub(super) fn new(root: &OwnedFd) -> Result<Unlocked> {
        Ok(Unlocked {
            base: path_of(root)?,
            grounds: vec![mount_id(root)?],
            mounts: Vec::new(),
        })
    }

    /// Mounts `mount` on `target`, unlocked if what is there hides nothing. `path` is for errors.
    pub(super) fn attach(&mut self, mount: OwnedFd, target: impl AsFd, path: &str) -> Result<()> {
        let ground = mount_id(&target)?;
        let inside = self.inside(&target)?;
        fs::attach(&mount, target, path)?;
        if self.grounds.contains(&ground) {
            let stat = rustix::fs::fstat(&mount).os("stat", path)?;
            self.mounts.push(Taken {
                path: inside,
                is_dir: FileType::from_raw_mode(stat.st_mode) == FileType::Directory,
                mount,
            });
        }
        Ok(())
    }

    /// The same with a file system of our making, in which further mounts hide nothing.
    pub(super) fn attach_ground(
        &mut self,
        mount: OwnedFd,
        target: impl AsFd,
        path: &str,
    ) -> Result<()> {
        let id = mount_id(&mount)?;
        self.attach(mount, target, path)?;
        self.grounds.push(id);
        Ok(())
    }

    /// Leaves locked what is mounted at or below `target`, which is about to be covered.
    pub(super) fn keep_locked(&mut self, target: impl AsFd) -> Result<()> {
        let covered = self.inside(target)?;
        self.mounts
            .retain(|taken| !Path::new(&taken.path).starts_with(&covered));
        Ok(())
    }

    fn inside(&self, target: impl AsFd) -> Result<String> {
        let path = path_of(target)?;
        let inside = path.strip_prefix(&self.base).unwrap_or(&path);
        Ok(if inside.is_empty() { "/" } else { inside }.to_owned())
    }

    /// S: makes a staging tmpfs the root of the mount namespace, the root file system and the other mounts side by side on it.
    /// `at` is a directory of the host.
    pub(super) fn stage(self, root: &OwnedFd, at: &Path) -> Result<Staged> {
        let options = [fs::option("mode", "0700")];
        let staging = fs::new("tmpfs", &options, fs::PLAIN)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let below = openat(CWD, at, flags, Mode::empty()).os("open", at.display())?;
        fs::attach(&staging, below, "staging")?;
        let mut paths = Vec::new();
        // The last one first: it may lie on another.
        for (index, taken) in self.mounts.into_iter().enumerate().rev() {
            put(taken.mount, &staging, &index.to_string(), taken.is_dir)?;
            paths.push(taken.path);
        }
        paths.reverse();
        put(root, &staging, ROOT, true)?;
        rustix::process::fchdir(&staging).os("fchdir", "staging")?;
        rustix::process::pivot_root(".", ".").os("pivot_root", "staging")?;
        unmount(".", UnmountFlags::DETACH).os("umount", "old root")?;
        Ok(Staged { paths })
    }
}

/// Attaches `mount` on a new `name` of the staging tmpfs, where nobody else has a hand.
fn put(mount: impl AsFd, staging: &OwnedFd, name: &str, is_dir: bool) -> Result<()> {
    let kind = if is_dir {
        mkdirat(staging, name, Mode::RWXU)
    } else {
        mknodat(
            staging,
            name,
            FileType::RegularFile,
            Mode::RUSR | Mode::WUSR,
            0,
        )
    };
    kind.os("make in staging", name)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(mount, "", staging, name, flags).os("move_mount to staging", name)
}

/// What init is to put in place, having copied the mount namespace: paths inside, in order.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Staged {
    paths: Vec<String>,
}

impl Staged {
    /// C, in a mount namespace of its own whose root is the staging tmpfs: mounts copies of everything over that.
    pub(super) fn enter(&self, propagation: Propagation) -> Result<()> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let staging = openat(CWD, "/", flags, Mode::empty()).os("open", "staging")?;
        let private = MountPropagationFlags::PRIVATE;
        let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
        mount_change("/", shared).os("mount", "staging rshared")?;
        // `/` would have it for its parent, and pivot_root(2) refuse.
        mount_change("/", private).os("mount", "staging private")?;
        let copy = |name: &str| {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_RECURSIVE;
            open_tree(&staging, name, flags).os("open_tree staging", name)
        };
        let mut copies = Vec::new();
        for (index, path) in self.paths.iter().enumerate() {
            let copy = copy(&index.to_string())?;
            // What is attached to it is not to be attached to the original, too.
            if self
                .paths
                .iter()
                .any(|other| other != path && Path::new(other).starts_with(path))
            {
                propagate(&copy, Propagation::Slave, path)?;
            }
            copies.push(copy);
        }
        let root = copy(ROOT)?;
        propagate(&root, Propagation::Slave, "/")?;
        fs::attach(&root, &staging, "/")?;
        rustix::process::fchdir(&root).os("fchdir", "/")?;
        rustix::process::chroot(".").os("chroot", "/")?;
        for (path, copy) in self.paths.iter().zip(&copies) {
            let target =
                inroot::open(&root, path, OFlags::PATH).os("open in the root file system", path)?;
            fs::attach(copy, target, path)?;
        }
        // The others at once.
        propagate(&root, Propagation::Slave, "/")?;
        if propagation != Propagation::Slave {
            propagate(&root, propagation, "/")?;
        }
        // They have become shared on a shared parent.
        for (path, copy) in self.paths.iter().zip(&copies) {
            if API.iter().any(|api| Path::new(path).starts_with(api)) {
                propagate(copy, Propagation::Slave, path)?;
            }
        }
        Ok(())
    }
}

fn propagate(tree: &OwnedFd, propagation: Propagation, path: &str) -> Result<()> {
    let change = Change {
        propagation: super::mounts::flag(propagation),
        recursive: true,
        ..Change::default()
    };
    set_attr(tree, change).os("mount_setattr propagation", path)
}

/// The id of the mount that `fd` is on (statx(2), STATX_MNT_ID).
fn mount_id(fd: impl AsFd) -> Result<u64> {
    Ok(statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)
        .os("statx", "mount")?
        .stx_mnt_id)
}
