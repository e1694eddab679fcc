//! `process`: the container's first process, or an exec'd one.

use std::path::Path;

use oci_spec::runtime as oci;
use serde::{Deserialize, Serialize};

use super::capabilities::{Capabilities, CapabilityRule};
use super::environment;
use super::text;
use crate::config::Barred;
use crate::error::{Error, Result, Warning};
use crate::kernel::idmap::IdMap;
use crate::seccomp::SeccompProgram;

/// A process: the container's first or an exec'd one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    /// `args`, at least one.
    pub args: Vec<String>,
    /// `env`, `K=V`, in order, each name once.
    pub env: Vec<String>,
    /// Absolute working directory inside.
    pub cwd: String,
    /// User id inside.
    pub uid: u32,
    /// Group id inside.
    pub gid: u32,
    /// Supplementary groups inside.
    pub groups: Vec<u32>,
    /// `umask`; the default is 0022.
    pub umask: u32,
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
    /// Capability sets after the switch of user.
    pub capabilities: Capabilities,
    /// `noNewPrivileges`.
    pub no_new_privs: bool,
    /// `oomScoreAdj`.
    pub oom_score_adj: Option<i32>,
    /// A terminal is wanted.
    pub terminal: bool,
    /// Initial size of the terminal, columns and rows.
    pub console_size: Option<(u16, u16)>,
    /// `ioPriority`: the value for ioprio_set(2).
    pub io_priority: Option<i32>,
    /// What the base filter, which lies under all others, leaves out ([`crate::seccomp::base`]).
    pub unbarred: Vec<Barred>,
    /// Seccomp program in the kernel's `struct sock_filter` bytes and flags for seccomp(2).
    pub seccomp: Option<SeccompProgram>,
}

impl Process {
    /// Whether its program may be systemd, by its name (`/sbin/init`, `systemd`): the plan does not see files.
    pub(super) fn may_be_systemd(&self) -> bool {
        let program = self.args.first().map(Path::new).and_then(Path::file_name);
        program.is_some_and(|name| name == "init" || name == "systemd")
    }
}

/// RLIMIT_* number, soft and hard limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rlimit {
    /// Resource number of getrlimit(2).
    pub resource: u32,
    /// Soft limit, `u64::MAX` for infinity.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

/// What a process takes from its container, decided at create.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProcessContext<'a> {
    /// Overrides `process.terminal` (the request's `terminal`).
    pub terminal: Option<bool>,
    /// Last capability of the kernel (/proc/sys/kernel/cap_last_cap).
    pub last_cap: u8,
    /// [`super::Plan::capability_rule`].
    pub capability_rule: CapabilityRule,
    /// Number of ids mapped where the runtime chooses the mapping (`ids.per-pod`); `None` where a namespace is joined
    /// whose mappings are not known.
    pub ids: Option<u32>,
    /// Mappings of the container, where given.
    pub idmap: Option<&'a IdMap>,
    /// The container's compiled filter.
    pub seccomp: Option<&'a SeccompProgram>,
    /// What the base filter leaves out.
    pub unbarred: &'a [Barred],
}

/// Most supplementary groups of a process (NGROUPS_MAX, linux/limits.h).
const MAX_GROUPS: usize = 65536;

/// Most arguments: what a spec can make us hold is bounded; execve(2) bounds their size.
const MAX_ARGS: usize = 131_072;

/// Checks an exec'd process as [`super::Plan::new`] checks the first.
///
/// `SYSBOX_*` variables configure the container at create and only there: here they are dropped unread.
pub(crate) fn plan_process(
    process: &oci::Process,
    context: ProcessContext<'_>,
) -> Result<(Process, Vec<Warning>)> {
    let (mut planned, warnings) = checked(process, context)?;
    planned.env.retain(|v| !environment::is_sysbox(v));
    Ok((planned, warnings))
}

/// Checks a process; `SYSBOX_*` variables stay in its environment.
pub(super) fn checked(
    process: &oci::Process,
    context: ProcessContext<'_>,
) -> Result<(Process, Vec<Warning>)> {
    let mut warnings = Vec::new();
    refuse_foreign(process)?;
    labels(process, &mut warnings)?;
    let user = process.user();
    let terminal = context.terminal.or(process.terminal()).unwrap_or(false);
    let planned = Process {
        args: args(process)?,
        env: environment::checked(process.env().as_deref().unwrap_or_default())?,
        cwd: cwd(process)?,
        uid: mapped("process.user.uid", user.uid(), &context, IdMap::host_uid)?,
        gid: mapped("process.user.gid", user.gid(), &context, IdMap::host_gid)?,
        groups: groups(user, &context)?,
        umask: umask(user)?,
        rlimits: rlimits(process.rlimits().as_deref().unwrap_or_default())?,
        capabilities: Capabilities::new(
            context.capability_rule,
            process.capabilities().as_ref(),
            user.uid(),
            context.last_cap,
        )?,
        no_new_privs: process.no_new_privileges().unwrap_or(false),
        oom_score_adj: oom_score_adj(process, &mut warnings)?,
        terminal,
        console_size: console_size(process, terminal)?,
        io_priority: io_priority(process)?,
        unbarred: context.unbarred.to_vec(),
        seccomp: context.seccomp.cloned(),
    };
    Ok((planned, warnings))
}

