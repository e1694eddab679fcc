//! A root file system that the engine has mounted itself (design D6 (c)): dockerd's overlay at `root.path`.
//!
//! Two overlays on one upper directory see each other's changes late or wrongly (kernel.md (b)), so the engine's is
//! unmounted, the container gets one of its own over the same layers, and while it lives the host has a [`View`] of
//! that at the old path. When the container has stopped, the engine's overlay is put back. Ours has a work directory of
//! its own, so that not even one that the engine mounts too early can damage it.

use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Statx, StatxAttributes, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MoveMountFlags, UnmountFlags, move_mount, unmount};
use serde::{Deserialize, Serialize};

use crate::error::{Error, OsContext, Result};
use crate::kernel::features::{Feature, Features};
use crate::kernel::fs;
use crate::kernel::fs::FsOption;
use crate::kernel::mountinfo::{self, Mount};
use crate::rootfs::Overlay;
use crate::rootfs::host_view::{self, Start, View};
use crate::rootfs::superblock::Superblock;
use crate::sys;

/// Our work directory, beside the upper directory: the engine that removes the layer removes it.
const WORK: &str = "sysbox.work";
/// How long an overlay may take to go once nobody should have it any more.
const GRACE: Duration = Duration::from_secs(2);

/// An overlay at `root.path`, as it was mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mounted {
    /// Where, links resolved.
    pub(crate) path: PathBuf,
    /// Its layers, links resolved.
    pub(crate) overlay: Overlay,
}

impl Mounted {
    /// The overlay mounted at `path`; `None` where something else is there.
    pub(crate) fn find(path: &Path) -> Result<Option<Mounted>> {
        let path = path
            .canonicalize()
            .os("resolve root.path", path.display())?;
        let stat = stat(&path)?;
        if !stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
            refuse_empty(&path)?;
            return Ok(None);
        }
        let mounts = mountinfo::read()?;
        let Some(mount) = mounts.iter().find(|m| m.id == stat.stx_mnt_id) else {
            return Ok(None);
        };
        if mount.fs_type != "overlay" || mount.root != Path::new("/") {
            return Ok(None);
        }
        let overlay = layers_of(mount)?;
        Ok(Some(Mounted { path, overlay }))
    }

    /// The same layers with our own work directory.
    pub(crate) fn ours(&self) -> Overlay {
        let mut overlay = self.overlay.clone();
        if let Some((upper, work)) = &mut overlay.upper {
            *work = upper.with_file_name(WORK);
        }
        overlay
    }

    /// Puts it back, as a dead shim or engine may have left the path.
    fn put_back(&self, features: &Features) -> Result<()> {
        // The view of a shim that has died, and whatever the engine has mounted above it since.
        host_view::take_away(&self.path)?;
        let is_taken = |mount: &Mount| mount.point == self.path;
        if mountinfo::read()?.iter().any(is_taken) {
            return Ok(());
        }
        if !features.has(Feature::OverlayAppend) {
            return fs::mount_overlay(&self.options(), &self.path);
        }
        let context = fs::context("overlay", &self.overlay.options)?;
        let set = |key: &str, value: &Path| {
            rustix::mount::fsconfig_set_string(&context, key, value).map_err(|errno| {
                let text = format!("{key}={}", value.display());
                fs::explain(&context, "set overlay", &text, errno)
            })
        };
        for lower in &self.overlay.lower {
            set("lowerdir+", lower)?;
        }
        if let Some((upper, work)) = &self.overlay.upper {
            set("upperdir", upper)?;
            set("workdir", work)?;
        }
        fs::create(&context, "overlay")?;
        let mount = fs::mount(&context, "overlay", MountAttrFlags::empty())?;
        attach(&mount, &self.path)
    }

    /// Its options as mount(2) takes them (overlayfs.rst: backslashes make commas and colons part of a path). Not by way of
    /// descriptors: whoever looks into mountinfo next must find the paths.
    fn options(&self) -> String {
        let Overlay {
            lower,
            upper,
            options,
            ..
        } = &self.overlay;
        let lower: Vec<_> = lower.iter().map(|dir| escaped(dir)).collect();
        let mut text = format!("lowerdir={}", lower.join(":"));
        if let Some((upper, work)) = upper {
            text += &format!(",upperdir={},workdir={}", escaped(upper), escaped(work));
        }
        for FsOption { key, value } in options {
            text += &match value {
                Some(value) => format!(",{key}={value}"),
                None => format!(",{key}"),
            };
        }
        text
    }

    /// Refuses a root file system that could not be put back.
    fn check(&self, features: &Features) -> Result<()> {
        let length = self.options().len();
        if features.has(Feature::OverlayAppend) || length < fs::MAX_OPTIONS {
            return Ok(());
        }
        Err(Error::Unsupported {
            feature: format!(
                "root file system at {} with {length} bytes of layers' paths",
                self.path.display()
            ),
            needs: "Linux 6.7 or newer, or an image of fewer layers".into(),
        })
    }
}

