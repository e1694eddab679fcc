//! The root file system (design D6): overlay with every layer ID-mapped, or an ID-mapped mount.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, ResolveFlags, StatVfsMountFlags, StatxFlags, fstatvfs, openat2,
    statx,
};
use rustix::mount::{MountAttrFlags, fsconfig_create, fsconfig_set_fd};

use crate::error::{Error, OsContext, Result};
use crate::kernel::features::{Feature, Features};
use crate::kernel::fs;
use crate::kernel::fs::FsOption;
use crate::rootfs::{Overlay, RootfsSource};
use crate::sys::mount::{Change, NODEV, NOEXEC, NOSUID, RDONLY, set_attr};

/// Clones of the mounts that hold the layers, and openings below them.
#[derive(Debug)]
pub(super) struct Layers<'a> {
    /// What the clones are ID-mapped to; none: they show the ids on disk.
    userns: Option<BorrowedFd<'a>>,
    /// What the clones are attached on, where the kernel wants them attached.
    point: Option<OwnedFd>,
    clones: Vec<Clone>,
}

#[derive(Debug)]
struct Clone {
    /// Host path that the clone is rooted at.
    path: PathBuf,
    mount_id: u64,
    tree: OwnedFd,
}

impl<'a> Layers<'a> {
    /// One clone of `parent` serves every layer on the same mount: at 100 layers four times
    /// faster than a clone each (kernel.md (a)).
    fn new(
        parent: &Path,
        userns: Option<BorrowedFd<'a>>,
        point: Option<OwnedFd>,
    ) -> Result<Layers<'a>> {
        Ok(Layers {
            clones: vec![Clone::new(parent, userns, point.as_ref())?],
            userns,
            point,
        })
    }

    /// O_PATH descriptor of host directory `path` as seen through a clone.
    pub(super) fn open(&mut self, path: &Path) -> Result<OwnedFd> {
        let mount_id = mount_id(path)?;
        let known = self
            .clones
            .iter()
            .find(|c| c.mount_id == mount_id && path.starts_with(&c.path));
        let clone = match known {
            Some(clone) => clone,
            None => {
                let clone = Clone::new(path, self.userns, self.point.as_ref())?;
                self.clones.push(clone);
                self.clones
                    .last()
                    .ok_or_else(|| Error::NotFound(path.display().to_string()))?
            }
        };
        let below = path.strip_prefix(&clone.path).unwrap_or(Path::new(""));
        let below = if below.as_os_str().is_empty() {
            Path::new(".")
        } else {
            below
        };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV;
        openat2(
            &clone.tree,
            below,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            resolve,
        )
        .os("open layer", path.display())
    }
}

impl Clone {
    fn new(path: &Path, userns: Option<BorrowedFd<'_>>, point: Option<&OwnedFd>) -> Result<Clone> {
        let mount_id = mount_id(path)?;
        let tree = fs::clone_path(path, false)?;
        if userns.is_some() {
            set_attr(
                &tree,
                Change {
                    idmap: userns,
                    ..Change::default()
                },
            )
            .map_err(|source| unmappable(path, source))?;
        }
        if let Some(point) = point {
            fs::attach(&tree, point, &path.display().to_string())?;
        }
        Ok(Clone {
            path: path.to_path_buf(),
            mount_id,
            tree,
        })
    }
}

/// The mounted root file system.
#[derive(Debug)]
pub(super) struct Root<'a> {
    /// O_PATH descriptor of its root directory.
    pub(super) dir: OwnedFd,
    /// The upper layer and what lies beside it, where it is a writable overlay.
    pub(super) upper: Option<Layers<'a>>,
}

/// The layers of one overlay.
struct Stack<'a> {
    mapped: Layers<'a>,
    /// The upper one where containerd has given it to the host ids already.
    owned: Option<Layers<'a>>,
}

impl<'a> Stack<'a> {
    /// `point` is the directory that the overlay will be mounted on. It hides clones that are attached there; they go with
    /// the old root at pivot_root.
    fn new(
        overlay: &Overlay,
        userns: BorrowedFd<'a>,
        point: &Path,
        features: &Features,
    ) -> Result<Stack<'a>> {
        let attached =
            !features.has(Feature::OverlayDetached) || !features.has(Feature::CloneDetached);
        let point = || attached.then(|| open_dir(point)).transpose();
        let owned = match (&overlay.upper, &overlay.remapped) {
            (Some((upper, _)), Some(_)) => Some(Layers::new(
                upper.parent().unwrap_or(upper),
                None,
                point()?,
            )?),
            _ => None,
        };
        Ok(Stack {
            mapped: Layers::new(&overlay.mapped_parent(), Some(userns), point()?)?,
            owned,
        })
    }

    fn upper(&mut self) -> &mut Layers<'a> {
        self.owned.as_mut().unwrap_or(&mut self.mapped)
    }
}

