//! A pod's network namespace that belongs to the host (design D9), the shim's side: which one may be replaced, and how the
//! engine finds the one that replaces it. The stage moves the content (`stage::pod_network`).

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use rustix::mount::{UnmountFlags, mount_bind, unmount};

use crate::error::{OsContext, Result};

/// The namespace, and the path by which the engine knows it.
#[derive(Debug)]
pub(crate) struct HostNetwork {
    /// The namespace as the engine made it.
    pub(crate) ns: OwnedFd,
    path: PathBuf,
}

impl HostNetwork {
    /// `None` where no other namespace can be put in the place of `ns`: its path is no mount point but some process's, as in
    /// `/proc/PID/ns/net`.
    pub(crate) fn new(ns: OwnedFd, path: &str) -> Result<Option<HostNetwork>> {
        let mount_root = StatxAttributes::MOUNT_ROOT;
        // A link is not followed: those of /proc lead to mount roots, too.
        let found =
            statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty()).os("statx", path)?;
        Ok(found
            .stx_attributes
            .contains(mount_root)
            .then(|| HostNetwork {
                ns,
                path: path.into(),
            }))
    }

    /// Binds `new` over the path, so that the engine's later visits, the removal too, find the interfaces. The old mount goes
    /// first: below the new one it would keep the path busy when the engine removes it.
    pub(crate) fn replace_by(&self, new: &OwnedFd) -> Result<()> {
        let shown = self.path.display();
        unmount(&self.path, UnmountFlags::DETACH).os("umount", &shown)?;
        let source = format!("/proc/self/fd/{}", new.as_fd().as_raw_fd());
        // Should we die here, the engine takes the empty file for a namespace that is closed (containerd
        // pkg/netns/netns_linux.go, Closed).
        mount_bind(source, &self.path).os("bind the pod's network on", &shown)
    }
}