fn escaped(path: &Path) -> String {
    let special = |c: char| matches!(c, '\\' | ',' | ':');
    let mut text = String::new();
    for c in path.to_string_lossy().chars() {
        if special(c) {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

/// Undoes what a dead shim has done to `mounted`; `point` is where the container's overlay was mounted for it.
pub(crate) fn cleanup(mounted: &Mounted, point: &Path, features: &Features) -> Result<()> {
    let is_root = |stat: Statx| stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
    let overlay = match stat(point).is_ok_and(is_root) {
        true => Some(Superblock::watch(point)?),
        false => None,
    };
    detach(point)?;
    // Whoever had it open is dead, but may not have let go of it yet: the shim itself above all.
    if let Some(overlay) = overlay
        && !overlay.is_gone(GRACE)?
    {
        return Err(still_mounted(&mounted.path));
    }
    // The engine may have removed the layer meanwhile.
    match mounted.put_back(features) {
        Err(error) if error.errno() == Some(libc::ENOENT) => Ok(()),
        result => result,
    }
}

/// The root file system of a container, taken over from the engine. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Taken {
    mounted: Mounted,
    /// Where the container's overlay is mounted for us.
    point: PathBuf,
    features: Features,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// Nothing is at the path.
    Unmounted,
    /// The view is; and the overlay that it shows. No watch on that yet: the host has few inotify instances, and a container may
    /// live for months.
    Shown(View, OwnedFd),
    GivenBack,
}

impl Taken {
    /// Unmounts the engine's overlay; the container's is going to be at `point` as well.
    pub(crate) fn new(mounted: Mounted, point: PathBuf, features: &Features) -> Result<Taken> {
        mounted.check(features)?;
        let path = mounted.path.display();
        if let Some((_, work)) = &mounted.ours().upper {
            let made = std::fs::DirBuilder::new().mode(0o700).create(work);
            if !matches!(&made, Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists) {
                made.os("mkdir", work.display())?;
            }
        }
        let overlay = Superblock::watch(&mounted.path)?;
        unmount(&mounted.path, UnmountFlags::empty()).map_err(|errno| match errno {
            Errno::BUSY => in_use(&mounted.path, "a process has files open in it"),
            errno => Error::Os {
                op: "umount",
                target: path.to_string(),
                source: errno.into(),
            },
        })?;
        if !overlay.is_gone(GRACE)? {
            return Err(in_use(
                &mounted.path,
                "another mount namespace holds it, to which unmounting does not propagate",
            ));
        }
        Ok(Taken {
            mounted,
            point,
            features: features.clone(),
            state: Mutex::new(State::Unmounted),
        })
    }

    /// Gives the host a view of the container's overlay at the old path, served by what `start` starts. `mount` is a detached
    /// mount of it, without what is mounted in it.
    pub(crate) fn show(&self, mount: OwnedFd, start: Start) -> Result<()> {
        let overlay = mount.try_clone().os("dup", "root file system")?;
        let upper = self.mounted.overlay.upper.as_ref();
        let upper = upper.map(|(upper, _)| upper.clone());
        let view = View::start(&self.mounted.path, upper, mount, start)?;
        *self.lock() = State::Shown(view, overlay);
        Ok(())
    }

    /// To be called when the stage has left its mount namespace, in which it uses the same path.
    pub(crate) fn anchor(&self) -> Result<()> {
        match &*self.lock() {
            State::Shown(view, _) => view.anchor(&self.point),
            State::Unmounted | State::GivenBack => Ok(()),
        }
    }

    /// Puts the engine's overlay back: once no process of the container lives. Again is nothing.
    pub(crate) fn give_back(&self) -> Result<()> {
        let mut state = self.lock();
        match std::mem::replace(&mut *state, State::Unmounted) {
            State::Shown(view, overlay) => {
                let watch = Superblock::watch(&sys::fd::path(&overlay))?;
                drop(overlay);
                view.close()?;
                detach(&self.point)?;
                // Left alone then: better no root file system for the engine than two overlays on one layer.
                if !watch.is_gone(GRACE)? {
                    *state = State::GivenBack;
                    return Err(still_mounted(&self.mounted.path));
                }
                cleanup(&self.mounted, &self.point, &self.features)?;
            }
            State::Unmounted => cleanup(&self.mounted, &self.point, &self.features)?,
            State::GivenBack => {}
        }
        *state = State::GivenBack;
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Every change of it is one assignment: a panic elsewhere leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Err(error) = self.give_back() {
            tracing::warn!(path = %self.mounted.path.display(), error = error.chain(), "root file system not put back");
        }
    }
}

/// Attaches `mount` at host path `path`.
pub(crate) fn attach(mount: &OwnedFd, path: &Path) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(mount, "", CWD, path, flags).os("move_mount to", path.display())
}

/// Unmounts what is at `point`, if something is.
fn detach(point: &Path) -> Result<()> {
    match unmount(point, UnmountFlags::DETACH) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno).os("umount", point.display()),
    }
}

