//! The plan: the OCI spec checked once, in pure code. Nothing after this module reads the spec.
//!
//! Every field of the runtime spec is either done (it ends in a [`Plan`]) or refused by its name
//! ([`crate::error::Error::Invalid`]). What is done differently from what was asked is a [`Warning`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cgroup::limits::Limits;
use crate::error::Warning;
use crate::idmap::IdMap;

/// What one container is to be. Sent to the stage as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// `hostname`.
    pub hostname: Option<String>,
    /// `domainname`.
    pub domainname: Option<String>,
    /// Where each namespace comes from.
    pub namespaces: Namespaces,
    /// Mappings given by the spec; `None`: an exclusive range is allocated (or the joined namespace's hold).
    pub idmap: Option<IdMap>,
    /// `root` and `linux.rootfsPropagation`.
    pub rootfs: Rootfs,
    /// Mounts of the user in the spec's order, without those that the runtime makes itself (see [`Base`]).
    pub mounts: Vec<Mount>,
    /// Options of the mounts that the runtime makes itself.
    pub base: Base,
    /// `linux.devices` beyond the default set.
    pub devices: Vec<DeviceNode>,
    /// `linux.maskedPaths`, less what system containers need.
    pub masked_paths: Vec<String>,
    /// `linux.readonlyPaths`, less what system containers need.
    pub readonly_paths: Vec<String>,
    /// `linux.sysctl`: namespaced ones only, keys with dots as given.
    pub sysctl: BTreeMap<String, String>,
    /// cgroup directory of the container relative to the root of the unified hierarchy (`system.slice/x.scope`).
    pub cgroup_path: String,
    /// `linux.resources`.
    pub limits: Limits,
    /// The container's first process.
    pub process: Process,
    /// `linux.timeOffsets` beyond ours: none given means that boottime starts at 0 at create.
    pub boottime_offset: Option<(i64, u32)>,
    /// Offset of the monotonic clock, seconds and nanoseconds, if given.
    pub monotonic_offset: Option<(i64, u32)>,
    /// Lifecycle hooks.
    pub hooks: Hooks,
    /// Absolute paths inside that get a directory beside the layer (design D7), less those a user's mount covers.
    pub data_roots: Vec<String>,
    /// Absolute bind sources whose ids are not to be shifted (`SYSBOX_SKIP_UID_SHIFT`).
    pub skip_uid_shift: Vec<String>,
    /// `annotations`, for hooks' state.
    pub annotations: BTreeMap<String, String>,
    /// Downgrades known already.
    pub warnings: Vec<Warning>,
}

/// Source of a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NsSource {
    /// A new one.
    New,
    /// Join the one at this host path.
    Join(String),
}

/// All namespaces but mount, which is always new.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// User.
    pub user: NsSource,
    /// Process ids.
    pub pid: NsSource,
    /// Network.
    pub net: NsSource,
    /// System V IPC and POSIX message queues.
    pub ipc: NsSource,
    /// Host name.
    pub uts: NsSource,
    /// Control groups.
    pub cgroup: NsSource,
    /// Clocks.
    pub time: NsSource,
}

/// The root file system's properties.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rootfs {
    /// `root.path` as an absolute host path (relative ones resolved against the bundle).
    pub path: String,
    /// `root.readonly`.
    pub readonly: bool,
    /// `linux.rootfsPropagation`; the default is shared.
    pub propagation: Propagation,
}

/// Propagation type of a mount (mount_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// `private`
    Private,
    /// `slave`
    Slave,
    /// `shared`
    Shared,
    /// `unbindable`
    Unbindable,
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

/// One file-system option: a flag, or a key with a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsOption {
    /// Key (`size`).
    pub key: String,
    /// Value (`64m`), none for a flag.
    pub value: Option<String>,
}

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
    /// Map the whole tree (`ridmap`), not the top mount only.
    pub idmap_recursive: bool,
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
        /// Options for fsconfig.
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
        /// Options for fsconfig (`mode=0620`).
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

/// A device node of the spec, bound from the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNode {
    /// Absolute path inside.
    pub path: String,
    /// Character or block.
    pub kind: DeviceKind,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner inside.
    pub uid: u32,
    /// Group inside.
    pub gid: u32,
}

/// Kind of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceKind {
    /// Character.
    Char,
    /// Block.
    Block,
    /// Named pipe.
    Fifo,
}

/// A process: the container's first or an exec'd one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// `args`, at least one.
    pub args: Vec<String>,
    /// `env`, `K=V`, in order.
    pub env: Vec<String>,
    /// Absolute working directory inside.
    pub cwd: String,
    /// User id inside.
    pub uid: u32,
    /// Group id inside.
    pub gid: u32,
    /// Supplementary groups inside.
    pub groups: Vec<u32>,
    /// `umask`; the default is 0022.
    pub umask: u32,
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
    /// Capability sets after the switch of user.
    pub capabilities: Capabilities,
    /// `noNewPrivileges`.
    pub no_new_privs: bool,
    /// `oomScoreAdj`.
    pub oom_score_adj: Option<i32>,
    /// A terminal is wanted.
    pub terminal: bool,
    /// Initial size of the terminal, columns and rows.
    pub console_size: Option<(u16, u16)>,
    /// `ioPriority`: the value for ioprio_set(2).
    pub io_priority: Option<i32>,
    /// Seccomp program in the kernel's `struct sock_filter` bytes and flags for seccomp(2).
    pub seccomp: Option<SeccompProgram>,
}

/// A compiled seccomp filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeccompProgram {
    /// `struct sock_filter[]`, 8 bytes an instruction, native byte order.
    pub filter: Vec<u8>,
    /// SECCOMP_FILTER_FLAG_* for seccomp(2).
    pub flags: u32,
}

/// RLIMIT_* number, soft and hard limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// Resource number of getrlimit(2).
    pub resource: u32,
    /// Soft limit, `u64::MAX` for infinity.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

/// Capability sets as bit masks (capabilities(7)); the inheritable set is always empty unless the spec's are honoured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Bounding.
    pub bounding: u64,
    /// Permitted.
    pub permitted: u64,
    /// Effective.
    pub effective: u64,
    /// Inheritable.
    pub inheritable: u64,
    /// Ambient.
    pub ambient: u64,
}

/// Hooks by the runtime spec's names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hooks {
    /// Runtime namespace, at create.
    pub prestart: Vec<Hook>,
    /// Runtime namespace, at create, after `prestart`.
    pub create_runtime: Vec<Hook>,
    /// Container namespaces, host root file system, at create.
    pub create_container: Vec<Hook>,
    /// Container namespaces and root file system, at start.
    pub start_container: Vec<Hook>,
    /// Runtime namespace, after start.
    pub poststart: Vec<Hook>,
    /// Runtime namespace, after delete.
    pub poststop: Vec<Hook>,
}

/// One hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Absolute path.
    pub path: String,
    /// argv, with argv[0]; empty: the path alone.
    pub args: Vec<String>,
    /// Environment; empty means empty.
    pub env: Vec<String>,
    /// Seconds until it is killed.
    pub timeout: Option<u64>,
}
