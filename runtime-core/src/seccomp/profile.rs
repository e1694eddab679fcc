//! Which rules hold: the profile's, checked, and what a system container needs besides.

use std::collections::HashSet;

use libseccomp::{ScmpAction, ScmpArgCompare, ScmpCompareOp, ScmpSyscall};
use oci_spec::runtime as oci;

use super::{allows, syscalls};
use crate::error::{Error, Result, Warning};

/// A profile as it is to hold.
#[derive(Debug)]
pub(super) struct Profile {
    /// Answer to what no rule speaks of.
    pub(super) default: ScmpAction,
    /// As given.
    pub(super) architectures: Vec<oci::Arch>,
    /// SECCOMP_FILTER_FLAG_* for seccomp(2).
    pub(super) flags: u32,
    /// One system call each; none repeats the default.
    pub(super) rules: Vec<Rule>,
    /// Largest generic number among the names that the profile itself has.
    pub(super) last_known: u32,
}

/// One rule.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    /// Name of the system call.
    pub(super) name: String,
    /// Answer where all conditions hold.
    pub(super) action: ScmpAction,
    /// On arguments.
    pub(super) conditions: Vec<Condition>,
}

/// A condition on one argument.
#[derive(Debug, Clone, Copy)]
pub(super) struct Condition {
    /// Index, 0 to 5.
    pub(super) argument: u32,
    op: ScmpCompareOp,
    value: u64,
}

impl Condition {
    pub(super) fn compare(&self) -> ScmpArgCompare {
        ScmpArgCompare::new(self.argument, self.op, self.value)
    }
}

/// Most rules, names of one rule, and names altogether.
const MAX_RULES: usize = 4096;
const MAX_NAMES: usize = 16384;

impl Profile {
    /// Checks `linux.seccomp` and widens it.
    ///
    /// A profile that denies by default is one of an engine, made for application containers: what [`syscalls`] lists is
    /// allowed besides, and rules that would deny or filter it are dropped. One that allows by default was written to
    /// deny what it names, and is taken as it is.
    pub(super) fn new(given: &oci::LinuxSeccomp, warnings: &mut Vec<Warning>) -> Result<Profile> {
        if let Some(path) = given.listener_path() {
            return Err(Error::invalid(
                "linux.seccomp.listenerPath",
                path.display(),
                "remove it: the one listener that the kernel allows a container is the runtime's",
            ));
        }
        if let Some(metadata) = given
            .listener_metadata()
            .as_deref()
            .filter(|m| !m.is_empty())
        {
            return Err(Error::invalid(
                "linux.seccomp.listenerMetadata",
                metadata,
                "remove it: there is no listener",
            ));
        }
        let default = action(
            "linux.seccomp",
            ["defaultAction", "defaultErrnoRet"],
            given.default_action(),
            given.default_errno_ret(),
        )?;
        let rules = rules(given.syscalls().as_deref().unwrap_or_default(), warnings)?;
        let last_known = rules.iter().filter_map(generic_number).max().unwrap_or(0);
        let mut rules = if allows(default) {
            rules
        } else {
            widen(rules, warnings)
        };
        rules.retain(|rule| rule.action != default);
        Ok(Profile {
            default,
            architectures: given.architectures().clone().unwrap_or_default(),
            flags: flags(given.flags().as_deref(), warnings),
            rules,
            last_known,
        })
    }
}

/// Adds what a system container needs to the rules of a profile that denies by default.
fn widen(given: Vec<Rule>, warnings: &mut Vec<Warning>) -> Vec<Rule> {
    let needed: HashSet<&str> = syscalls::system_container().collect();
    let mut denied: Vec<&str> = Vec::new();
    let mut rules: Vec<Rule> = Vec::with_capacity(given.len() + needed.len());
    for rule in &given {
        if !needed.contains(rule.name.as_str()) {
            rules.push(rule.clone());
        } else if !allows(rule.action) && rule.name != "clone3" {
            // clone3 is answered by ENOSYS in engines' profiles only because its flags cannot be filtered.
            denied.push(&rule.name);
        }
    }
    if !denied.is_empty() {
        warnings.push(Warning::new(
            "linux.seccomp.syscalls",
            format!(
                "{} allowed although the profile denies them: a system container needs them; remove the rules",
                denied.join(", ")
            ),
        ));
    }
    let allow = |name: &str| Rule {
        name: name.into(),
        action: ScmpAction::Allow,
        conditions: Vec::new(),
    };
    rules.extend(syscalls::system_container().map(allow));
    for name in syscalls::FILTERED {
        if !given.iter().any(|rule| rule.name == name) {
            rules.push(allow(name));
        }
    }
    rules
}

