//! The plan: the OCI spec checked once, in pure code. Nothing after this module reads the spec.
//!
//! Every field of the runtime spec is either done (it ends in a [`Plan`]) or refused by its name
//! ([`crate::error::Error::Invalid`]). What is done differently from what was asked is a [`Warning`]. Properties that the
//! runtime spec does not define are ignored, as it demands ("Extensibility").

mod capabilities;
mod cgroup_path;
mod devices;
mod environment;
mod file_systems;
mod hooks;
mod idmap;
mod masks;
mod mounts;
mod namespaces;
mod options;
mod process;
mod sysctl;
mod text;

use std::collections::BTreeMap;
use std::path::Path;

use oci_spec::runtime as oci;
use serde::{Deserialize, Serialize};

use crate::cgroup::limits::Limits;
use crate::cgroup::scope::Scope;
use crate::config::{Config, OnDropped};
use crate::error::{Error, Result, Warning};
use crate::kernel::idmap::IdMap;
use crate::seccomp;
use environment::Sysbox;
use namespaces::TimeOffsets;

pub(crate) use capabilities::CapabilityRule;
pub(crate) use devices::{DeviceKind, DeviceNode};
pub(crate) use hooks::{Hook, Hooks};
pub(crate) use mounts::{Base, Mount, MountKind};
pub(crate) use namespaces::{Namespaces, NsSource};
pub(crate) use options::Propagation;
pub(crate) use process::{Process, ProcessContext, Rlimit, plan_process};
pub(crate) use sysctl::sysctl_path;

/// What one container is to be. Sent to the stage as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// `hostname`.
    pub hostname: Option<String>,
    /// `domainname`.
    pub domainname: Option<String>,
    /// Where each namespace comes from.
    pub namespaces: Namespaces,
    /// Mappings given by the spec; `None`: an exclusive range is allocated (or the joined namespace's hold).
    pub idmap: Option<IdMap>,
    /// `root` and `linux.rootfsPropagation`.
    pub rootfs: Rootfs,
    /// Mounts of the user in the spec's order, without those that the runtime makes itself (see [`Base`]).
    pub mounts: Vec<Mount>,
    /// Options of the mounts that the runtime makes itself.
    pub base: Base,
    /// `linux.devices` beyond the default set.
    pub devices: Vec<DeviceNode>,
    /// `linux.maskedPaths`, less what system containers need.
    pub masked_paths: Vec<String>,
    /// `linux.readonlyPaths`, less what system containers need.
    pub readonly_paths: Vec<String>,
    /// `linux.sysctl`: namespaced ones only, keys as given; [`sysctl_path`] makes them paths.
    pub sysctl: BTreeMap<String, String>,
    /// cgroup directory of the container relative to the root of the unified hierarchy (`system.slice/x.scope`).
    pub cgroup_path: String,
    /// The scope that it is where systemd is PID 1.
    pub scope: Option<Scope>,
    /// `linux.resources`.
    pub limits: Limits,
    /// The container's first process.
    pub process: Process,
    /// `linux.timeOffsets` beyond ours: none given means that boottime starts at 0 at create.
    pub boottime_offset: Option<(i64, u32)>,
    /// Offset of the monotonic clock, seconds and nanoseconds, if given.
    pub monotonic_offset: Option<(i64, u32)>,
    /// Lifecycle hooks.
    pub hooks: Hooks,
    /// Absolute paths inside that get a directory beside the layer (design D7), less those a user's mount covers.
    pub data_roots: Vec<String>,
    /// What of a spec's capabilities counts, for exec'd processes, too.
    pub capability_rule: CapabilityRule,
    /// `annotations`, for hooks' state.
    pub annotations: BTreeMap<String, String>,
    /// Downgrades known already.
    pub warnings: Vec<Warning>,
}

