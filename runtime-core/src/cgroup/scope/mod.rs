//! A container's cgroup as a transient scope of systemd's, so that systemd keeps the limits and the controllers of its slice:
//! a directory that it does not know of loses both as soon as another unit starts or stops there.
//!
//! A scope lives as long as a process is in it, and its counters with it, as under other runtimes; and it begins with one.
//! That is a [`StandIn`], until init is there.

mod properties;

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{FileType, FlockOperation, flock};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use super::limits::Limits;
use super::member::is_member;
use super::{Cgroup, Hierarchy, LEAF, Programs, file, hierarchy};
use crate::config::CgroupConfig;
use crate::error::{Error, OsContext, Result, Warning};
use crate::kernel::reap::{reap_before, send_signal};
use crate::systemd::{self, Property, Value};

pub(super) use properties::rounded;

/// How long a stand-in may take to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// A scope: what `slice:prefix:name` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Scope {
    /// Name of the unit (`docker-4f2d7a.scope`).
    pub(crate) unit: String,
    /// The slice that it is in (`system.slice`).
    pub(crate) slice: String,
}

impl Cgroup {
    /// The same as [`Cgroup::create_sharing`] and [`Cgroup::apply`] for a scope of systemd's, which is at `relative`. What is handed
    /// back with it has to stay until a process of the container's is in it.
    ///
    /// # Errors
    /// Those of both, and systemd's.
    pub(crate) fn create_scope(
        hierarchy: &Hierarchy,
        relative: &str,
        scope: &Scope,
        owner: (u32, u32),
        config: &CgroupConfig,
        (limits, programs): (&Limits, &Programs),
    ) -> Result<(Cgroup, StandIn, Vec<Warning>)> {
        let components = hierarchy::components(relative)?;
        let path = hierarchy.path(&components);
        let stand_in = StandIn::start()?;
        let properties = scope.properties(stand_in.pid, limits);
        systemd::start_scope(&scope.unit, &properties, || stand_in.is_in(relative))?;
        if !stand_in.is_in(relative) {
            return Err(Error::NotFound(format!(
                "{} (systemd has put {} elsewhere, or stopped it)",
                path.display(),
                scope.unit
            )));
        }
        let mut refused = Vec::new();
        let dir = hierarchy
            .open_enabled(&components, &mut refused)?
            .ok_or_else(|| Error::NotFound(format!("cgroup {}", path.display())))?;
        flock(&dir, FlockOperation::NonBlockingLockExclusive).os("flock", path.display())?;
        let mut cgroup = Cgroup::at(hierarchy, &components, dir);
        cgroup.unit = Some(scope.unit.clone());
        let cgroup = cgroup.delegated(owner, refused)?;
        cgroup.set_program(programs.of(&limits.devices, &cgroup)?)?;
        cgroup.set_up(config)?;
        // Out of the directory itself: it could not enable a controller for those below.
        let leaf = cgroup.open_leaf()?;
        file::write(leaf.as_fd(), "cgroup.procs", &stand_in.pid.to_string())
            .os("move a process to", cgroup.path.join(LEAF).display())?;
        let warnings = cgroup.apply(limits)?;
        Ok((cgroup, stand_in, warnings))
    }

    /// Changes limits, the device policy only if `devices`; systemd's idea of them first, where it has one.
    ///
    /// # Errors
    /// Those of [`Cgroup::apply`] and [`Cgroup::set_devices`], and systemd's.
    pub(crate) fn update(&self, limits: &Limits, devices: bool) -> Result<Vec<Warning>> {
        if let Some(unit) = &self.unit {
            let mut properties = properties::limits(limits);
            if devices {
                properties.extend(properties::devices(&limits.devices));
            }
            systemd::set_properties(unit, &properties)?;
        }
        let warnings = self.apply(limits)?;
        if devices {
            self.set_devices(&limits.devices)?;
        }
        Ok(warnings)
    }
}

impl Scope {
    /// The unit, with process `pid` in it.
    fn properties(&self, pid: u32, limits: &Limits) -> Vec<Property> {
        let property = |name, value| Property { name, value };
        let mut all = vec![
            property(
                "Description",
                Value::Text(format!("system container {}", self.unit)),
            ),
            property("Slice", Value::Text(self.slice.clone())),
            property("PIDs", Value::Pids(vec![pid])),
            property("Delegate", Value::Bool(true)),
            // It ends with its container, not with the host's targets, as under other runtimes.
            property("DefaultDependencies", Value::Bool(false)),
            // A unit that has failed is forgotten as well.
            property("CollectMode", Value::Text("inactive-or-failed".into())),
        ];
        all.extend(
            [
                "CPUAccounting",
                "MemoryAccounting",
                "IOAccounting",
                "TasksAccounting",
            ]
            .map(|name| property(name, Value::Bool(true))),
        );
        all.extend(properties::limits(limits));
        all.extend(properties::at_start(limits));
        all.extend(properties::devices(&limits.devices));
        all
    }
}

/// A process that keeps a scope alive while nothing of the container is in it: this program, waiting for its standard input
/// to end, be it because we have died. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct StandIn {
    pid: u32,
    pidfd: OwnedFd,
    input: Option<ChildStdin>,
}

impl StandIn {
    /// `argv[1]` of it.
    pub(crate) const NAME: &str = "stand-in";

    fn start() -> Result<StandIn> {
        let mut child = Command::new("/proc/self/exe")
            .arg(Self::NAME)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .os("spawn", "a stand-in")?;
        let pid = Pid::from_child(&child);
        Ok(StandIn {
            pid: child.id(),
            pidfd: pidfd_open(pid, PidfdFlags::empty()).os("pidfd_open", child.id())?,
            input: child.stdin.take(),
        })
    }

    /// What it does. False: its standard input is no pipe, so a person has called it.
    pub(crate) fn run() -> bool {
        let input = std::io::stdin();
        let piped = rustix::fs::fstat(&input)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
        if piped {
            // Nothing comes but the end.
            let _ = input.lock().read(&mut [0]);
        }
        piped
    }

    fn is_in(&self, relative: &str) -> bool {
        is_member(&Path::new("/proc").join(self.pid.to_string()), relative)
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        drop(self.input.take());
        // A container that is killed while it is made takes it along, frozen or not.
        let _ = send_signal(&self.pidfd, libc::SIGKILL);
        if !matches!(
            reap_before(&self.pidfd, Instant::now() + PATIENCE),
            Ok(Some(_))
        ) {
            tracing::warn!(pid = self.pid, "a stand-in does not die");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_delegated_and_in_its_slice() {
        let scope = Scope {
            unit: "docker-1.scope".into(),
            slice: "ci.slice".into(),
        };
        let properties = scope.properties(7, &Limits::default());
        let value = |name: &str| {
            let found = properties.iter().find(|property| property.name == name);
            found.map(|property| property.value.clone())
        };
        assert_eq!(value("Delegate"), Some(Value::Bool(true)));
        assert_eq!(value("Slice"), Some(Value::Text("ci.slice".into())));
        assert_eq!(value("PIDs"), Some(Value::Pids(vec![7])));
    }
}
