//! Configuration (design D3): what an operator sets in `/etc/containerd-shim-sysbox/config.toml`.
//!
//! Every field has a default, documented in `deploy/config.toml`; an unknown key or a bad value is an error that names
//! it. Image labels are never read.
//!
//! The file is overridden key by key by runtime options, and they by the annotations of a container that the file allows:
//! [`Config::load`], [`Config::override_with`], [`Config::with_annotations`].

pub(crate) mod annotations;
mod barred;
mod load;
mod validate;

use serde::{Deserialize, Serialize};

use crate::kernel::features::Feature;
pub(crate) use barred::{Barred, Seccomp};

/// Where the file is looked for unless runtime options name another.
pub const DEFAULT_PATH: &str = "/etc/containerd-shim-sysbox/config.toml";

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Id ranges handed out to pods.
    pub ids: Ids,
    /// Control groups.
    pub cgroup: CgroupConfig,
    /// Absolute paths inside that get a directory beside the layer (design D7).
    pub data_roots: Vec<String>,
    /// Capabilities that the spec drops from the engines' default set.
    pub dropped_capabilities: OnDropped,
    /// Devices of containers.
    pub devices: Devices,
    /// Networks of pods.
    pub network: Network,
    /// `SYSBOX_*` variables in a container's environment, which its image can set, too.
    pub environment: OnVariables,
    /// The base filter of system calls.
    pub seccomp: Seccomp,
    /// Where a container asks for a read-only root file system, its data roots, /sys and cgroup stay writable all the same.
    pub relaxed_read_only: bool,
    /// A mount whose file system cannot be ID-mapped: `warn` (files show as nobody) or `error`.
    pub unmappable_mount: OnUnmappable,
    /// Directory of lock files and sockets; on a tmpfs, owned by root, 0700.
    pub state_dir: String,
    /// Annotations that are honoured, by full name (`io.containerd.sysbox.cgroup.max-depth`).
    pub annotations: Vec<String>,
    /// Features of the kernel to do without.
    pub pretend_missing: Vec<Feature>,
}

/// `[ids]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    default,
    deny_unknown_fields,
    rename_all = "kebab-case",
    expecting = "a section [ids]"
)]
pub struct Ids {
    /// First host id of the pool.
    pub first: u32,
    /// Number of host ids in the pool.
    pub count: u32,
    /// Ids of one pod, at least 65536.
    pub per_pod: u32,
}

/// `[cgroup]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    default,
    deny_unknown_fields,
    rename_all = "kebab-case",
    expecting = "a section [cgroup]"
)]
pub struct CgroupConfig {
    /// `cgroup.max.descendants` of a container's cgroup.
    pub max_descendants: u32,
    /// `cgroup.max.depth` of a container's cgroup.
    pub max_depth: u32,
}

/// `[devices]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    default,
    deny_unknown_fields,
    rename_all = "kebab-case",
    expecting = "a section [devices]"
)]
pub struct Devices {
    /// Whether containers get /dev/fuse, and may open that device.
    pub fuse: bool,
}

/// `[network]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    default,
    deny_unknown_fields,
    rename_all = "kebab-case",
    expecting = "a section [network]"
)]
pub struct Network {
    /// What to do with a network namespace that the engine has made in the host's user namespace (design D9).
    pub host_owned: HostOwned,
}

/// What to do with a network namespace of the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostOwned {
    /// Move its content into one that the pod's user namespace owns, and put that in its place.
    Move,
    /// Refuse the container.
    Refuse,
}

/// What to do with capabilities that the spec lacks though engines give them by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnDropped {
    /// Root inside has them all the same; warn.
    Keep,
    /// Nobody inside has them or can gain them.
    Drop,
}

/// What to do with `SYSBOX_*` variables in a container's environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnVariables {
    /// Do what they say; warn. One that does not exist is an error.
    Honor,
    /// Leave them to the container; warn.
    Ignore,
}

/// What to do where a mount cannot be ID-mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnUnmappable {
    /// Mount it unmapped, its files owned by nobody, and warn.
    Warn,
    /// Refuse the container.
    Error,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            ids: Ids::default(),
            cgroup: CgroupConfig::default(),
            data_roots: [
                "/var/lib/docker",
                "/var/lib/containerd",
                "/var/lib/containers",
                "/var/lib/buildkit",
                "/var/lib/kubelet",
                "/var/lib/rancher",
                "/var/lib/k0s",
            ]
            .map(String::from)
            .into(),
            dropped_capabilities: OnDropped::Keep,
            devices: Devices::default(),
            network: Network::default(),
            environment: OnVariables::Honor,
            seccomp: Seccomp::default(),
            relaxed_read_only: false,
            unmappable_mount: OnUnmappable::Warn,
            state_dir: "/run/containerd-shim-sysbox".into(),
            annotations: Vec::new(),
            pretend_missing: Vec::new(),
        }
    }
}

impl Default for Ids {
    fn default() -> Self {
        // Above /etc/subuid's usual ranges and the kubelet's 65536×(maxPods+1); 2^30 ids are 1024 pods.
        Ids {
            first: 1 << 30,
            count: 1 << 30,
            per_pod: 1 << 20,
        }
    }
}

impl Default for Devices {
    fn default() -> Self {
        Devices { fuse: true }
    }
}

impl Default for Network {
    fn default() -> Self {
        Network {
            host_owned: HostOwned::Move,
        }
    }
}

impl Default for CgroupConfig {
    fn default() -> Self {
        CgroupConfig {
            max_descendants: 4096,
            max_depth: 16,
        }
    }
}
