//! The host's view of a container's root file system, where the engine has mounted it itself (design D6 (c)): a FUSE
//! file system at the old path, served by the shim, that passes through to the container's overlay.
//!
//! A bind of the overlay would do for reading, but host root has no id in it: it could make nothing. The server acts
//! with the ids of root inside, and shows the ids that are on disk. Only the host's root may use it: the kernel lets
//! nobody else in (fuse(8), without `allow_other`).

mod attributes;
mod ids;
mod nodes;
mod place;
mod server;
mod tree;
mod workers;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use fuser::{Session, SessionACL};
use nix::sched::CloneFlags;
use rustix::fs::Mode;
use rustix::thread::{CapabilitiesSecureBits, set_capabilities_secure_bits};

use self::ids::Ids;
pub(crate) use self::place::take_away;
use self::place::{Place, Watch};
use self::server::{Server, Shared};
use self::tree::Tree;
use crate::error::{Error, OsContext, Result};
use crate::kernel::fuse;
use crate::kernel::fuse_control::Control;
use crate::kernel::idmap::IdMap;
use crate::kernel::mountinfo::Mount;
use crate::rootfs::mounted::stat;
use crate::sys;

/// What /proc/self/mountinfo shows behind `fuse.`.
const SUBTYPE: &str = "sysbox-view";

/// A view at its path.
#[derive(Debug)]
pub(crate) struct View {
    place: Arc<Place>,
    tree: Shared,
    watch: Watch,
    /// Its connection ([`Control::abort`]).
    device: u32,
}

impl View {
    /// Mounts a view of the file system at `root` (a detached mount) on `path` and serves it. `overlay` is what is seen
    /// without the mounts in it, `upper` its upper directory.
    pub(crate) fn start(
        path: &Path,
        upper: Option<PathBuf>,
        (root, overlay): (OwnedFd, OwnedFd),
        idmap: &IdMap,
    ) -> Result<View> {
        let (uid, gid) = idmap
            .host_uid(0)
            .zip(idmap.host_gid(0))
            .ok_or_else(|| Error::invalid("linux.uidMappings", "no mapping of id 0", "map it"))?;
        let tree = Tree::new(root, Ids(idmap.clone())).os("stat", "root file system")?;
        let tree: Shared = Arc::new(Mutex::new(Some(Arc::new(tree))));
        let fuse::Mounted { device, mount } =
            fuse::mount(SUBTYPE, "40000", &["default_permissions"])?;
        let place = Arc::new(Place::take(path, upper, overlay, mount)?);
        let number = stat(path)?.stx_dev_minor;
        let served = serve(
            Server::new(Arc::clone(&tree), Arc::clone(&place)),
            device,
            (uid, gid),
        );
        let watch = match served.and_then(|()| Watch::start(Arc::clone(&place))) {
            Ok(watch) => watch,
            Err(error) => {
                place.clear()?;
                return Err(error);
            }
        };
        Ok(View {
            place,
            tree,
            watch,
            device: number,
        })
    }

    /// Mounts the overlay at `point`, too, for what [`Place::pose`] does.
    pub(crate) fn anchor(&self, point: &Path) -> Result<()> {
        self.place.anchor(point)
    }

    /// Whether `mount` is one, of this shim or of one that has died.
    pub(crate) fn is(mount: &Mount) -> bool {
        mount.fs_type.strip_prefix("fuse.") == Some(SUBTYPE)
    }

    /// Takes it away. Files that somebody has open in it are gone, and so is what it holds of the container. Waits for no
    /// operation: whoever asked for one that has not ended is told so.
    pub(crate) fn close(self) -> Result<()> {
        if let Err(error) = Control::open().and_then(|control| control.abort(self.device)) {
            let error = error.chain();
            tracing::warn!(error, "a view ends when its last operation does");
        }
        self.watch.stop();
        let cleared = self.place.clear();
        let mut tree = self.tree.lock().unwrap_or_else(PoisonError::into_inner);
        drop(tree.take());
        cleared
    }
}

/// Answers the kernel from a thread of its own.
fn serve(server: Server, device: OwnedFd, ids: (u32, u32)) -> Result<()> {
    let config = fuser::Config::default();
    let session =
        Session::from_fd(server, device, SessionACL::Owner, config).os("serve", "view")?;
    std::thread::Builder::new()
        .name("view".into())
        .spawn(move || match act_as(ids) {
            // The end of a session is the end of its mounts; nobody waits for it.
            Ok(()) => drop(session.run()),
            Err(error) => tracing::error!(error = error.chain(), "view of a root file system"),
        })
        .os("start thread", "view")?;
    Ok(())
}

/// Makes this thread, and those that it starts, work as root inside, with all capabilities and without a umask.
fn act_as((uid, gid): (u32, u32)) -> Result<()> {
    nix::sched::unshare(CloneFlags::CLONE_FS).os("unshare", "umask")?;
    rustix::process::umask(Mode::empty());
    set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP)
        .os("prctl", "securebits")?;
    sys::process::set_fs_ids(uid, gid).os("setfsuid", uid)
}
