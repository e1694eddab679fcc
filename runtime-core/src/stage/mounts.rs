//! The spec's mounts, and the host's kernel modules.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, openat};
use rustix::mount::MountAttrFlags;

use super::inroot::{self, Target};
use super::unlocked::Unlocked;
use super::userns_fs::TmpfsMaker;
use super::{dev, kernfs};
use crate::config::OnUnmappable;
use crate::error::{Error, OsContext, Result, Warning};
use crate::kernel::features::Features;
use crate::kernel::fs::{self, FsOption, option};
use crate::kernel::idmap::IdMap;
use crate::plan::{Mount, MountKind, Plan, Propagation};
use crate::rootfs::data_roots::copy;
use crate::sys::clone::SingleThreaded;
use crate::sys::mount::{Change, NODEV, NOSUID, RDONLY, set_attr};

/// What the mounts need to know of the container.
#[derive(Debug)]
pub(super) struct Context<'a> {
    pub(super) proof: &'a SingleThreaded,
    pub(super) root: &'a OwnedFd,
    pub(super) plan: &'a Plan,
    pub(super) idmap: &'a IdMap,
    pub(super) userns: BorrowedFd<'a>,
    pub(super) pid_ns: BorrowedFd<'a>,
    pub(super) unmappable: OnUnmappable,
    pub(super) features: &'a Features,
}

/// Makes the spec's mounts in order; returns downgrades.
pub(super) fn mount_all(
    context: &Context<'_>,
    tmpfs: &mut TmpfsMaker,
    unlocked: &mut Unlocked,
) -> Result<Vec<Warning>> {
    let mut warnings = Vec::new();
    let readonly = context.plan.base.readonly;
    for mount in &context.plan.mounts {
        let field = format!("mounts[] {}", mount.destination);
        let (tree, is_dir) = match &mount.kind {
            MountKind::Bind { source, recursive } => {
                bind(context, mount, source, *recursive, &mut warnings)?
            }
            MountKind::Tmpfs { options, copy_up } => {
                let tree = fs::mount(&tmpfs.next()?, "tmpfs", MountAttrFlags::empty())?;
                let (uid, gid) = dev::owner(context.idmap, 0, 0)?;
                let given = |key: &str| options.iter().any(|o| o.key == key);
                if !given("uid") && !given("gid") {
                    dev::own(&tree, uid, gid)?;
                }
                if *copy_up && let Some(below) = inroot::existing(context.root, &mount.destination)?
                {
                    let text = copy::tree(&below, &tree, true)?;
                    warnings.extend(text.map(|text| Warning::new(&field, text)));
                }
                (tree, true)
            }
            MountKind::Proc => (
                kernfs::procfs(context.proof, context.pid_ns, context.features)?,
                true,
            ),
            MountKind::Sysfs => (kernfs::further("sysfs", readonly)?, true),
            MountKind::Cgroup => (kernfs::further("cgroup2", readonly)?, true),
            MountKind::Mqueue => (kernfs::further("mqueue", false)?, true),
            MountKind::Devpts { options } => {
                (fs::new("devpts", options, MountAttrFlags::empty())?, true)
            }
            MountKind::Other {
                fs_type,
                source,
                options,
            } => {
                let mut all = vec![option("source", source)];
                all.extend(options.iter().cloned());
                let tree = fs::new(fs_type, &all, MountAttrFlags::empty())?;
                map(context, mount, &tree, source, &mut warnings)?;
                (tree, true)
            }
        };
        change(&tree, mount).os("mount_setattr", &field)?;
        let kind = if is_dir {
            Target::Directory(0o755)
        } else {
            Target::File(0o644)
        };
        let target = inroot::target(context.root, &mount.destination, kind)?;
        if matches!(mount.kind, MountKind::Tmpfs { .. }) {
            unlocked.attach_ground(tree, target, &mount.destination)?;
        } else {
            unlocked.attach(tree, target, &mount.destination)?;
        }
    }
    Ok(warnings)
}

/// Options of all tmpfs of the spec, in order.
pub(super) fn tmpfs_options(plan: &Plan) -> impl Iterator<Item = Vec<FsOption>> {
    plan.mounts.iter().filter_map(|mount| match &mount.kind {
        MountKind::Tmpfs { options, .. } => Some(options.clone()),
        _ => None,
    })
}

