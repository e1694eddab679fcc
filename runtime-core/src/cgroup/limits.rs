//! `linux.resources` as writes to cgroup v2 files. Pure.
//!
//! The runtime spec speaks of cgroup v1; the conversions are those of runc and crun, so that a limit means the same under
//! every runtime (Documentation/admin-guide/cgroup-v2.rst).

mod cpu;
mod io;
mod memory;
mod others;

use oci_spec::runtime as oci;
use serde::{Deserialize, Serialize};

use super::device_rules;
use crate::error::{Error, Result, Warning};

pub use super::device_rules::DeviceRule;
pub(crate) use super::device_rules::opens;

/// Limits of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Writes in order.
    pub writes: Vec<Write>,
    /// Device policy of `linux.resources.devices` and the default list.
    pub devices: Vec<DeviceRule>,
    /// Whether `linux.resources.devices` allows everything, which engines write for `--privileged`: see
    /// [`device_rules::is_everything`].
    pub all_devices: bool,
}

/// One write to a file of the container's cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// Controller that must be enabled (`memory`), empty for core files.
    pub controller: String,
    /// File (`memory.max`).
    pub file: String,
    /// Data.
    pub value: String,
    /// Spec field it comes from (`linux.resources.memory.limit`), for errors and warnings.
    pub field: String,
}

impl Limits {
    /// Checks and converts `linux.resources`; none given: no limits, and the default device policy, with `fuse` or without.
    ///
    /// For an update the device policy counts only where `resources.devices` is given.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a value that the kernel would refuse or that cgroup v2 has no means for.
    pub fn new(
        resources: Option<&oci::LinuxResources>,
        fuse: bool,
    ) -> Result<(Limits, Vec<Warning>)> {
        let mut convert = Convert::default();
        let mut devices = None;
        if let Some(given) = resources {
            devices = given.devices().as_deref();
            convert.pids(given.pids().as_ref());
            convert.memory(given.memory().as_ref())?;
            convert.block_io(given.block_io().as_ref())?;
            convert.cpu(given.cpu().as_ref())?;
            convert.hugetlb(given.hugepage_limits().as_deref().unwrap_or_default())?;
            convert.rdma(given.rdma().as_ref())?;
            others::network(given.network().as_ref())?;
            // Last: what is asked by the file's own name wins.
            convert.unified(given.unified().as_ref())?;
        }
        let limits = Limits {
            writes: convert.writes,
            devices: device_rules::device_rules(devices.unwrap_or_default(), fuse)?,
            all_devices: devices
                .unwrap_or_default()
                .iter()
                .any(device_rules::is_everything),
        };
        Ok((limits, convert.warnings))
    }
}

/// Most entries of one list or table of `linux.resources`.
const MAX_ENTRIES: usize = 4096;

#[derive(Default)]
struct Convert {
    writes: Vec<Write>,
    warnings: Vec<Warning>,
}

impl Convert {
    /// A write to `file`, whose controller is the part before the first dot, from `linux.resources.{field}`.
    fn write(&mut self, file: impl Into<String>, value: impl ToString, field: &str) {
        let file = file.into();
        self.writes.push(Write {
            controller: file.split('.').next().unwrap_or_default().to_string(),
            file,
            value: value.to_string(),
            field: name(field),
        });
    }

    fn ignored(&mut self, field: &str, why: &str) {
        self.warnings.push(Warning::new(name(field), why));
    }
}

/// Full name of a field of `linux.resources`.
fn name(field: &str) -> String {
    format!("linux.resources.{field}")
}

fn bounded(field: &str, len: usize) -> Result<()> {
    if len > MAX_ENTRIES {
        return Err(Error::invalid(
            name(field),
            format!("{len} entries"),
            format!("give at most {MAX_ENTRIES} entries"),
        ));
    }
    Ok(())
}

fn max_or(value: i64) -> String {
    match value {
        -1 => "max".into(),
        _ => value.to_string(),
    }
}