/// Mounts the root file system on `mount_point`, a host directory, in this mount namespace.
pub(super) fn mount<'a>(
    source: &RootfsSource,
    mount_point: &Path,
    userns: BorrowedFd<'a>,
    features: &Features,
) -> Result<Root<'a>> {
    let (detached, upper) = match source {
        RootfsSource::Overlay(overlay) => {
            let mut stack = Stack::new(overlay, userns, mount_point, features)?;
            let detached = if features.has(Feature::OverlayDescriptors) {
                Some(overlay_by_descriptors(overlay, &mut stack)?)
            } else {
                overlay_by_names(overlay, &mut stack, mount_point)?;
                None
            };
            let upper = stack.owned.unwrap_or(stack.mapped);
            (detached, overlay.upper.as_ref().map(|_| upper))
        }
        RootfsSource::Directory {
            path,
            recursive,
            readonly,
        } => {
            let tree = fs::clone_path(path, *recursive)?;
            map_tree(&tree, *recursive, *readonly, userns)
                .map_err(|source| unmappable(path, source))?;
            (Some(tree), None)
        }
        RootfsSource::Device {
            fs_type,
            source,
            options,
            readonly,
        } => {
            let mut all = vec![fs::option("source", source)];
            all.extend(options.iter().cloned());
            let tree = fs::new(fs_type, &all, MountAttrFlags::empty())?;
            map_tree(&tree, false, *readonly, userns)
                .map_err(|source| unmappable(Path::new(fs_type), source))?;
            (Some(tree), None)
        }
    };
    if let Some(detached) = detached {
        let target = open_dir(mount_point)?;
        fs::attach(detached, target, &mount_point.display().to_string())?;
    }
    let dir = open_dir(mount_point)?;
    Ok(Root { dir, upper })
}

/// A copy of the root file system, with what is mounted in it so far if `recursive`, for the shim to serve to the host.
/// No device in it opens.
pub(super) fn for_view(features: &Features, root: &OwnedFd, recursive: bool) -> Result<OwnedFd> {
    let tree = fs::clone_fd(features, root, recursive, "root file system")?;
    let change = Change {
        set: NODEV | NOSUID | NOEXEC,
        recursive,
        ..Change::default()
    };
    set_attr(&tree, change).os("mount_setattr nodev", "view of the root file system")?;
    Ok(tree)
}

fn map_tree(
    tree: &OwnedFd,
    recursive: bool,
    readonly: bool,
    userns: BorrowedFd<'_>,
) -> std::io::Result<()> {
    let set = if readonly { RDONLY } else { 0 };
    set_attr(
        tree,
        Change {
            set,
            idmap: Some(userns),
            recursive,
            ..Change::default()
        },
    )
}

fn overlay_by_descriptors(overlay: &Overlay, stack: &mut Stack<'_>) -> Result<OwnedFd> {
    let context = fs::context("overlay", &overlay.options)?;
    let set = |layers: &mut Layers<'_>, key: &str, path: &Path| {
        let dir = layers.open(path)?;
        fsconfig_set_fd(&context, key, &dir).map_err(|errno| {
            fs::explain(
                &context,
                "set overlay",
                &format!("{key}={}", path.display()),
                errno,
            )
        })
    };
    for lower in &overlay.lower {
        set(&mut stack.mapped, "lowerdir+", lower)?;
    }
    if let Some((upper, work)) = &overlay.upper {
        set(stack.upper(), "upperdir", upper)?;
        set(stack.upper(), "workdir", work)?;
    }
    fsconfig_create(&context)
        .map_err(|errno| fs::explain(&context, "create file system", "overlay", errno))?;
    let mount = fs::mount(&context, "overlay", MountAttrFlags::empty())?;
    assert_writable(&mount, overlay)?;
    Ok(mount)
}

/// The same by mount(2), where descriptors are named: mounts it on `mount_point`.
fn overlay_by_names(overlay: &Overlay, stack: &mut Stack<'_>, mount_point: &Path) -> Result<()> {
    let mut opened = Vec::new();
    let mut by_fd = |layers: &mut Layers<'_>, path: &Path| -> Result<String> {
        let dir = layers.open(path)?;
        let text = format!("/proc/self/fd/{}", dir.as_raw_fd());
        opened.push(dir);
        Ok(text)
    };
    let lowers = overlay
        .lower
        .iter()
        .map(|lower| by_fd(&mut stack.mapped, lower))
        .collect::<Result<Vec<_>>>()?;
    let mut data = format!("lowerdir={}", lowers.join(":"));
    if let Some((upper, work)) = &overlay.upper {
        data.push_str(&format!(
            ",upperdir={},workdir={}",
            by_fd(stack.upper(), upper)?,
            by_fd(stack.upper(), work)?
        ));
    }
    for FsOption { key, value } in &overlay.options {
        data.push_str(
            &value
                .as_ref()
                .map_or(format!(",{key}"), |v| format!(",{key}={v}")),
        );
    }
    fs::mount_overlay(&data, mount_point)?;
    assert_writable(&open_dir(mount_point)?, overlay)
}

/// overlayfs falls back to read-only without an error when it cannot make its work directory.
fn assert_writable(mount: &OwnedFd, overlay: &Overlay) -> Result<()> {
    let flags = fstatvfs(mount).os("statvfs", "overlay")?.f_flag;
    match &overlay.upper {
        Some((upper, _)) if flags.contains(StatVfsMountFlags::RDONLY) => Err(Error::Os {
            op: "mount overlay writable over",
            target: upper.display().to_string(),
            source: std::io::Error::from_raw_os_error(libc::EROFS),
        }),
        _ => Ok(()),
    }
}

fn open_dir(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .os("open", path.display())
}

fn mount_id(path: &Path) -> Result<u64> {
    Ok(statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)
        .os("statx", path.display())?
        .stx_mnt_id)
}

fn unmappable(path: &Path, source: std::io::Error) -> Error {
    if source.raw_os_error() == Some(libc::EINVAL) {
        return Error::Unsupported {
            feature: format!("root file system at {}", path.display()),
            needs: "a file system that can be ID-mapped (ext4, xfs, btrfs, tmpfs, erofs): move the snapshotter's root there".into(),
        };
    }
    Error::Os {
        op: "mount_setattr idmap",
        target: path.display().to_string(),
        source,
    }
}
