//! `linux.resources` as writes to cgroup files. Pure.

use serde::{Deserialize, Serialize};

/// Limits of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Writes in order.
    pub writes: Vec<Write>,
    /// Device policy of `linux.resources.devices` and the default list.
    pub devices: Vec<DeviceRule>,
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

/// One rule of the device policy; later rules win.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRule {
    /// Allow or deny.
    pub allow: bool,
    /// `a`, `b` or `c`.
    pub kind: char,
    /// Major number, `None` for all.
    pub major: Option<u32>,
    /// Minor number, `None` for all.
    pub minor: Option<u32>,
    /// Any of `rwm`.
    pub access: String,
}
