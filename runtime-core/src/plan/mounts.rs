//! `mounts`: what the user mounts, and what of it the runtime makes itself.

use oci_spec::runtime as oci;
use serde::{Deserialize, Serialize};
use std::path::Path;

use super::idmap;
use super::options::{FsOption, Options, Propagation};
use super::text;
use crate::error::{Error, Result, Warning};
use crate::idmap::IdMap;

/// A mount of the spec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
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
pub enum MountKind {
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
pub struct Base {
    /// tmpfs options of `/dev/shm` (`size=64m`), or `None` where the spec binds something there.
    pub shm: Option<Vec<FsOption>>,
    /// Whether `/sys` was asked read-only *and* honoured. Always false for now: system containers have it writable.
    pub sys_readonly: bool,
    /// Whether `/sys/fs/cgroup` is read-only. Always false for now.
    pub cgroup_readonly: bool,
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
    /// Checks `mounts`. `unmapped` are the paths of `SYSBOX_SKIP_UID_SHIFT`.
    pub(super) fn new(
        given: &[oci::Mount],
        bundle: &Path,
        unmapped: &[String],
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
                sys_readonly: false,
                cgroup_readonly: false,
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
    let kind = kind(i, given, bundle, &options, warnings)?;
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

fn kind(
    i: usize,
    given: &oci::Mount,
    bundle: &Path,
    options: &Options,
    warnings: &mut Vec<Warning>,
) -> Result<MountKind> {
    let field = format!("mounts[{i}].type");
    let name = given.typ().as_deref().unwrap_or("");
    if options.copy_up && (name != "tmpfs" || options.bind.is_some()) {
        return Err(Error::invalid(
            format!("mounts[{i}].options"),
            "tmpcopyup",
            "remove it, or mount type tmpfs: nothing else can be filled from the image",
        ));
    }
    if options.bind.is_some() || name == "bind" {
        return bind(i, given, bundle, options, warnings);
    }
    let none = |kind: MountKind| no_data(i, name, options).map(|()| kind);
    match name {
        "tmpfs" => Ok(MountKind::Tmpfs {
            options: tmpfs(i, options)?,
            copy_up: options.copy_up,
        }),
        "proc" => none(MountKind::Proc),
        "sysfs" => none(MountKind::Sysfs),
        "cgroup" | "cgroup2" => none(MountKind::Cgroup),
        "mqueue" => none(MountKind::Mqueue),
        "devpts" => Ok(MountKind::Devpts {
            options: devpts(i, options)?,
        }),
        "" | "none" => Err(Error::invalid(
            field,
            if name.is_empty() { "none given" } else { name },
            "give a type, or the option bind or rbind",
        )),
        _ => {
            text::line(&field, name, 64)?;
            if let Some(why) = refused_type(name) {
                return Err(Error::invalid(field, name, why));
            }
            let source = given.source().as_deref().unwrap_or(Path::new("none"));
            let mut all: Vec<FsOption> = flags(options).collect();
            all.extend(options.data.iter().map(|(_, option)| option.clone()));
            Ok(MountKind::Other {
                fs_type: name.into(),
                source: text::path(&format!("mounts[{i}].source"), source)?.into(),
                options: all,
            })
        }
    }
}

/// File systems that are one for the whole host: mounted by host root they would hand the host to the container.
fn refused_type(name: &str) -> Option<&'static str> {
    match name {
        "debugfs" | "tracefs" | "securityfs" | "configfs" | "efivarfs" | "pstore" | "selinuxfs"
        | "smackfs" | "resctrl" | "rpc_pipefs" | "nfsd" | "devtmpfs" | "fusectl" => {
            Some("mount it on the host and bind what is needed: it is not the container's own")
        }
        "bpf" | "binfmt_misc" => {
            Some("mount it inside the container: it is an instance of its own there")
        }
        "fuse" | "fuseblk" | "virtiofs" | "9p" => {
            Some("mount it on the host and bind it: its server is not the container's")
        }
        _ if name.starts_with("fuse.") => {
            Some("mount it on the host and bind it: its server is not the container's")
        }
        _ => None,
    }
}

fn bind(
    i: usize,
    given: &oci::Mount,
    bundle: &Path,
    options: &Options,
    warnings: &mut Vec<Warning>,
) -> Result<MountKind> {
    let field = format!("mounts[{i}].source");
    let source = given
        .source()
        .as_deref()
        .filter(|source| !source.as_os_str().is_empty())
        .ok_or_else(|| Error::invalid(&field, "none", "name the host path to bind"))?;
    let source = text::absolute_from(&field, source, bundle)?;
    no_data(i, "bind", options)?;
    if !options.superblock.is_empty() {
        warnings.push(Warning::new(
            format!("mounts[{i}].options"),
            format!(
                "{} has no effect on a bind mount: set it where the file system is mounted",
                options.superblock.join(",")
            ),
        ));
    }
    Ok(MountKind::Bind {
        source,
        recursive: options.bind.unwrap_or(false),
    })
}

/// Superblock flags for fsconfig.
fn flags(options: &Options) -> impl Iterator<Item = FsOption> {
    let read_only = options.attr.set & super::options::attr::RDONLY != 0;
    read_only
        .then(|| "ro".to_string())
        .into_iter()
        .chain(options.superblock.iter().cloned())
        .map(|key| FsOption { key, value: None })
}

fn no_data(i: usize, kind: &str, options: &Options) -> Result<()> {
    // What engines pass to pseudo file systems by habit and the kernel ignores or has as its default.
    let idle = |key: &str| match kind {
        "cgroup" | "cgroup2" => matches!(
            key,
            "nsdelegate" | "memory_recursiveprot" | "memory_localevents" | "none" | "xattr"
        ),
        _ => false,
    };
    match options.data.iter().find(|(_, option)| !idle(&option.key)) {
        None => Ok(()),
        Some((at, option)) => Err(unknown(i, *at, kind, option)),
    }
}

fn unknown(i: usize, at: usize, kind: &str, option: &FsOption) -> Error {
    Error::invalid(
        format!("mounts[{i}].options[{at}]"),
        show(option),
        format!("correct or remove it: a mount of type {kind} has no such option"),
    )
}

fn show(option: &FsOption) -> String {
    match &option.value {
        Some(value) => format!("{}={value}", option.key),
        None => option.key.clone(),
    }
}

/// Options of tmpfs(5).
fn tmpfs(i: usize, options: &Options) -> Result<Vec<FsOption>> {
    let mut out: Vec<FsOption> = options
        .superblock
        .iter()
        .map(|key| FsOption {
            key: key.clone(),
            value: None,
        })
        .collect();
    for (at, option) in &options.data {
        let value = option.value.as_deref();
        let remedy = match (option.key.as_str(), value) {
            ("size", Some(v)) if is_size(v) => None,
            ("size", _) => Some("give bytes, or a number with k, m, g, t or %"),
            ("nr_blocks" | "nr_inodes", Some(v)) if is_size(v) && !v.ends_with('%') => None,
            ("nr_blocks" | "nr_inodes", _) => Some("give a number, or one with k, m, g or t"),
            ("mode", Some(v)) if is_mode(v) => None,
            ("mode", _) => Some("give octal permission bits, at most 7777"),
            ("uid" | "gid", Some(v)) if is_id(v) => None,
            ("uid" | "gid", _) => Some("give a numeric id"),
            ("huge", Some("never" | "always" | "within_size" | "advise")) => None,
            ("huge", _) => Some("give never, always, within_size or advise"),
            ("mpol", Some(_)) => None,
            ("inode32" | "inode64" | "noswap" | "nr_inodes64", None) => None,
            _ => return Err(unknown(i, *at, "tmpfs", option)),
        };
        if let Some(remedy) = remedy {
            return Err(Error::invalid(
                format!("mounts[{i}].options[{at}]"),
                show(option),
                remedy,
            ));
        }
        out.push(option.clone());
    }
    Ok(out)
}

/// Options of devpts (Documentation/filesystems/devpts.rst).
fn devpts(i: usize, options: &Options) -> Result<Vec<FsOption>> {
    let mut out = Vec::new();
    for (at, option) in &options.data {
        let ok = match (option.key.as_str(), option.value.as_deref()) {
            // Every instance is new since Linux 4.7; fsconfig still takes the word.
            ("newinstance", None) => continue,
            ("mode" | "ptmxmode", Some(v)) => is_mode(v),
            ("uid" | "gid", Some(v)) => is_id(v),
            ("max", Some(v)) => is_id(v),
            _ => return Err(unknown(i, *at, "devpts", option)),
        };
        if !ok {
            return Err(Error::invalid(
                format!("mounts[{i}].options[{at}]"),
                show(option),
                "give octal permission bits for a mode, a number for the others",
            ));
        }
        out.push(option.clone());
    }
    Ok(out)
}

/// A number that memparse() of the kernel takes whole, or a percentage.
fn is_size(value: &str) -> bool {
    let digits = value
        .strip_suffix(['k', 'K', 'm', 'M', 'g', 'G', 't', 'T', '%'])
        .unwrap_or(value);
    !digits.is_empty() && digits.len() <= 19 && digits.bytes().all(|b| b.is_ascii_digit())
}

fn is_mode(value: &str) -> bool {
    !value.is_empty()
        && value.bytes().all(|b| b.is_ascii_digit())
        && u32::from_str_radix(value, 8).is_ok_and(|mode| mode <= 0o7777)
}

fn is_id(value: &str) -> bool {
    value.bytes().all(|b| b.is_ascii_digit()) && value.parse::<u32>().is_ok_and(|id| id != u32::MAX)
}
