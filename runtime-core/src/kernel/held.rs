//! A mount of ours that containers get copies of.

use std::os::fd::{AsFd, OwnedFd};

use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, mkdirat, openat};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};

use super::features::{Feature, Features};
use super::fs::{self, PLAIN, option};
use crate::error::{Error, OsContext, Result};

/// What the mount is attached on.
const POINT: &str = "held";

/// A mount in no mount namespace, or, where the kernel copies none such ([`Feature::CloneDetached`]), in one of its own,
/// which nothing else is in: it keeps no mount of the host's from being unmounted.
#[derive(Debug)]
pub(crate) struct Held {
    mount: OwnedFd,
    place: Option<OwnedFd>,
}

impl Held {
    /// Holds the detached mount `mount`, of a file or a directory.
    pub(crate) fn new(mount: OwnedFd, features: &Features) -> Result<Held> {
        let place = if features.has(Feature::CloneDetached) {
            None
        } else {
            Some(aside(|| attach(&mount))?)
        };
        Ok(Held { mount, place })
    }

    /// A detached copy of it.
    pub(crate) fn copy(&self, name: &str) -> Result<OwnedFd> {
        let copy = || fs::copy_mount(&self.mount, false, name);
        match &self.place {
            None => copy(),
            Some(place) => aside(|| {
                setns(place, CloneFlags::CLONE_NEWNS).os("setns", "place of a mount")?;
                copy()
            }),
        }
    }
}

/// Runs `act` in a thread that may change its root, working directory and mount namespace.
fn aside<T: Send>(act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let act = || {
            unshare(CloneFlags::CLONE_FS).os("unshare", "root directory")?;
            act()
        };
        let thread = std::thread::Builder::new()
            .name("mounts".into())
            .spawn_scoped(scope, act)
            .os("start thread", "mounts")?;
        thread.join().unwrap_or_else(|_| {
            Err(Error::Os {
                op: "run",
                target: "thread that changes mounts".into(),
                source: std::io::Error::from(std::io::ErrorKind::Other),
            })
        })
    })
}

/// Moves this thread into a mount namespace that has only `mount`, on a tmpfs; returns it.
fn attach(mount: &OwnedFd) -> Result<OwnedFd> {
    unshare(CloneFlags::CLONE_NEWNS).os("unshare", "mount namespace")?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let place = openat(CWD, "/proc/thread-self/ns/mnt", flags, Mode::empty())
        .os("open", "/proc/thread-self/ns/mnt")?;
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .os("mount", "/ private")?;
    let options = [option("mode", "0700"), option("nr_inodes", 4)];
    let base = fs::new("tmpfs", &options, PLAIN)?;
    let old = openat(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).os("open", "/")?;
    fs::attach(&base, &old, "/")?;
    rustix::process::fchdir(&base).os("fchdir", "tmpfs")?;
    rustix::process::pivot_root(".", ".").os("pivot_root", "tmpfs")?;
    unmount(".", UnmountFlags::DETACH).os("umount", "old root")?;
    let kind = FileType::from_raw_mode(fstat(mount).os("stat", "mount")?.st_mode);
    if kind == FileType::Directory {
        mkdirat(&base, POINT, Mode::from_raw_mode(0o700)).os("mkdir", POINT)?;
    } else {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        openat(&base, POINT, flags, Mode::from_raw_mode(0o600)).os("create", POINT)?;
    }
    let point =
        openat(&base, POINT, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).os("open", POINT)?;
    fs::attach(mount.as_fd(), point, POINT)?;
    Ok(place)
}