/// Fields of other platforms and what no system container can have yet.
fn refuse_foreign(process: &oci::Process) -> Result<()> {
    if let Some(line) = process.command_line() {
        return Err(Error::invalid(
            "process.commandLine",
            line,
            "use process.args: this field is for Windows",
        ));
    }
    if let Some(name) = process.user().username() {
        return Err(Error::invalid(
            "process.user.username",
            name,
            "use process.user.uid and gid: this field is for Windows",
        ));
    }
    if let Some(scheduler) = process.scheduler() {
        return Err(Error::invalid(
            "process.scheduler",
            scheduler.policy(),
            "remove it, and set the policy inside the container with chrt(1)",
        ));
    }
    if let Some(affinity) = process.exec_cpu_affinity() {
        return Err(Error::invalid(
            "process.execCPUAffinity",
            format!("{affinity:?}"),
            "remove it, and bound the container by linux.resources.cpu.cpus",
        ));
    }
    Ok(())
}

/// Labels of security modules.
fn labels(process: &oci::Process, warnings: &mut Vec<Warning>) -> Result<()> {
    if let Some(label) = process.selinux_label().as_deref().filter(|l| !l.is_empty()) {
        return Err(Error::invalid(
            "process.selinuxLabel",
            label,
            "switch SELinux labels off for this container (--security-opt label=disable): not supported",
        ));
    }
    match process.apparmor_profile().as_deref() {
        None | Some("" | "unconfined") => {}
        // The engines' default profiles: they deny mount(2), on which system containers live.
        Some(
            name @ ("docker-default"
            | "cri-containerd.apparmor.d"
            | "nerdctl-default"
            | "buildkit-default"),
        ) => warnings.push(Warning::new(
            "process.apparmorProfile",
            format!(
                "the engine's default profile {name} is not applied: it denies mount(2), which a system container \
                 needs; ask for `unconfined` to be rid of this warning"
            ),
        )),
        Some(name) => {
            return Err(Error::invalid(
                "process.apparmorProfile",
                name,
                "use `unconfined`: AppArmor profiles are not supported, and running without the one you named \
                 would be weaker than you asked for",
            ));
        }
    }
    Ok(())
}

fn args(process: &oci::Process) -> Result<Vec<String>> {
    let args = process.args().as_deref().unwrap_or_default();
    if args.first().is_none_or(String::is_empty) {
        return Err(Error::invalid(
            "process.args",
            format!("{args:?}"),
            "name the program to run: the image has no command or entry point",
        ));
    }
    text::bounded("process.args", args, MAX_ARGS)?;
    for (i, arg) in args.iter().enumerate() {
        text::plain(&format!("process.args[{i}]"), arg, text::ARG_MAX)?;
    }
    Ok(args.to_vec())
}

fn cwd(process: &oci::Process) -> Result<String> {
    let cwd = text::absolute("process.cwd", process.cwd())?;
    // A descriptor that leaked from the host would be a way out of the container (CVE-2024-21626).
    let components: Vec<&str> = cwd.split('/').skip(1).collect();
    if let ["proc", _, "fd" | "task" | "root" | "cwd" | "map_files", ..] = components[..] {
        return Err(Error::invalid(
            "process.cwd",
            cwd,
            "name the directory itself, not a way to it through /proc",
        ));
    }
    Ok(cwd)
}

/// An id that the user namespace has, or is to have.
fn mapped(
    field: &str,
    id: u32,
    context: &ProcessContext<'_>,
    host: impl Fn(&IdMap, u32) -> Option<u32>,
) -> Result<u32> {
    let known = match (context.idmap, context.ids) {
        (Some(map), _) => host(map, id).is_some(),
        (None, Some(ids)) => id < ids,
        (None, None) => id != u32::MAX,
    };
    if !known {
        return Err(Error::invalid(
            field,
            id,
            "use an id that is mapped, or map more (linux.uidMappings and gidMappings, or `ids.per-pod` of the \
             configuration)",
        ));
    }
    Ok(id)
}

fn groups(user: &oci::User, context: &ProcessContext<'_>) -> Result<Vec<u32>> {
    let groups = user.additional_gids().as_deref().unwrap_or_default();
    text::bounded("process.user.additionalGids", groups, MAX_GROUPS)?;
    for (i, gid) in groups.iter().enumerate() {
        let field = format!("process.user.additionalGids[{i}]");
        mapped(&field, *gid, context, IdMap::host_gid)?;
    }
    Ok(groups.to_vec())
}

