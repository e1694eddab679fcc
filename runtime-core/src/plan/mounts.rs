//! `mounts`: what the user mounts, and what of it the runtime makes itself.

use oci_spec::runtime as oci;
use serde::{Deserialize, Serialize};
use std::path::Path;

use super::file_systems;
use super::idmap;
use super::options::{Options, Propagation};
use super::text;
use crate::error::{Error, Result, Warning};
use crate::kernel::fs::FsOption;
use crate::kernel::idmap::IdMap;

/// A mount of the spec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mount {
    /// Absolute path inside, cleaned (no `..`).
    pub destination: String,
    /// What is mounted.
    pub kind: MountKind,
    /// MOUNT_ATTR_* bits set on the top mount (mount_setattr(2)).
    pub set: u64,
    /// MOUNT_ATTR_* bits cleared on the top mount.
    pub clear: u64,
    /// MOUNT_ATTR_* bits set on the whole tree (`rro`, `rnosuid`, …).
    pub set_recursive: u64,
    /// MOUNT_ATTR_* bits cleared on the whole tree.
    pub clear_recursive: u64,
    /// Propagation and whether it is recursive; none: private, recursively.
    pub propagation: Option<(Propagation, bool)>,
    /// Mappings of this mount, where given (`uidMappings`/`gidMappings`); none: the container's own.
    pub idmap: Option<IdMap>,
    /// Map the whole tree (`ridmap`, or `rbind` without mappings of its own), not the top mount only.
    pub idmap_recursive: bool,
    /// Not to be mapped at all: named in `SYSBOX_SKIP_UID_SHIFT`.
    pub unmapped: bool,
}

/// Kinds of mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum MountKind {
    /// A host path; `recursive` for `rbind`.
    Bind {
        /// Absolute host path.
        source: String,
        /// `rbind`.
        recursive: bool,
    },
    /// tmpfs, with what is below filled from the image (`tmpcopyup`).
    Tmpfs {
        /// Options for fsconfig; `uid` and `gid` are ids inside.
        options: Vec<FsOption>,
        /// `tmpcopyup`.
        copy_up: bool,
    },
    /// A further procfs of the container's pid namespace.
    Proc,
    /// A further sysfs of the container's network namespace.
    Sysfs,
    /// A further cgroup2 of the container's cgroup namespace.
    Cgroup,
    /// A further mqueue of the container's ipc namespace.
    Mqueue,
    /// A further devpts instance.
    Devpts {
        /// Options for fsconfig (`mode=0620`); `uid` and `gid` are ids inside.
        options: Vec<FsOption>,
    },
    /// Any other file system, mounted by host root (overlay, erofs, ext4 …).
    Other {
        /// File-system type.
        fs_type: String,
        /// Source.
        source: String,
        /// Options for fsconfig.
        options: Vec<FsOption>,
    },
}

/// Mounts that every container has, with what the spec may say of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Base {
    /// tmpfs options of `/dev/shm` (`size=64m`), or `None` where the spec binds something there.
    pub shm: Option<Vec<FsOption>>,
    /// Whether /sys, /sys/fs/cgroup and the data roots are read-only, as the root file system is then (`root.readonly`). What
    /// the spec says of /sys alone does not count: engines ask it read-only for every container.
    pub readonly: bool,
    /// Whether there is a /dev/fuse.
    pub fuse: bool,
}

/// `mounts`, sorted.
#[derive(Debug)]
pub(super) struct Mounts {
    pub(super) base: Base,
    pub(super) user: Vec<Mount>,
}

/// Most mounts of a container (the kernel's own bound is fs.mount-max, 100000).
const MAX_MOUNTS: usize = 10_000;

/// What of `mounts` the runtime does with one entry.
enum Place {
    /// The user's.
    User,
    /// The runtime makes this one itself, always alike.
    Base,
    /// The runtime makes this one, with these options.
    Shm,
    /// Left out, with a warning.
    Dropped(&'static str),
}

impl Mounts {
    /// Checks `mounts`. `unmapped` are the paths of `SYSBOX_SKIP_UID_SHIFT`; `readonly` and `fuse` go into [`Base`].
    pub(super) fn new(
        given: &[oci::Mount],
        bundle: &Path,
        unmapped: &[String],
        (readonly, fuse): (bool, bool),
        warnings: &mut Vec<Warning>,
    ) -> Result<Mounts> {
        text::bounded("mounts", given, MAX_MOUNTS)?;
        let mut shm = Some(default_shm());
        let mut user: Vec<Mount> = Vec::with_capacity(given.len());
        for (i, mount) in given.iter().enumerate() {
            let planned = plan_one(i, mount, bundle, unmapped, warnings)?;
            match place(i, mount, &planned)? {
                Place::User => {
                    if planned.destination == "/dev/shm" {
                        shm = None;
                    }
                    user.push(planned);
                }
                Place::Base => {}
                Place::Shm => {
                    if let MountKind::Tmpfs { options, .. } = planned.kind {
                        shm = Some(options);
                    }
                }
                Place::Dropped(why) => warnings.push(Warning::new(
                    format!("mounts[{i}]"),
                    format!("{} is left out: {why}", planned.destination),
                )),
            }
        }
        for path in unmapped {
            if !user.iter().any(|m| m.destination == *path) {
                warnings.push(Warning::new(
                    "process.env.SYSBOX_SKIP_UID_SHIFT",
                    format!("{path} has no effect: no mount of the spec has this destination"),
                ));
            }
        }
        Ok(Mounts {
            base: Base {
                shm,
                readonly,
                fuse,
            },
            user,
        })
    }
}

/// What runc and Docker give /dev/shm when nothing else is said.
fn default_shm() -> Vec<FsOption> {
    let option = |key: &str, value: &str| FsOption {
        key: key.into(),
        value: Some(value.into()),
    };
    vec![option("mode", "1777"), option("size", "65536k")]
}

/// Files of procfs that may be covered, as with runc: what LXCFS-like servers render.
const COVERABLE_PROC: [&str; 12] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/net/dev",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
    "/proc/pressure",
];

