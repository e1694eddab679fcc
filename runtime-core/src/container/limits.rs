//! Limits of resources: what a process gets of `process.rlimits`, of what the host lets us set, and of what its engine has.

use std::fs;

use rustix::thread::{CapabilitySet, capabilities};

use crate::error::{OsContext, Result, Warning};
use crate::plan::{Process, Rlimit};
use crate::sys;

const REMEDY: &str = "give the engine CAP_SYS_RESOURCE";
/// The hard limit of open files that inner engines and what they run ask for, at most: the kernel's default of fs.nr_open.
const MAX_FILES: u64 = 1 << 20;
const INFINITY: u64 = u64::MAX;

/// What this host lets us give.
struct Host {
    /// Whether hard limits may be raised.
    may_raise: bool,
    /// `fs.nr_open`, above which nobody has a limit of open files.
    nr_open: u64,
}

/// Settles `process.rlimits`: hard limits no higher than can be had, the soft ones kept as far as they can be. As on a machine
/// of its own, root inside may raise its limits of open files and locked memory; without a limit of the spec's they begin
/// where the engine's are.
///
/// A limit that the spec gives and that cannot be had is a warning; that one cannot be raised of which it says nothing is what
/// `check` tells of the host.
pub(crate) fn settle(process: &mut Process) -> Result<Vec<Warning>> {
    let held = capabilities(None).os("capget", "own")?.effective;
    let nr_open = fs::read_to_string("/proc/sys/fs/nr_open").unwrap_or_default();
    let host = Host {
        may_raise: held.contains(CapabilitySet::SYS_RESOURCE),
        nr_open: nr_open.trim().parse().unwrap_or(MAX_FILES),
    };
    let mut warnings = Vec::new();
    for limit in &mut process.rlimits {
        let own = sys::process::rlimit(limit.resource).os("getrlimit", limit.resource)?;
        warnings.extend(host.lower(limit, own.1));
    }
    for (resource, wanted) in [
        (libc::RLIMIT_NOFILE, Some(MAX_FILES.min(host.nr_open))),
        (libc::RLIMIT_MEMLOCK, Some(INFINITY)),
        // Stages raise these for the sake of the user namespace, so they are given back as they were.
        (libc::RLIMIT_MSGQUEUE, None),
        (libc::RLIMIT_SIGPENDING, None),
    ] {
        if process
            .rlimits
            .iter()
            .any(|given| given.resource == resource)
        {
            continue;
        }
        let (soft, hard) = sys::process::rlimit(resource).os("getrlimit", resource)?;
        let mut limit = Rlimit {
            resource,
            soft,
            hard: wanted.unwrap_or(hard).max(hard),
        };
        let _ = host.lower(&mut limit, hard);
        process.rlimits.push(limit);
    }
    Ok(warnings)
}

impl Host {
    /// Lowers `limit` to what can be had where the engine's hard limit is `own`.
    fn lower(&self, limit: &mut Rlimit, own: u64) -> Option<Warning> {
        let (mut highest, mut remedy) = (INFINITY, "");
        if limit.resource == libc::RLIMIT_NOFILE && limit.hard > self.nr_open {
            (highest, remedy) = (self.nr_open, "raise the sysctl fs.nr_open");
        }
        if limit.hard > own && !self.may_raise {
            (highest, remedy) = (highest.min(own), REMEDY);
        }
        if limit.hard <= highest {
            return None;
        }
        let text = format!(
            "{} instead of {}: {remedy}",
            show((limit.soft.min(highest), highest)),
            show((limit.soft, limit.hard))
        );
        (limit.hard, limit.soft) = (highest, limit.soft.min(highest));
        Some(Warning::new(
            format!("process.rlimits {}", name(limit.resource)),
            text,
        ))
    }
}

/// Soft and hard limit as prlimit(1) takes them.
fn show((soft, hard): (u64, u64)) -> String {
    let one = |limit| match limit {
        INFINITY => "unlimited".into(),
        limit => limit.to_string(),
    };
    format!("{}:{}", one(soft), one(hard))
}

/// The spec's name of a resource.
fn name(resource: u32) -> String {
    match resource {
        libc::RLIMIT_NOFILE => "RLIMIT_NOFILE".into(),
        libc::RLIMIT_MEMLOCK => "RLIMIT_MEMLOCK".into(),
        number => format!("resource {number}"),
    }
}

/// Sets `oom_score_adj` of process `pid`, a child of ours; where the spec gives none it is 0, not that by which the engine
/// protects itself. What we may not is a warning.
pub(crate) fn set_oom_score(pid: i32, process: &Process) -> Option<Warning> {
    let score = process.oom_score_adj.unwrap_or(0);
    let error = fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string()).err()?;
    Some(Warning::new(
        "process.oomScoreAdj",
        format!("{score} not set: {error}; {REMEDY}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lowered(host: &Host, resource: u32, limit: (u64, u64), own: u64) -> ((u64, u64), bool) {
        let mut given = Rlimit {
            resource,
            soft: limit.0,
            hard: limit.1,
        };
        let warned = host.lower(&mut given, own).is_some();
        ((given.soft, given.hard), warned)
    }

    #[test]
    fn a_hard_limit_that_cannot_be_had_leaves_what_of_the_soft_one_can() {
        let host = Host {
            may_raise: false,
            nr_open: 1 << 20,
        };
        let files = libc::RLIMIT_NOFILE;
        assert_eq!(
            lowered(&host, files, (65535, 65536), 20000),
            ((20000, 20000), true)
        );
        assert_eq!(
            lowered(&host, files, (1024, 65536), 20000),
            ((1024, 20000), true)
        );
        assert_eq!(
            lowered(&host, files, (1024, 2048), 20000),
            ((1024, 2048), false)
        );
        let memory = libc::RLIMIT_MEMLOCK;
        assert_eq!(
            lowered(&host, memory, (INFINITY, INFINITY), 8 << 20),
            ((8 << 20, 8 << 20), true)
        );
        assert_eq!(
            lowered(&host, memory, (INFINITY, INFINITY), INFINITY),
            ((INFINITY, INFINITY), false)
        );
    }

    #[test]
    fn with_the_capability_only_nr_open_bounds() {
        let host = Host {
            may_raise: true,
            nr_open: 1 << 20,
        };
        let memory = libc::RLIMIT_MEMLOCK;
        assert_eq!(
            lowered(&host, memory, (INFINITY, INFINITY), 8 << 20),
            ((INFINITY, INFINITY), false)
        );
        let files = libc::RLIMIT_NOFILE;
        assert_eq!(
            lowered(&host, files, (INFINITY, INFINITY), 4096),
            ((1 << 20, 1 << 20), true)
        );
        assert_eq!(
            lowered(&host, files, (65535, 65536), 4096),
            ((65535, 65536), false)
        );
    }
}