fn umask(user: &oci::User) -> Result<u32> {
    match user.umask() {
        None => Ok(0o022),
        Some(mask @ 0..=0o777) => Ok(mask),
        Some(mask) => Err(Error::invalid(
            "process.user.umask",
            format!("{mask} (0{mask:o})"),
            "give permission bits only, 0 to 511 (0777)",
        )),
    }
}

fn rlimits(given: &[oci::PosixRlimit]) -> Result<Vec<Rlimit>> {
    let mut out: Vec<Rlimit> = Vec::new();
    for (i, limit) in given.iter().enumerate() {
        let resource = resource(limit.typ());
        if out.iter().any(|other| other.resource == resource) {
            let field = format!("process.rlimits[{i}].type");
            let remedy = "give each limit once";
            return Err(Error::invalid(field, limit.typ(), remedy));
        }
        if limit.soft() > limit.hard() {
            return Err(Error::invalid(
                format!("process.rlimits[{i}].soft"),
                format!("{} of {}", limit.soft(), limit.typ()),
                format!("give at most the hard limit, {}", limit.hard()),
            ));
        }
        out.push(Rlimit {
            resource,
            soft: limit.soft(),
            hard: limit.hard(),
        });
    }
    Ok(out)
}

fn resource(kind: oci::PosixRlimitType) -> u32 {
    use oci::PosixRlimitType as T;
    match kind {
        T::RlimitCpu => libc::RLIMIT_CPU,
        T::RlimitFsize => libc::RLIMIT_FSIZE,
        T::RlimitData => libc::RLIMIT_DATA,
        T::RlimitStack => libc::RLIMIT_STACK,
        T::RlimitCore => libc::RLIMIT_CORE,
        T::RlimitRss => libc::RLIMIT_RSS,
        T::RlimitNproc => libc::RLIMIT_NPROC,
        T::RlimitNofile => libc::RLIMIT_NOFILE,
        T::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        T::RlimitAs => libc::RLIMIT_AS,
        T::RlimitLocks => libc::RLIMIT_LOCKS,
        T::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        T::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        T::RlimitNice => libc::RLIMIT_NICE,
        T::RlimitRtprio => libc::RLIMIT_RTPRIO,
        T::RlimitRttime => libc::RLIMIT_RTTIME,
    }
}

/// -1000 would make the container's first process, and all below it, unkillable by the host under memory pressure.
const MIN_OOM_SCORE_ADJ: i32 = -999;

fn oom_score_adj(process: &oci::Process, warnings: &mut Vec<Warning>) -> Result<Option<i32>> {
    match process.oom_score_adj() {
        None => Ok(None),
        Some(value) if !(-1000..=1000).contains(&value) => Err(Error::invalid(
            "process.oomScoreAdj",
            value,
            "give -1000 to 1000",
        )),
        Some(value) if value < MIN_OOM_SCORE_ADJ => {
            warnings.push(Warning::new(
                "process.oomScoreAdj",
                format!(
                    "{MIN_OOM_SCORE_ADJ} instead of {value}: the host must be able to kill a container; \
                     ask for {MIN_OOM_SCORE_ADJ} or more"
                ),
            ));
            Ok(Some(MIN_OOM_SCORE_ADJ))
        }
        Some(value) => Ok(Some(value)),
    }
}

fn console_size(process: &oci::Process, terminal: bool) -> Result<Option<(u16, u16)>> {
    let Some(size) = process.console_size().filter(|_| terminal) else {
        return Ok(None);
    };
    let side = |name: &str, value: u64| {
        u16::try_from(value).map_err(|_| {
            let field = format!("process.consoleSize.{name}");
            Error::invalid(field, value, "give at most 65535")
        })
    };
    Ok(Some((
        side("width", size.width())?,
        side("height", size.height())?,
    )))
}

fn io_priority(process: &oci::Process) -> Result<Option<i32>> {
    let Some(given) = process.io_priority() else {
        return Ok(None);
    };
    // IOPRIO_CLASS_* and IOPRIO_CLASS_SHIFT of linux/ioprio.h.
    let class = match given.class() {
        oci::IOPriorityClass::IoprioClassRt => 1,
        oci::IOPriorityClass::IoprioClassBe => 2,
        oci::IOPriorityClass::IoprioClassIdle => 3,
    };
    match i32::try_from(given.priority()) {
        Ok(level @ 0..=7) => Ok(Some(class << 13 | level)),
        _ => Err(Error::invalid(
            "process.ioPriority.priority",
            given.priority(),
            "give 0 (highest) to 7 (lowest)",
        )),
    }
}