/// The root file system's properties.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rootfs {
    /// `root.path` as an absolute host path (relative ones resolved against the bundle).
    pub path: String,
    /// `root.readonly`.
    pub readonly: bool,
    /// `linux.rootfsPropagation`. The default is slave, as inner engines may then bind what they like as a slave, and mounts can be
    /// moved; shared for systemd, as on a machine that it has booted (systemd leaves it to whoever makes its container).
    pub propagation: Propagation,
}

/// What a plan is made from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlanInput<'a> {
    /// config.json.
    pub spec: &'a oci::Spec,
    /// Absolute path of the bundle, from which relative paths are taken.
    pub bundle: &'a Path,
    /// Container id.
    pub id: &'a str,
    /// containerd namespace.
    pub namespace: &'a str,
    /// The configuration that holds for this container.
    pub config: &'a Config,
    /// Overrides `process.terminal` (the request's `terminal`).
    pub terminal: Option<bool>,
    /// Last capability of the kernel (/proc/sys/kernel/cap_last_cap).
    pub last_cap: u8,
    /// Directory where compiled seccomp programs are kept; with none the plan is pure.
    pub seccomp_cache: Option<&'a Path>,
}

/// Longest host or domain name (__NEW_UTS_LEN, linux/utsname.h).
const UTS_LEN: usize = 64;

/// Most annotations.
const MAX_ANNOTATIONS: usize = 10_000;

impl Plan {
    /// Checks the spec.
    ///
    /// # Errors
    /// [`Error::Invalid`] for the first field that is malformed or that asks for what a system container cannot be.
    pub(crate) fn new(input: PlanInput<'_>) -> Result<Plan> {
        let spec = input.spec;
        refuse_foreign(spec)?;
        let linux = spec.linux().as_ref().ok_or_else(|| {
            Error::invalid("linux", "none", "add the section; it lists the namespaces")
        })?;
        let given_process = spec.process().as_ref().ok_or_else(|| {
            Error::invalid(
                "process",
                "none",
                "add the section; it names the program to run",
            )
        })?;
        refuse_unsupported(linux)?;

        let mut warnings = Vec::new();
        let namespaces = Namespaces::new(linux.namespaces().as_deref().unwrap_or_default())?;
        let offsets = TimeOffsets::new(linux, &namespaces.time)?;
        let idmap = idmap::of_userns(linux)?;
        let mut hostname = uts_field("hostname", spec.hostname())?;
        let mut domainname = uts_field("domainname", spec.domainname())?;
        let sysctl = sysctl::plan_sysctls(linux, &mut hostname, &mut domainname)?;
        let sysbox = Sysbox::new(
            given_process.env().as_deref().unwrap_or_default(),
            input.config.environment,
            &mut warnings,
        )?;
        let mounts = mounts::Mounts::new(
            spec.mounts().as_deref().unwrap_or_default(),
            input.bundle,
            &sysbox.skip_uid_shift,
            (
                is_readonly(spec) && !input.config.relaxed_read_only,
                input.config.devices.fuse || devices::asks_fuse(linux),
            ),
            &mut warnings,
        )?;
        let (limits, limit_warnings) = Limits::new(linux.resources().as_ref(), mounts.base.fuse)?;
        warnings.extend(limit_warnings);
        let devices = devices::plan_devices(
            linux.devices().as_deref().unwrap_or_default(),
            &limits,
            &mut warnings,
        )?;
        let seccomp = match linux.seccomp() {
            None => None,
            Some(profile) => {
                let (program, seccomp_warnings) = seccomp::compile(profile, input.seccomp_cache)?;
                warnings.extend(seccomp_warnings);
                Some(program)
            }
        };
        let capability_rule = match (sysbox.honor_caps, input.config.dropped_capabilities) {
            (true, _) => CapabilityRule::Spec,
            (false, OnDropped::Drop) => CapabilityRule::LessDropped,
            (false, OnDropped::Keep) => CapabilityRule::All,
        };
        let (process, process_warnings) = process::checked(
            given_process,
            ProcessContext {
                terminal: input.terminal,
                last_cap: input.last_cap,
                capability_rule,
                ids: (namespaces.user == NsSource::New).then_some(input.config.ids.per_pod),
                idmap: idmap.as_ref(),
                unbarred: &input.config.seccomp.allow,
                seccomp: seccomp.as_ref(),
            },
        )?;
        warnings.extend(process_warnings);
        warnings.extend(capabilities::kept(
            capability_rule,
            given_process.capabilities().as_ref(),
            &process,
        ));

        if mounts.base.readonly && process.may_be_systemd() {
            warnings.push(Warning::new(
                "root.readonly",
                "its cgroup is read-only as well, without which systemd does not start: set relaxed-read-only in the configuration",
            ));
        }

        let (cgroup_path, scope) = cgroup_path::plan_cgroup_path(
            linux.cgroups_path().as_deref(),
            input.namespace,
            input.id,
        )?;
        Ok(Plan {
            rootfs: rootfs(spec, linux, input.bundle, process.may_be_systemd())?,
            devices,
            masked_paths: masks::masked(
                linux.masked_paths().as_deref().unwrap_or_default(),
                process.may_be_systemd(),
                &mut warnings,
            )?,
            readonly_paths: masks::readonly(
                linux.readonly_paths().as_deref().unwrap_or_default(),
                process.may_be_systemd(),
                &mut warnings,
            )?,
            cgroup_path,
            scope,
            hooks: Hooks::new(spec.hooks().as_ref())?,
            data_roots: data_roots(&input.config.data_roots, &mounts.user),
            annotations: annotations(spec)?,
            hostname,
            domainname,
            namespaces,
            idmap,
            mounts: mounts.user,
            base: mounts.base,
            sysctl,
            limits,
            process,
            boottime_offset: offsets.boottime,
            monotonic_offset: offsets.monotonic,
            capability_rule,
            warnings,
        })
    }
}

