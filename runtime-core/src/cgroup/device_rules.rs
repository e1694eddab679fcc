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

/// What every container may use, as with runc, and fuse: making any node (a node alone opens nothing; the kernel asks for
/// CAP_MKNOD over the host, and lets whiteouts, `c 0:0`, be made anyway), and the devices that are made in every container.
/// A terminal's number opens nothing outside a devpts.
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
    ('c', FUSE.0, FUSE.1, "rwm"),
];

/// The one of them that the configuration may withhold.
const FUSE: (Option<u32>, Option<u32>) = (Some(10), Some(229));

/// The host's kmsg and console: whoever names them means the container's own, which have other numbers.
const NEVER: [(u32, u32); 2] = [(1, 11), (5, 1)];

/// Most rules; the eBPF program that carries them out has a few instructions for each.
const MAX_RULES: usize = 10_000;

impl DeviceRule {
    fn new(allow: bool, kind: char, major: Option<u32>, minor: Option<u32>, access: &str) -> Self {
        DeviceRule {
            allow,
            kind,
            major,
            minor,
            access: access.into(),
        }
    }

    /// The policy of a container whose spec says nothing of devices.
    pub fn defaults() -> Vec<DeviceRule> {
        policy(Vec::new(), true)
    }

    fn speaks_of(&self, (kind, major, minor): (char, u32, u32), access: char) -> bool {
        (self.kind == 'a' || self.kind == kind)
            && self.major.is_none_or(|number| number == major)
            && self.minor.is_none_or(|number| number == minor)
            && self.access.contains(access)
    }
}

/// The whole policy: nothing allowed, then the spec's rules, then the defaults, with or without `fuse`.
pub(super) fn device_rules(
    given: &[oci::LinuxDeviceCgroup],
    fuse: bool,
) -> Result<Vec<DeviceRule>> {
    if given.len() > MAX_RULES {
        return Err(Error::invalid(
            "linux.resources.devices",
            format!("{} entries", given.len()),
            format!("give at most {MAX_RULES} entries"),
        ));
    }
    let mut rules = Vec::with_capacity(given.len());
    for (i, device) in given.iter().enumerate() {
        let rule = rule(i, device)?;
        if !is_everything(device) {
            rules.push(rule);
        }
    }
    Ok(policy(rules, fuse))
}

fn policy(given: Vec<DeviceRule>, fuse: bool) -> Vec<DeviceRule> {
    let mut rules = vec![DeviceRule::new(false, 'a', None, None, "rwm")];
    rules.extend(given);
    let allowed = DEFAULTS
        .into_iter()
        .filter(|(_, major, minor, _)| fuse || (*major, *minor) != FUSE);
    rules.extend(
        allowed
            .map(|(kind, major, minor, access)| DeviceRule::new(true, kind, major, minor, access)),
    );
    rules.extend(
        NEVER.map(|(major, minor)| DeviceRule::new(false, 'c', Some(major), Some(minor), "rwm")),
    );
    rules
}

/// Whether an entry allows all devices, blocks and characters, of any number. Engines write that for `--privileged`, and with
/// it list all of the host's in `linux.devices`: nobody has named one. Privileges hold inside the user namespace, where no
/// device is, so it allows none; the host's disks would be open to root inside otherwise.
pub(super) fn is_everything(device: &oci::LinuxDeviceCgroup) -> bool {
    device.allow()
        && matches!(device.typ(), None | Some(oci::LinuxDeviceType::A))
        && matches!(device.major(), None | Some(-1))
}

/// Whether `rules` let the device be opened, for reading or for writing.
pub(crate) fn opens(rules: &[DeviceRule], kind: char, major: u32, minor: u32) -> bool {
    ['r', 'w'].into_iter().any(|access| {
        rules
            .iter()
            .rfind(|rule| rule.speaks_of((kind, major, minor), access))
            .is_some_and(|rule| rule.allow)
    })
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
    Ok(DeviceRule::new(
        device.allow(),
        kind,
        number("major", device.major(), 12)?,
        number("minor", device.minor(), 20)?,
        access,
    ))
}
