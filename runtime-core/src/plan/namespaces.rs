//! `linux.namespaces` and `linux.timeOffsets`.

use oci_spec::runtime as oci;
use serde::{Deserialize, Serialize};

use super::text;
use crate::error::{Error, Result};

/// Source of a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum NsSource {
    /// A new one.
    New,
    /// Join the one at this host path.
    Join(String),
}

/// All namespaces but mount, which is always new.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Namespaces {
    /// User.
    pub user: NsSource,
    /// Process ids.
    pub pid: NsSource,
    /// Network.
    pub net: NsSource,
    /// System V IPC and POSIX message queues.
    pub ipc: NsSource,
    /// Host name.
    pub uts: NsSource,
    /// Control groups.
    pub cgroup: NsSource,
    /// Clocks.
    pub time: NsSource,
}

/// Names of the spec in the order in which a missing one is reported.
const TYPES: [(oci::LinuxNamespaceType, &str); 8] = [
    (oci::LinuxNamespaceType::Pid, "pid"),
    (oci::LinuxNamespaceType::Network, "network"),
    (oci::LinuxNamespaceType::Ipc, "ipc"),
    (oci::LinuxNamespaceType::Uts, "uts"),
    (oci::LinuxNamespaceType::Mount, "mount"),
    (oci::LinuxNamespaceType::User, "user"),
    (oci::LinuxNamespaceType::Cgroup, "cgroup"),
    (oci::LinuxNamespaceType::Time, "time"),
];

impl Namespaces {
    /// Checks `linux.namespaces`. A type that is missing would be the host's: refused, but for user, cgroup and time,
    /// which are added.
    pub(super) fn new(list: &[oci::LinuxNamespace]) -> Result<Namespaces> {
        text::bounded("linux.namespaces", list, TYPES.len())?;
        for (i, ns) in list.iter().enumerate() {
            if list[..i].iter().any(|other| other.typ() == ns.typ()) {
                return Err(Error::invalid(
                    format!("linux.namespaces[{i}].type"),
                    name(ns.typ()),
                    "list each type once",
                ));
            }
        }
        if let Some((i, path)) = path_of(list, oci::LinuxNamespaceType::Mount) {
            return Err(Error::invalid(
                format!("linux.namespaces[{i}].path"),
                path.display(),
                "remove the path: a system container's mount namespace is always new",
            ));
        }
        for (kind, name) in &TYPES[..5] {
            if !list.iter().any(|ns| ns.typ() == *kind) {
                return Err(Error::invalid(
                    "linux.namespaces",
                    format!("no entry of type {name}"),
                    host_namespace_remedy(name),
                ));
            }
        }
        Ok(Namespaces {
            user: source(list, oci::LinuxNamespaceType::User)?,
            pid: source(list, oci::LinuxNamespaceType::Pid)?,
            net: source(list, oci::LinuxNamespaceType::Network)?,
            ipc: source(list, oci::LinuxNamespaceType::Ipc)?,
            uts: source(list, oci::LinuxNamespaceType::Uts)?,
            cgroup: source(list, oci::LinuxNamespaceType::Cgroup)?,
            time: source(list, oci::LinuxNamespaceType::Time)?,
        })
    }
}

fn host_namespace_remedy(name: &str) -> String {
    let user_says = match name {
        "pid" => "; without --pid=host, hostPID: true",
        "network" => "; without --network=host, --net-host, hostNetwork: true",
        "ipc" => "; without --ipc=host, hostIPC: true",
        "uts" => "; without --uts=host",
        _ => "",
    };
    format!(
        "add {{\"type\": \"{name}\"}}: a system container does not share the host's {name} namespace{user_says}"
    )
}

fn name(kind: oci::LinuxNamespaceType) -> &'static str {
    TYPES
        .iter()
        .find(|(other, _)| *other == kind)
        .map_or("unknown", |(_, name)| name)
}

/// Index and path of the entry of this type, if it has a path.
fn path_of(
    list: &[oci::LinuxNamespace],
    kind: oci::LinuxNamespaceType,
) -> Option<(usize, &std::path::Path)> {
    list.iter()
        .enumerate()
        .find(|(_, ns)| ns.typ() == kind)
        .and_then(|(i, ns)| Some((i, ns.path().as_deref()?)))
        .filter(|(_, path)| !path.as_os_str().is_empty())
}

fn source(list: &[oci::LinuxNamespace], kind: oci::LinuxNamespaceType) -> Result<NsSource> {
    let Some((i, path)) = path_of(list, kind) else {
        return Ok(NsSource::New);
    };
    let field = format!("linux.namespaces[{i}].path");
    let path = text::absolute(&field, path)?;
    // The paths that name the host's own. Others that lead there are found by inode when they are opened.
    let of_host = ["/proc/1/ns/", "/proc/self/ns/", "/proc/thread-self/ns/"];
    if of_host.iter().any(|prefix| path.starts_with(prefix)) {
        return Err(Error::invalid(
            field,
            path,
            host_namespace_remedy(name(kind)),
        ));
    }
    Ok(NsSource::Join(path))
}

/// Offsets of the clocks of a new time namespace, seconds and nanoseconds (time_namespaces(7)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct TimeOffsets {
    pub(super) boottime: Option<(i64, u32)>,
    pub(super) monotonic: Option<(i64, u32)>,
}

impl TimeOffsets {
    /// Checks `linux.timeOffsets` against the source of the time namespace.
    pub(super) fn new(linux: &oci::Linux, time: &NsSource) -> Result<TimeOffsets> {
        let mut offsets = TimeOffsets::default();
        let Some(given) = linux.time_offsets() else {
            return Ok(offsets);
        };
        if let (NsSource::Join(path), false) = (time, given.is_empty()) {
            return Err(Error::invalid(
                "linux.timeOffsets",
                path,
                "remove it: the offsets of a time namespace that is joined are fixed",
            ));
        }
        for (clock, offset) in given {
            let slot = match clock.as_str() {
                "boottime" => &mut offsets.boottime,
                "monotonic" => &mut offsets.monotonic,
                _ => {
                    return Err(Error::invalid(
                        "linux.timeOffsets",
                        clock.escape_debug(),
                        "name the clock `boottime` or `monotonic`",
                    ));
                }
            };
            let (secs, nanosecs) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
            if nanosecs > 999_999_999 {
                return Err(Error::invalid(
                    format!("linux.timeOffsets.{clock}.nanosecs"),
                    nanosecs,
                    "give 0 to 999999999 and the rest as secs",
                ));
            }
            // Half of KTIME_SEC_MAX: the kernel's own bound (kernel/time/namespace.c, proc_timens_set_offset).
            if secs.unsigned_abs() > 4_611_686_018 {
                return Err(Error::invalid(
                    format!("linux.timeOffsets.{clock}.secs"),
                    secs,
                    "give at most 4611686018 seconds (146 years), the kernel's bound",
                ));
            }
            *slot = Some((secs, nanosecs));
        }
        Ok(offsets)
    }
}