/// Sections of other platforms, and the version.
fn refuse_foreign(spec: &oci::Spec) -> Result<()> {
    if spec.version().split('.').next() != Some("1") {
        return Err(Error::invalid(
            "ociVersion",
            spec.version(),
            "write the spec in version 1 of the runtime spec, such as 1.2.0",
        ));
    }
    for (field, given) in [
        ("solaris", spec.solaris().is_some()),
        ("windows", spec.windows().is_some()),
        ("vm", spec.vm().is_some()),
        ("zos", spec.zos().is_some()),
    ] {
        if given {
            return Err(Error::invalid(
                field,
                "given",
                "remove the section: this runtime makes Linux containers",
            ));
        }
    }
    let misplaced = [
        ("uidMappings", spec.uid_mappings().is_some()),
        ("gidMappings", spec.gid_mappings().is_some()),
    ];
    for (field, given) in misplaced {
        if given {
            return Err(Error::invalid(
                field,
                "given",
                format!("move it to linux.{field}"),
            ));
        }
    }
    Ok(())
}

/// Fields of `linux` that no system container can have, or not yet.
fn refuse_unsupported(linux: &oci::Linux) -> Result<()> {
    let text = |given: &Option<String>| given.clone().filter(|text| !text.is_empty());
    for (field, given, remedy) in [
        (
            "linux.mountLabel",
            text(linux.mount_label()),
            "switch SELinux labels off for this container (--security-opt label=disable): not supported",
        ),
        (
            "linux.intelRdt",
            linux.intel_rdt().as_ref().map(|rdt| format!("{rdt:?}")),
            "remove it, and put the container's cgroup into a resctrl group from outside: not supported",
        ),
        (
            "linux.memoryPolicy",
            linux
                .memory_policy()
                .as_ref()
                .map(|policy| format!("{policy:?}")),
            "remove it, and bind memory by linux.resources.cpu.mems: not supported",
        ),
        (
            "linux.netDevices",
            linux
                .net_devices()
                .as_ref()
                .filter(|devices| !devices.is_empty())
                .map(|devices| {
                    let mut names: Vec<&str> = devices.keys().map(String::as_str).collect();
                    names.sort_unstable();
                    names.join(", ")
                }),
            "remove it, and move the devices by CNI or `ip link set netns`: not supported",
        ),
        (
            "linux.personality",
            linux
                .personality()
                .as_ref()
                .filter(|p| {
                    p.domain() != oci::LinuxPersonalityDomain::PerLinux
                        || p.flags().as_ref().is_some_and(|flags| !flags.is_empty())
                })
                .map(|p| match (p.domain(), p.flags()) {
                    (oci::LinuxPersonalityDomain::PerLinux32, _) => "LINUX32".to_string(),
                    (_, flags) => format!("flags {flags:?}"),
                }),
            "remove it, and run the program by setarch(8) inside: only LINUX without flags is supported",
        ),
    ] {
        if let Some(value) = given {
            return Err(Error::invalid(field, value, remedy));
        }
    }
    Ok(())
}

