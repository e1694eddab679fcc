//! A container: what `create` made, and the verbs on it.
//!
//! Synchronous: the shim calls it from its blocking threads. All verbs take `&self` and may be called from several
//! threads at once.

use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use oci_spec::runtime as oci;

use crate::cgroup::stats::Stats;
use crate::error::{Result, Warning};
use crate::pod::Pod;

/// A mount of `CreateTaskRequest.rootfs`.
#[derive(Debug, Clone)]
pub struct RootfsMount {
    /// File-system type (`overlay`, `bind`).
    pub fs_type: String,
    /// Source path or name.
    pub source: String,
    /// Path below the root file system, mostly empty.
    pub target: String,
    /// Mount options as containerd spells them (`lowerdir=…`).
    pub options: Vec<String>,
}

/// The process's ends of its standard streams; `None` is /dev/null. Ignored where a terminal is asked.
#[derive(Debug, Default)]
pub struct Stdio {
    /// Standard input.
    pub stdin: Option<OwnedFd>,
    /// Standard output.
    pub stdout: Option<OwnedFd>,
    /// Standard error.
    pub stderr: Option<OwnedFd>,
}

/// What `create` needs.
#[derive(Debug)]
pub struct CreateRequest {
    /// Container id.
    pub id: String,
    /// containerd namespace.
    pub namespace: String,
    /// Absolute path of the bundle; holds config.json.
    pub bundle: PathBuf,
    /// config.json, parsed.
    pub spec: oci::Spec,
    /// Mounts for the root file system; empty: `root.path` as it is.
    pub rootfs: Vec<RootfsMount>,
    /// Standard streams of init.
    pub stdio: Stdio,
    /// Overrides `process.terminal` (CreateTaskRequest.terminal).
    pub terminal: bool,
}

/// What `exec` needs.
#[derive(Debug)]
pub struct ExecRequest {
    /// The process to run.
    pub process: oci::Process,
    /// Its standard streams.
    pub stdio: Stdio,
    /// Overrides `process.terminal` (ExecProcessRequest.terminal).
    pub terminal: bool,
}

/// A process that runs in a container: a child of ours, reaped through its pidfd (see [`crate::reap`]).
#[derive(Debug)]
pub struct Exec {
    /// Its pid in the host's pid namespace.
    pub pid: u32,
    /// Readable when it has exited.
    pub pidfd: OwnedFd,
    /// Master of its terminal, if one was asked.
    pub console: Option<OwnedFd>,
    /// Downgrades.
    pub warnings: Vec<Warning>,
}

/// A created container.
#[derive(Debug)]
pub struct Container {}

impl Container {
    /// Makes the container; its init waits for [`Container::start`].
    pub fn create(_pod: &Arc<Pod>, _request: CreateRequest) -> Result<Container> {
        todo!()
    }

    /// Host pid of init.
    pub fn pid(&self) -> u32 {
        todo!()
    }

    /// pidfd of init: readable when it has exited.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        todo!()
    }

    /// Master of init's terminal; `Some` once.
    pub fn take_console(&self) -> Option<OwnedFd> {
        todo!()
    }

    /// Downgrades that `create` made, for the log.
    pub fn warnings(&self) -> &[Warning] {
        todo!()
    }

    /// Runs the user's program in init. Returns when exec has succeeded or failed; poststart hooks have run.
    pub fn start(&self) -> Result<()> {
        todo!()
    }

    /// Runs a process in the container (created or running). Returns when exec has succeeded or failed.
    pub fn exec(&self, _request: ExecRequest) -> Result<Exec> {
        todo!()
    }

    /// Sends a signal to init. [`crate::Error::NotFound`] when it has exited.
    pub fn kill(&self, _signal: i32) -> Result<()> {
        todo!()
    }

    /// Sends a signal to every process of the container.
    pub fn kill_all(&self, _signal: i32) -> Result<()> {
        todo!()
    }

    /// Freezes the container and makes inner data part of the layer.
    pub fn pause(&self) -> Result<()> {
        todo!()
    }

    /// Undoes [`Container::pause`].
    pub fn resume(&self) -> Result<()> {
        todo!()
    }

    /// Changes limits (`linux.resources`); returns what was not done.
    pub fn update(
        &self,
        _resources: &oci::LinuxResources,
        _annotations: &BTreeMap<String, String>,
    ) -> Result<Vec<Warning>> {
        todo!()
    }

    /// Counters of the container's cgroup; works until delete, also after init's exit.
    pub fn stats(&self) -> Result<Stats> {
        todo!()
    }

    /// Host pids of all processes of the container.
    pub fn pids(&self) -> Result<Vec<u32>> {
        todo!()
    }

    /// Path of the container's cgroup directory on the host (for watching `memory.events`).
    pub fn cgroup_dir(&self) -> PathBuf {
        todo!()
    }

    /// To be called once init has been reaped, before its exit is published: kills what is left of the container and
    /// makes inner data part of the layer, so that commit and diff capture it.
    pub fn stopped(&self) -> Result<()> {
        todo!()
    }

    /// Removes all that is left: cgroup, id range, record; runs poststop hooks. Kills first if it still runs.
    /// Goes on past a failing step and returns the first error.
    pub fn delete(&self) -> Result<()> {
        todo!()
    }
}

/// Undoes what a dead shim left of the container whose bundle this is, and of every other member of its pod if it is the
/// pod's first (shim `delete`). Nothing to undo is success.
pub fn cleanup(_bundle: &std::path::Path) -> Result<()> {
    todo!()
}