/// Who makes the mount. Places that every container has are the runtime's: what is mounted there must be of their type.
fn place(i: usize, given: &oci::Mount, mount: &Mount) -> Result<Place> {
    let refuse = |remedy: &str| {
        Err(Error::invalid(
            format!("mounts[{i}]"),
            format!("{} on {}", describe(given), mount.destination),
            remedy,
        ))
    };
    let destination = mount.destination.as_str();
    match (destination, &mount.kind) {
        ("/", _) => refuse("give the root file system by root.path"),
        ("/proc", MountKind::Proc)
        | ("/sys", MountKind::Sysfs)
        | ("/dev", MountKind::Tmpfs { .. })
        | ("/dev/pts", MountKind::Devpts { .. })
        | ("/dev/mqueue", MountKind::Mqueue)
        | ("/sys/fs/cgroup", MountKind::Cgroup) => Ok(Place::Base),
        ("/dev/shm", MountKind::Tmpfs { .. }) => Ok(Place::Shm),
        ("/dev/shm", MountKind::Bind { .. }) => Ok(Place::User),
        ("/sys", MountKind::Bind { source, .. }) if source == "/sys" => Ok(Place::Dropped(
            "a system container has a sysfs of its own network namespace",
        )),
        ("/proc", _) => refuse("mount type proc there, or nothing"),
        ("/sys", _) => refuse("mount type sysfs there, or nothing"),
        ("/dev", _) => refuse(
            "mount type tmpfs there, or nothing, and name the devices that are wanted in linux.devices",
        ),
        ("/dev/pts", _) => refuse("mount type devpts there, or nothing"),
        ("/dev/mqueue", _) => refuse("mount type mqueue there, or nothing"),
        ("/dev/shm", _) => refuse("mount type tmpfs or bind there, or nothing"),
        (path, _) if text::is_at_or_below(path, "/sys/fs/cgroup") => Ok(Place::Dropped(
            "a system container has a writable cgroup2 of its own there",
        )),
        (path, _) if text::is_at_or_below(path, "/proc") => {
            if COVERABLE_PROC
                .iter()
                .any(|file| text::is_at_or_below(path, file))
                && matches!(mount.kind, MountKind::Bind { .. })
            {
                Ok(Place::User)
            } else {
                refuse("mount it outside /proc: only some files there may be covered, by a bind")
            }
        }
        _ => Ok(Place::User),
    }
}

fn describe(mount: &oci::Mount) -> String {
    match (mount.typ().as_deref(), mount.source()) {
        (Some(kind), _) if kind != "bind" && kind != "none" => format!("type {kind}"),
        (_, Some(source)) => format!("bind of {}", source.display()),
        (kind, None) => format!("type {}", kind.unwrap_or("none")),
    }
}

fn plan_one(
    i: usize,
    given: &oci::Mount,
    bundle: &Path,
    unmapped: &[String],
    warnings: &mut Vec<Warning>,
) -> Result<Mount> {
    let destination = text::absolute(&format!("mounts[{i}].destination"), given.destination())?;
    let field = format!("mounts[{i}].options");
    let options = Options::parse(&field, given.options().as_deref().unwrap_or_default())?;
    let kind = file_systems::kind(i, given, bundle, &options, warnings)?;
    let idmap = idmap::of_mount(i, given)?;
    let recursive = match &kind {
        MountKind::Bind { recursive, .. } => *recursive,
        _ => {
            if idmap.is_some() || options.idmap.is_some() {
                return Err(Error::invalid(
                    format!("mounts[{i}]"),
                    format!("ids mapped on {}", describe(given)),
                    "remove uidMappings, gidMappings, idmap and ridmap: only a bind mount can have its ids mapped",
                ));
            }
            false
        }
    };
    let unmapped = unmapped.contains(&destination);
    if unmapped && (idmap.is_some() || options.idmap.is_some()) {
        return Err(Error::invalid(
            format!("mounts[{i}]"),
            format!("ids mapped on {destination}"),
            "remove the mapping, or the path from SYSBOX_SKIP_UID_SHIFT",
        ));
    }
    if matches!(options.propagation, Some((Propagation::Shared, _)))
        && matches!(kind, MountKind::Bind { .. })
    {
        warnings.push(Warning::new(
            field,
            format!(
                "{destination} is shared one way: mounts made inside do not reach the host, mounts of the host reach the \
                 container without its ids; ask for rslave to be rid of this warning"
            ),
        ));
    }
    Ok(Mount {
        destination,
        kind,
        set: options.attr.set,
        clear: options.attr.clear,
        set_recursive: options.recursive.set,
        clear_recursive: options.recursive.clear,
        propagation: options.propagation,
        idmap_recursive: options.idmap.unwrap_or(idmap.is_none() && recursive),
        idmap,
        unmapped,
    })
}
