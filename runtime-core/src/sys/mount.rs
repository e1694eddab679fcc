//! mount_setattr(2), which rustix lacks, and ustat(2).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// MOUNT_ATTR_RDONLY
pub(crate) const RDONLY: u64 = 0x1;
/// MOUNT_ATTR_NOSUID
pub(crate) const NOSUID: u64 = 0x2;
/// MOUNT_ATTR_NODEV
pub(crate) const NODEV: u64 = 0x4;
/// MOUNT_ATTR_NOEXEC
pub(crate) const NOEXEC: u64 = 0x8;
/// MOUNT_ATTR_IDMAP
const IDMAP: u64 = 0x10_0000;

/// `struct mount_attr` of linux/mount.h.
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// A change of a mount's properties.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Change<'fd> {
    /// MOUNT_ATTR_* to set.
    pub(crate) set: u64,
    /// MOUNT_ATTR_* to clear.
    pub(crate) clear: u64,
    /// MS_PRIVATE, MS_SLAVE, MS_SHARED, MS_UNBINDABLE or 0.
    pub(crate) propagation: u64,
    /// Map ids through this user namespace.
    pub(crate) idmap: Option<BorrowedFd<'fd>>,
    /// The whole tree, not the top mount only.
    pub(crate) recursive: bool,
}

/// Applies `change` to the mount that `mount` refers to (O_PATH or from open_tree(2)).
pub(crate) fn set_attr(mount: impl AsFd, change: Change<'_>) -> io::Result<()> {
    let mut attr = MountAttr {
        attr_set: change.set,
        attr_clr: change.clear,
        propagation: change.propagation,
        userns_fd: 0,
    };
    if let Some(userns) = change.idmap {
        attr.attr_set |= IDMAP;
        attr.userns_fd = u64::from(userns.as_raw_fd().unsigned_abs());
    }
    let mut flags = libc::AT_EMPTY_PATH;
    if change.recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: the path is a NUL-terminated literal and `attr` a valid mount_attr of the size
    // passed; both outlive the call. rustix lists mount_setattr as not implemented.
    let r = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if r == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Asks for the file system with device number `device` (ustat(2)). Where that is about to end, it waits until it has, and is
/// EINVAL then: the end has the lock of the superblock, which this call takes (fs/super.c, user_get_super()).
#[cfg(target_arch = "x86_64")]
pub(crate) fn file_system_stat(device: u64) -> io::Result<()> {
    /// `struct ustat` of linux/types.h.
    #[repr(C)]
    #[derive(Default)]
    struct Ustat {
        f_tfree: libc::c_int,
        f_tinode: libc::c_ulong,
        f_fname: [u8; 6],
        f_fpack: [u8; 6],
    }
    let mut stat = Ustat::default();
    // SAFETY: `stat` is a valid ustat that outlives the call. There is no safe wrapper, for the call is obsolete.
    match unsafe { libc::syscall(libc::SYS_ustat, device, &raw mut stat) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Linux has no such call on newer architectures.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn file_system_stat(_device: u64) -> io::Result<()> {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}