fn is_readonly(spec: &oci::Spec) -> bool {
    let root = spec.root().as_ref();
    root.and_then(oci::Root::readonly).unwrap_or(false)
}

/// `systemd`: whether it is the container's program.
fn rootfs(spec: &oci::Spec, linux: &oci::Linux, bundle: &Path, systemd: bool) -> Result<Rootfs> {
    let root = spec.root().as_ref().ok_or_else(|| {
        Error::invalid(
            "root",
            "none",
            "add the section; it names the root file system",
        )
    })?;
    if root.path().as_os_str().is_empty() {
        return Err(Error::invalid(
            "root.path",
            "an empty string",
            "name the directory of the root file system",
        ));
    }
    let path = text::absolute_from("root.path", root.path(), bundle)?;
    if path == "/" {
        return Err(Error::invalid(
            "root.path",
            path,
            "name a directory of its own: the host's root cannot be a container's",
        ));
    }
    let default = if systemd {
        Propagation::Shared
    } else {
        Propagation::Slave
    };
    Ok(Rootfs {
        path,
        readonly: is_readonly(spec),
        propagation: match linux.rootfs_propagation().as_deref() {
            None | Some("") => default,
            Some(word) => match options::propagation(word) {
                Some((Propagation::Slave, _)) => default,
                Some((kind, _)) => kind,
                None => {
                    return Err(Error::invalid(
                        "linux.rootfsPropagation",
                        word.escape_debug(),
                        "give shared, slave, private or unbindable",
                    ));
                }
            },
        },
    })
}

fn uts_field(field: &str, given: &Option<String>) -> Result<Option<String>> {
    match given.as_deref() {
        None | Some("") => Ok(None),
        Some(name) => uts_name(field, name).map(Some),
    }
}

/// A host or domain name that the kernel takes.
fn uts_name(field: &str, name: &str) -> Result<String> {
    text::line(field, name, UTS_LEN)?;
    Ok(name.to_string())
}

/// The configured data roots, less those where the user mounts something of his own, or above.
fn data_roots(configured: &[String], mounts: &[Mount]) -> Vec<String> {
    configured
        .iter()
        .filter(|root| {
            !mounts
                .iter()
                .any(|mount| text::is_at_or_below(root, &mount.destination))
        })
        .cloned()
        .collect()
}

fn annotations(spec: &oci::Spec) -> Result<BTreeMap<String, String>> {
    let mut out = BTreeMap::new();
    let Some(given) = spec.annotations() else {
        return Ok(out);
    };
    if given.len() > MAX_ANNOTATIONS {
        return Err(Error::invalid(
            "annotations",
            format!("{} entries", given.len()),
            format!("give at most {MAX_ANNOTATIONS} entries"),
        ));
    }
    for (key, value) in given {
        if key.is_empty() {
            return Err(Error::invalid("annotations", "an empty key", "name it"));
        }
        text::plain("annotations", key, 4096)?;
        let field = format!("annotations.{}", key.escape_debug());
        text::plain(&field, value, 1 << 20)?;
        out.insert(key.clone(), value.clone());
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
