//! `linux.devices`: nodes beyond those that every container has.

use oci_spec::runtime as oci;
use serde::{Deserialize, Serialize};

use super::text;
use crate::cgroup::limits::{Limits, opens};
use crate::error::{Error, Result, Warning};

/// A device node of the spec, bound from the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeviceNode {
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
pub(crate) enum DeviceKind {
    /// Character.
    Char,
    /// Block.
    Block,
    /// Named pipe.
    Fifo,
}

/// Most nodes of a container; `--privileged` names all of the host's.
const MAX_DEVICES: usize = 10_000;

/// Nodes that the runtime makes in every container, with their numbers (Documentation/admin-guide/devices.txt).
const DEFAULT_NODES: [(&str, u32, u32); 11] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/kmsg", 1, 11),
    ("/dev/tty", 5, 0),
    ("/dev/console", 5, 1),
    ("/dev/ptmx", 5, 2),
    ("/dev/fuse", 10, 229),
    ("/dev/net/tun", 10, 200),
];

/// Other paths below /dev that the runtime makes.
const DEFAULT_PATHS: [&str; 8] = [
    "/dev/pts",
    "/dev/shm",
    "/dev/mqueue",
    "/dev/fd",
    "/dev/stdin",
    "/dev/stdout",
    "/dev/stderr",
    "/dev/core",
];

/// Whether the spec itself asks for /dev/fuse.
pub(super) fn asks_fuse(linux: &oci::Linux) -> bool {
    let mut given = linux.devices().iter().flatten();
    given.any(|device| device.path() == std::path::Path::new("/dev/fuse"))
}

/// Checks `linux.devices`; what the runtime makes anyway is left out. So is, where everything is allowed, what no rule names:
/// then engines list all nodes of the host, of which none would open.
pub(super) fn plan_devices(
    given: &[oci::LinuxDevice],
    limits: &Limits,
    warnings: &mut Vec<Warning>,
) -> Result<Vec<DeviceNode>> {
    text::bounded("linux.devices", given, MAX_DEVICES)?;
    let mut out: Vec<DeviceNode> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for (i, device) in given.iter().enumerate() {
        let node = plan_one(i, device)?;
        let refuse = |remedy: &str| {
            Err(Error::invalid(
                format!("linux.devices[{i}].path"),
                &node.path,
                remedy,
            ))
        };
        if let Some((_, major, minor)) = DEFAULT_NODES.iter().find(|(p, ..)| *p == node.path) {
            if node.kind == DeviceKind::Char && (node.major, node.minor) == (*major, *minor) {
                continue;
            }
            return refuse("choose another path: the runtime makes its own device there");
        }
        if DEFAULT_PATHS
            .iter()
            .any(|path| text::is_at_or_below(&node.path, path))
            || text::is_at_or_below("/dev", &node.path)
        {
            return refuse("choose another path: the runtime makes its own entry there");
        }
        if ["/proc", "/sys"]
            .iter()
            .any(|path| text::is_at_or_below(&node.path, path))
        {
            return refuse("choose a path outside /proc and /sys");
        }
        if !seen.insert(node.path.clone()) {
            return refuse("list each path once");
        }
        out.push(node);
    }
    if limits.all_devices {
        let all = out.len();
        out.retain(|node| match node.kind {
            DeviceKind::Char => opens(&limits.devices, 'c', node.major, node.minor),
            DeviceKind::Block => opens(&limits.devices, 'b', node.major, node.minor),
            DeviceKind::Fifo => true,
        });
        warnings.push(Warning::new(
            "linux.resources.devices",
            format!(
                "`a *:* rwm` allows no device of the host, and {} nodes of linux.devices are left out: privileges hold \
                 inside the user namespace only; name a device that is wanted (--device), without --privileged",
                all - out.len()
            ),
        ));
    }
    Ok(out)
}

fn plan_one(i: usize, device: &oci::LinuxDevice) -> Result<DeviceNode> {
    let kind = match device.typ() {
        oci::LinuxDeviceType::C | oci::LinuxDeviceType::U => DeviceKind::Char,
        oci::LinuxDeviceType::B => DeviceKind::Block,
        oci::LinuxDeviceType::P => DeviceKind::Fifo,
        oci::LinuxDeviceType::A => {
            return Err(Error::invalid(
                format!("linux.devices[{i}].type"),
                "a",
                "give c, b, u or p: a node is of one type",
            ));
        }
    };
    // dev_t of the kernel has 12 bits of major and 20 of minor (linux/kdev_t.h).
    let number = |name: &str, value: i64, bits: u32| match u32::try_from(value) {
        _ if kind == DeviceKind::Fifo => Ok(0),
        Ok(number) if number >> bits == 0 => Ok(number),
        _ => Err(Error::invalid(
            format!("linux.devices[{i}].{name}"),
            value,
            format!("give 0 to {}", (1_u32 << bits) - 1),
        )),
    };
    let mode = device.file_mode().unwrap_or(0o666);
    // Engines pass stat's st_mode, with the file type.
    let permissions = mode & !libc::S_IFMT;
    if permissions > 0o7777 {
        return Err(Error::invalid(
            format!("linux.devices[{i}].fileMode"),
            format!("{mode} (0{mode:o})"),
            "give permission bits, 0 to 4095 (07777)",
        ));
    }
    Ok(DeviceNode {
        path: text::absolute(&format!("linux.devices[{i}].path"), device.path())?,
        kind,
        major: number("major", device.major(), 12)?,
        minor: number("minor", device.minor(), 20)?,
        mode: permissions,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    })
}