/// One rule for each name, in order.
fn rules(given: &[oci::LinuxSyscall], warnings: &mut Vec<Warning>) -> Result<Vec<Rule>> {
    let names: usize = given.iter().map(|rule| rule.names().len()).sum();
    if given.len() > MAX_RULES || names > MAX_NAMES {
        return Err(Error::invalid(
            "linux.seccomp.syscalls",
            format!("{} rules with {names} names", given.len()),
            format!("give at most {MAX_RULES} rules with {MAX_NAMES} names"),
        ));
    }
    let mut out = Vec::with_capacity(names);
    for (i, rule) in given.iter().enumerate() {
        let field = format!("linux.seccomp.syscalls[{i}]");
        let action = action(
            &field,
            ["action", "errnoRet"],
            rule.action(),
            rule.errno_ret(),
        )?;
        let args = rule.args().as_deref().unwrap_or_default();
        if args.len() > 64 {
            return Err(Error::invalid(
                format!("{field}.args"),
                format!("{} entries", args.len()),
                "give at most 64 entries",
            ));
        }
        let conditions: Vec<Condition> = args
            .iter()
            .enumerate()
            .map(|(j, arg)| condition(&format!("{field}.args[{j}]"), arg))
            .collect::<Result<_>>()?;
        if rule.names().is_empty() {
            let remedy = "name at least one system call";
            return Err(Error::invalid(format!("{field}.names"), "none", remedy));
        }
        for name in rule.names() {
            if ScmpSyscall::from_name(name).is_err() && number_of(name).is_none() {
                // Denied by default anyway, or not deniable: the latter is to be known.
                if !allows(action) {
                    warnings.push(Warning::new(
                        format!("{field}.names"),
                        format!(
                            "{} is not denied: no such system call is known; correct or remove it",
                            name.escape_debug()
                                .to_string()
                                .chars()
                                .take(64)
                                .collect::<String>()
                        ),
                    ));
                }
                continue;
            }
            out.push(Rule {
                name: name.clone(),
                action,
                conditions: conditions.clone(),
            });
        }
    }
    Ok(out)
}

fn action(
    field: &str,
    [name, errno_name]: [&str; 2],
    given: oci::LinuxSeccompAction,
    errno: Option<u32>,
) -> Result<ScmpAction> {
    use oci::LinuxSeccompAction as A;
    // Default of runtime-spec: EPERM. MAX_ERRNO of the kernel (linux/err.h) is 4095.
    let value = match (given, errno) {
        (A::ScmpActErrno | A::ScmpActTrace, None) => libc::EPERM as u16,
        (A::ScmpActErrno | A::ScmpActTrace, Some(errno)) => u16::try_from(errno)
            .ok()
            .filter(|errno| *errno <= 4095)
            .ok_or_else(|| {
                Error::invalid(format!("{field}.{errno_name}"), errno, "give 0 to 4095")
            })?,
        (_, None) => 0,
        (_, Some(errno)) => {
            return Err(Error::invalid(
                format!("{field}.{errno_name}"),
                errno,
                format!("remove it: {given} returns no error number"),
            ));
        }
    };
    match given {
        A::ScmpActKill | A::ScmpActKillThread => Ok(ScmpAction::KillThread),
        A::ScmpActKillProcess => Ok(ScmpAction::KillProcess),
        A::ScmpActTrap => Ok(ScmpAction::Trap),
        A::ScmpActErrno => Ok(ScmpAction::Errno(i32::from(value))),
        A::ScmpActTrace => Ok(ScmpAction::Trace(value)),
        A::ScmpActLog => Ok(ScmpAction::Log),
        A::ScmpActAllow => Ok(ScmpAction::Allow),
        A::ScmpActNotify => Err(Error::invalid(
            format!("{field}.{name}"),
            given,
            "use another action: the one listener that the kernel allows a container is the runtime's",
        )),
    }
}

