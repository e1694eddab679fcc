//! `linux.resources.devices` and the list that every container has. Pure.

use oci_spec::runtime as oci;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

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

/// What every container may use, as with runc, and fuse: making any node (a node alone opens nothing), and the devices
/// that are made in every container.
const DEFAULTS: [(char, Option<u32>, Option<u32>, &str); 12] = [
    ('c', None, None, "m"),
    ('b', None, None, "m"),
    ('c', Some(1), Some(3), "rwm"),    // null
    ('c', Some(1), Some(5), "rwm"),    // zero
    ('c', Some(1), Some(7), "rwm"),    // full
    ('c', Some(1), Some(8), "rwm"),    // random
    ('c', Some(1), Some(9), "rwm"),    // urandom
    ('c', Some(5), Some(0), "rwm"),    // tty
    ('c', Some(5), Some(2), "rwm"),    // ptmx
    ('c', Some(136), None, "rwm"),     // pts/*
    ('c', Some(10), Some(200), "rwm"), // net/tun
    ('c', Some(10), Some(229), "rwm"), // fuse
];

/// Most rules; the eBPF program that carries them out has a few instructions for each.
const MAX_RULES: usize = 10_000;

/// The whole policy: nothing allowed, then the spec's rules, then the defaults.
pub(super) fn device_rules(given: &[oci::LinuxDeviceCgroup]) -> Result<Vec<DeviceRule>> {
    if given.len() > MAX_RULES {
        return Err(Error::invalid(
            "linux.resources.devices",
            format!("{} entries", given.len()),
            format!("give at most {MAX_RULES} entries"),
        ));
    }
    let mut rules = vec![DeviceRule {
        allow: false,
        kind: 'a',
        major: None,
        minor: None,
        access: "rwm".into(),
    }];
    for (i, device) in given.iter().enumerate() {
        rules.push(rule(i, device)?);
    }
    rules.extend(DEFAULTS.map(|(kind, major, minor, access)| DeviceRule {
        allow: true,
        kind,
        major,
        minor,
        access: access.into(),
    }));
    Ok(rules)
}

fn rule(i: usize, device: &oci::LinuxDeviceCgroup) -> Result<DeviceRule> {
    let field = |name: &str| format!("linux.resources.devices[{i}].{name}");
    let kind = match device.typ() {
        None | Some(oci::LinuxDeviceType::A) => 'a',
        Some(oci::LinuxDeviceType::B) => 'b',
        Some(oci::LinuxDeviceType::C | oci::LinuxDeviceType::U) => 'c',
        Some(oci::LinuxDeviceType::P) => {
            return Err(Error::invalid(
                field("type"),
                "p",
                "give a, b or c: a named pipe is no device",
            ));
        }
    };
    let access = device.access().as_deref().unwrap_or("rwm");
    if access.is_empty() || access.len() > 3 || access.contains(|c| !"rwm".contains(c)) {
        return Err(Error::invalid(
            field("access"),
            access.escape_debug(),
            "give one or more of r, w and m",
        ));
    }
    // -1 is every number (the kernel's wildcard in cgroup v1, as runc has it).
    let number = |name: &str, value: Option<i64>, bits: u32| match value {
        None | Some(-1) => Ok(None),
        Some(value) => match u32::try_from(value) {
            Ok(number) if number >> bits == 0 => Ok(Some(number)),
            _ => Err(Error::invalid(
                field(name),
                value,
                format!("give 0 to {}, or -1 for all", (1_u32 << bits) - 1),
            )),
        },
    };
    Ok(DeviceRule {
        allow: device.allow(),
        kind,
        major: number("major", device.major(), 12)?,
        minor: number("minor", device.minor(), 20)?,
        access: access.into(),
    })
}
