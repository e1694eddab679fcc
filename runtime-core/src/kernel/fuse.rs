//! Mounting a FUSE file system of ours, detached, without a helper program.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use crate::error::{OsContext, Result};

/// A file system that is to be served from `device`; its mount is detached.
#[derive(Debug)]
pub(crate) struct Mounted {
    /// The connection to the kernel.
    pub(crate) device: OwnedFd,
    /// Root of the mount: nosuid, nodev, noexec.
    pub(crate) mount: OwnedFd,
}

/// Mounts a file system that /proc/self/mountinfo shows as `fuse.<subtype>`. `root_mode` is the type of its root
/// in octal (`40000`), `flags` are further options of fuse(4) (`allow_other`).
pub(crate) fn mount(subtype: &str, root_mode: &str, flags: &[&str]) -> Result<Mounted> {
    let device = openat(
        CWD,
        "/dev/fuse",
        OFlags::RDWR | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .os("open", "/dev/fuse")?;
    let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC).os("fsopen", "fuse")?;
    let number = device.as_raw_fd().to_string();
    for (key, value) in [
        ("source", subtype),
        ("subtype", subtype),
        ("fd", &number),
        ("rootmode", root_mode),
        ("user_id", "0"),
        ("group_id", "0"),
    ] {
        fsconfig_set_string(&context, key, value)
            .os("set option of fuse", format!("{key}={value}"))?;
    }
    for flag in flags {
        fsconfig_set_flag(&context, *flag).os("set option of fuse", flag)?;
    }
    fsconfig_create(&context).os("create file system", "fuse")?;
    let plain = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, plain).os("fsmount", "fuse")?;
    Ok(Mounted { device, mount })
}