fn condition(field: &str, arg: &oci::LinuxSeccompArg) -> Result<Condition> {
    use oci::LinuxSeccompOperator as O;
    let argument = u32::try_from(arg.index())
        .ok()
        .filter(|index| *index < 6)
        .ok_or_else(|| Error::invalid(format!("{field}.index"), arg.index(), "give 0 to 5"))?;
    let (op, value) = match arg.op() {
        O::ScmpCmpNe => (ScmpCompareOp::NotEqual, arg.value()),
        O::ScmpCmpLt => (ScmpCompareOp::Less, arg.value()),
        O::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, arg.value()),
        O::ScmpCmpEq => (ScmpCompareOp::Equal, arg.value()),
        O::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, arg.value()),
        O::ScmpCmpGt => (ScmpCompareOp::Greater, arg.value()),
        // The spec's `value` is the mask, `valueTwo` what the masked argument has to be.
        O::ScmpCmpMaskedEq => (
            ScmpCompareOp::MaskedEqual(arg.value()),
            arg.value_two().unwrap_or(0),
        ),
    };
    Ok(Condition {
        argument,
        op,
        value,
    })
}

fn flags(given: Option<&[oci::LinuxSeccompFilterFlag]>, warnings: &mut Vec<Warning>) -> u32 {
    use oci::LinuxSeccompFilterFlag as F;
    let Some(given) = given else {
        // As runc: engines that say nothing do not mean to slow the container down.
        return libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32;
    };
    given.iter().fold(0, |flags, flag| {
        flags
            | match flag {
                F::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG as u32,
                F::SeccompFilterFlagTsync => libc::SECCOMP_FILTER_FLAG_TSYNC as u32,
                F::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32,
                F::SeccompFilterFlagWaitKillableRecv => {
                    warnings.push(Warning::new(
                        "linux.seccomp.flags",
                        format!("{flag} has no effect without a listener; remove it"),
                    ));
                    0
                }
            }
    })
}

/// Number of a system call that is newer than libseccomp.
fn number_of(name: &str) -> Option<u32> {
    syscalls::NEWER
        .iter()
        .find(|(other, _)| *other == name)
        .map(|(_, number)| *number)
}

/// Number of the rule's system call, if it is one that all architectures share.
pub(super) fn generic_number(rule: &Rule) -> Option<u32> {
    match ScmpSyscall::from_name(&rule.name) {
        Ok(syscall) => u32::try_from(syscall.as_raw_syscall()).ok(),
        Err(_) => number_of(&rule.name),
    }
    .filter(|number| (syscalls::FIRST_GENERIC..=syscalls::LAST_GENERIC).contains(number))
}

/// The answers to system calls that libseccomp does not know, by number; of several rules on one the first counts.
pub(super) fn by_number(
    rules: &[&Rule],
    warnings: &mut Vec<Warning>,
) -> Result<Vec<(u32, ScmpAction)>> {
    let mut out: Vec<(u32, ScmpAction)> = Vec::new();
    for rule in rules {
        let Some(number) = number_of(&rule.name) else {
            continue;
        };
        if !rule.conditions.is_empty() {
            return Err(Error::invalid(
                "linux.seccomp.syscalls",
                format!("arguments of {}", rule.name),
                "remove args: libseccomp is too old to filter arguments of this system call",
            ));
        }
        match out.iter().find(|(other, _)| *other == number) {
            Some((_, action)) if *action != rule.action => warnings.push(Warning::new(
                "linux.seccomp.syscalls",
                format!(
                    "of several rules on {} only the first holds; remove the others",
                    rule.name
                ),
            )),
            Some(_) => {}
            None => out.push((number, rule.action)),
        }
    }
    out.sort_unstable_by_key(|(number, _)| *number);
    Ok(out)
}