/// Type and identity of the mount at `path`, without a question to whoever serves it.
pub(crate) fn stat(path: &Path) -> Result<Statx> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC;
    statx(CWD, path, flags, StatxFlags::MNT_ID).os("statx", path.display())
}

fn still_mounted(path: &Path) -> Error {
    in_use(
        path,
        "the container's overlay is still mounted somewhere after its end",
    )
}

fn in_use(path: &Path, why: &str) -> Error {
    Error::invalid(
        "root.path",
        path.display(),
        format!(
            "{why}: let go of it, or run the engine and containerd in one mount namespace with shared propagation"
        ),
    )
}

/// An engine that mounts for itself where we do not see it leaves us an empty directory.
fn refuse_empty(path: &Path) -> Result<()> {
    let empty = std::fs::read_dir(path)
        .os("read directory", path.display())?
        .next()
        .is_none();
    if !empty {
        return Ok(());
    }
    Err(Error::invalid(
        "root.path",
        path.display(),
        "nothing is mounted there in containerd's mount namespace: run the engine in the same one (no PrivateMounts= \
         or PrivateTmp= in one of the two units)",
    ))
}

/// Layers and further options of a mounted overlay.
fn layers_of(mount: &Mount) -> Result<Overlay> {
    let wrong = |what: &str| {
        Error::invalid(
            "root.path",
            mount.point.display(),
            format!("{what}: use the overlay2 driver or the overlayfs snapshotter"),
        )
    };
    let (mut lower, mut upper, mut work, mut options) = (Vec::new(), None, None, Vec::new());
    for (key, value) in mount.options() {
        match (key, value) {
            ("lowerdir", Some(dirs)) => lower.extend(mountinfo::layers(dirs)),
            ("lowerdir+", Some(dir)) => lower.push(mountinfo::path(dir)),
            ("upperdir", Some(dir)) => upper = Some(mountinfo::path(dir)),
            ("workdir", Some(dir)) => work = Some(mountinfo::path(dir)),
            ("rw" | "ro" | "seclabel", None) => {}
            (key, value) => options.push(FsOption {
                key: key.into(),
                value: value.map(|value| mountinfo::path(value).to_string_lossy().into_owned()),
            }),
        }
    }
    // Engines whose list of layers is longer than a page mount from their home directory, with links or paths
    // relative to it (overlay2: `l/X`, containerd: `12/fs`).
    let home = upper.as_deref().and_then(|upper| upper.parent()?.parent());
    let real = |dir: &Path| -> Result<PathBuf> {
        let dir = match home {
            _ if dir.as_os_str().is_empty() => return Err(wrong("it has layers of data only")),
            _ if dir.is_absolute() => dir.to_path_buf(),
            Some(home) => home.join(dir),
            None => {
                return Err(wrong(
                    "its layers are relative and it has no upper directory",
                ));
            }
        };
        dir.canonicalize().os("resolve layer", dir.display())
    };
    let lower = lower
        .iter()
        .map(|dir| real(dir))
        .collect::<Result<Vec<_>>>()?;
    if lower.is_empty() {
        return Err(wrong("an overlay without lower layers"));
    }
    let upper = match (&upper, &work) {
        (Some(upper), Some(work)) => Some((real(upper)?, real(work)?)),
        (None, None) => None,
        _ => return Err(wrong("an upper directory without a work directory")),
    };
    Ok(Overlay {
        lower,
        upper,
        options,
        remapped: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_back_by_mount_2_is_escaped_and_no_longer_than_a_page() {
        let mut mounted = Mounted {
            path: "/m".into(),
            overlay: Overlay {
                lower: vec!["/a:b".into(), "/c,d".into()],
                upper: Some(("/u".into(), "/w\\x".into())),
                options: vec![FsOption {
                    key: "index".into(),
                    value: Some("off".into()),
                }],
                remapped: None,
            },
        };
        assert_eq!(
            mounted.options(),
            r"lowerdir=/a\:b:/c\,d,upperdir=/u,workdir=/w\\x,index=off"
        );
        let old = Features::probe(&[Feature::OverlayAppend]);
        mounted.check(&old).unwrap();
        mounted.overlay.lower = vec![format!("/{}", "l".repeat(99)).into(); 41];
        let error = mounted.check(&old).unwrap_err().to_string();
        assert!(
            error.contains("/m") && error.contains("Linux 6.7"),
            "{error}"
        );
        mounted.check(&Features::default()).unwrap();
    }
}
