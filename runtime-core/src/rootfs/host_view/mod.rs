//! The host's view of a container's root file system, where the engine has mounted it itself (design D6 (c)): a FUSE
//! file system at the old path that passes through to the container's overlay.
//!
//! A bind of the overlay would do for reading, but host root has no id in it: it could make nothing. The server acts
//! as root inside, and so shows the ids that are on disk. Only the host's root may use it: the kernel lets nobody else in
//! (fuse(8), without `allow_other`).
//!
//! The container can hold up whoever touches its files, so the server is a process of its own ([`Service`]) that can be
//! killed and replaced; the shim passes requests on to it ([`relay`]) and touches none.

mod attributes;
mod nodes;
mod place;
mod relay;
mod reply;
mod server;
mod service;
mod tree;
mod wire;
mod workers;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use self::place::take_away;
use self::place::{Place, Watch};
use self::relay::Relaying;
pub(crate) use self::relay::Start;
pub(crate) use self::service::Service;
use crate::error::Result;
use crate::kernel::fuse;
use crate::kernel::fuse_control::Control;
use crate::kernel::mountinfo::Mount;
use crate::rootfs::mounted::stat;

/// What /proc/self/mountinfo shows behind `fuse.`.
const SUBTYPE: &str = "sysbox-view";

/// A view at its path.
#[derive(Debug)]
pub(crate) struct View {
    place: Arc<Place>,
    watch: Watch,
    relay: Relaying,
    /// Its connection ([`Control::abort`]).
    device: u32,
}

impl View {
    /// Mounts a view on `path`; `start` starts what serves it, when it is first looked at. `overlay` is what is seen without the
    /// mounts in it (a detached mount), `upper` its upper directory.
    pub(crate) fn start(
        path: &Path,
        upper: Option<PathBuf>,
        overlay: OwnedFd,
        start: Start,
    ) -> Result<View> {
        let fuse::Mounted { device, mount } =
            fuse::mount(SUBTYPE, "40000", &["default_permissions"])?;
        let place = Arc::new(Place::take(path, upper, overlay, mount)?);
        let started = stat(path).and_then(|stat| {
            let relay = Relaying::start(device, Arc::clone(&place), start)?;
            Ok((stat.stx_dev_minor, relay, Watch::start(Arc::clone(&place))?))
        });
        match started {
            Ok((device, relay, watch)) => Ok(View {
                place,
                watch,
                relay,
                device,
            }),
            Err(error) => {
                place.clear()?;
                Err(error)
            }
        }
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
            tracing::warn!(
                error,
                "who waits in a view is told a moment later that it ends"
            );
        }
        self.watch.stop();
        self.relay.stop();
        self.place.clear()
    }
}
