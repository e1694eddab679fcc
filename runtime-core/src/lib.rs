//! The runtime library of `containerd-shim-sysbox-v2`: from an OCI spec to a running system container.
//!
//! Synchronous, without tokio and without statics. `plan` checks the spec (pure); [`Container::create`] runs the
//! pipeline of named [`step::Step`]s; `stage` is the child side, in single-threaded processes of their own; `sys` holds
//! the only `unsafe`.
#![deny(unsafe_code)]

pub mod cgroup;
pub mod config;
pub mod container;
mod data_roots;
pub mod error;
mod fault;
mod fuse;
#[cfg(fuzzing)]
pub mod fuzz;
pub mod hooks;
mod host_network;
pub mod idmap;
mod kmsg;
mod limits;
mod mounted;
mod mountinfo;
mod netlink;
pub mod plan;
pub mod pod;
mod proto;
pub mod ranges;
pub mod reap;
mod record;
mod rootfs;
pub mod seccomp;
pub mod stage;
mod stage_process;
pub mod step;
mod superblock;
#[expect(unsafe_code, reason = "system calls that no kept crate offers")]
mod sys;
mod view;

pub use container::{Container, CreateRequest, Exec, ExecRequest, RootfsMount, Stdio, cleanup};
pub use error::{Error, Result, Warning};
