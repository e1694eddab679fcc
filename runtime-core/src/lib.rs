//! The runtime library of `containerd-shim-sysbox-v2`: from an OCI spec to a running system container.
//!
//! Synchronous, without tokio and without statics. Each room uses only those below it (a test holds it to that):
//!
//! ```text
//!  container     create, exec and the other verbs; the record; cleaning up after a dead shim
//!  pod           what containers of a pod share: user namespace and id range, network
//!  stage         the child side, in processes of their own, and the talk with it
//!  rootfs        where a root file system comes from; the host's view of it; data roots
//!  plan          the OCI spec, checked once (pure)
//!  seccomp  cgroup               filters; delegated cgroups, limits and device policy
//!  config  systemd               what the operator says; units
//!  kernel        its optional features, mounts by descriptor, id maps, netlink, FUSE, children
//!  sys  error    all `unsafe`; the one error type
//! ```
#![deny(unsafe_code)]

mod cgroup;
mod config;
mod container;
mod error;
#[cfg(fuzzing)]
pub mod fuzz;
mod kernel;
mod plan;
mod pod;
mod rootfs;
mod seccomp;
mod stage;
#[expect(unsafe_code, reason = "system calls that no kept crate offers")]
mod sys;
mod systemd;

pub use cgroup::{Cgroup, DeviceRule, Hierarchy};
pub use config::{CgroupConfig, Config, DEFAULT_PATH, Ids};
pub use container::{Container, CreateRequest, Exec, ExecRequest, Starting, Stdio, cleanup};
pub use error::{Error, OsContext, Result, StageFailure, Warning};
pub use kernel::features::{Facts, Feature, Found, look_for_features};
pub use kernel::reap::{ExitStatus, reap, reap_blocking, send_signal};
pub use pod::Pod;
pub use rootfs::RootfsMount;
pub use stage::{Step, run_if_stage};
pub use systemd::systemd_booted;

/// Counters of a cgroup.
pub mod stats {
    pub use crate::cgroup::stats::{
        Cpu, HugeTlb, Io, IoEntry, Memory, MemoryEvents, Pids, Psi, PsiData, Rdma, RdmaEntry, Stats,
    };
}