fn bind(
    context: &Context<'_>,
    mount: &Mount,
    source: &str,
    recursive: bool,
    warnings: &mut Vec<Warning>,
) -> Result<(OwnedFd, bool)> {
    let missing = || {
        Error::invalid(
            "mounts[].source",
            source,
            "does not exist on the host: create it first",
        )
    };
    let opened = match openat(CWD, source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Err(missing()),
        opened => opened.os("open bind source", source)?,
    };
    let stat = rustix::fs::fstat(&opened).os("stat", source)?;
    let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let tree = fs::clone_fd(context.features, &opened, recursive, source)?;
    map(context, mount, &tree, source, warnings)?;
    Ok((tree, is_dir))
}

/// Maps ids of `tree`; where its file system cannot, warns or refuses as configured.
fn map(
    context: &Context<'_>,
    mount: &Mount,
    tree: &OwnedFd,
    source: &str,
    warnings: &mut Vec<Warning>,
) -> Result<()> {
    if mount.unmapped {
        return Ok(());
    }
    let own;
    let userns = match &mount.idmap {
        Some(idmap) if idmap != context.idmap => {
            own = super::maker::userns_for(context.proof, idmap)?;
            own.as_fd()
        }
        _ => context.userns,
    };
    let whole = mount.idmap_recursive;
    let mut mapped = set_attr(
        tree,
        Change {
            idmap: Some(userns),
            recursive: whole,
            ..Change::default()
        },
    );
    let mut partly = false;
    if whole && mapped.is_err() {
        // One unmappable mount below fails the whole tree: the top alone may still do.
        mapped = set_attr(
            tree,
            Change {
                idmap: Some(userns),
                ..Change::default()
            },
        );
        partly = mapped.is_ok();
    }
    match mapped {
        Ok(()) if !partly => Ok(()),
        Err(error) if error.raw_os_error() != Some(libc::EINVAL) => {
            Err(error).os("mount_setattr idmap", source)
        }
        _ => {
            let what = if partly {
                "mounts below it"
            } else {
                "its file system"
            };
            let text = format!(
                "{source}: {what} cannot be ID-mapped, so files show as nobody there; move it to ext4, xfs, btrfs or tmpfs"
            );
            match context.unmappable {
                OnUnmappable::Warn => {
                    warnings.push(Warning::new(
                        format!("mounts[] {}", mount.destination),
                        text,
                    ));
                    Ok(())
                }
                OnUnmappable::Error => Err(Error::invalid("mounts[].source", source, text)),
            }
        }
    }
}

fn change(tree: &OwnedFd, mount: &Mount) -> std::io::Result<()> {
    let recursive = Change {
        set: mount.set_recursive,
        clear: mount.clear_recursive,
        recursive: true,
        ..Change::default()
    };
    if recursive.set | recursive.clear != 0 {
        set_attr(tree, recursive)?;
    }
    let (propagation, whole) = mount.propagation.unwrap_or((Propagation::Private, true));
    set_attr(
        tree,
        Change {
            propagation: flag(propagation),
            recursive: whole,
            ..Change::default()
        },
    )?;
    if mount.set | mount.clear != 0 {
        set_attr(
            tree,
            Change {
                set: mount.set,
                clear: mount.clear,
                ..Change::default()
            },
        )?;
    }
    Ok(())
}

/// MS_* of a propagation type.
pub(super) fn flag(propagation: Propagation) -> u64 {
    match propagation {
        Propagation::Private => libc::MS_PRIVATE,
        Propagation::Slave => libc::MS_SLAVE,
        Propagation::Shared => libc::MS_SHARED,
        Propagation::Unbindable => libc::MS_UNBINDABLE,
    }
}

/// Binds the running kernel's modules and headers read-only, where the host has them: modprobe and
/// builds against the kernel work inside as far as loading is not needed. Never mapped: root inside reads what everybody on
/// the host may, and not a key that signs modules.
pub(super) fn kernel_files(context: &Context<'_>, unlocked: &mut Unlocked) -> Result<()> {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    for path in [
        format!("/lib/modules/{release}"),
        format!("/usr/src/linux-headers-{release}"),
    ] {
        let covered = context
            .plan
            .mounts
            .iter()
            .any(|m| Path::new(&path).starts_with(&m.destination));
        let Ok(source) = openat(
            CWD,
            &path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        ) else {
            continue;
        };
        if covered {
            continue;
        }
        let tree = fs::clone_fd(context.features, &source, false, &path)?;
        let change = Change {
            set: RDONLY | NOSUID | NODEV,
            ..Change::default()
        };
        set_attr(&tree, change).os("mount_setattr", &path)?;
        let target = inroot::target(context.root, &path, Target::Directory(0o755))?;
        unlocked.attach(tree, target, &path)?;
    }
    Ok(())
}
