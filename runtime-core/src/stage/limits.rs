//! Limits of resources, settled by the shim (`container::limits`): raised outside, where the host's root may, and set inside
//! at the very last, where they are only lowered.

use crate::error::{OsContext, Result};
use crate::plan::Rlimit;
use crate::sys::process::{rlimit, set_rlimit};

/// What a user namespace counts, bounded by the soft limit of who makes it (create_user_ns() in kernel/user_namespace.c).
const COUNTED: [u32; 3] = [
    libc::RLIMIT_MEMLOCK,
    libc::RLIMIT_MSGQUEUE,
    libc::RLIMIT_SIGPENDING,
];

/// In a stage, before it is in the user namespace: hard limits at least those of `limits`, and no soft limit that would
/// bound the namespace.
pub(super) fn raise(limits: &[Rlimit]) -> Result<()> {
    for limit in limits {
        let (soft, hard) = rlimit(limit.resource).os("getrlimit", limit.resource)?;
        let highest = hard.max(limit.hard);
        let wanted = if COUNTED.contains(&limit.resource) {
            highest
        } else {
            soft
        };
        if (soft, hard) != (wanted, highest) {
            set(limit.resource, wanted, highest)?;
        }
    }
    Ok(())
}

/// In the process that becomes the user's.
pub(super) fn apply(limits: &[Rlimit]) -> Result<()> {
    limits
        .iter()
        .try_for_each(|limit| set(limit.resource, limit.soft, limit.hard))
}

fn set(resource: u32, soft: u64, hard: u64) -> Result<()> {
    set_rlimit(resource, soft, hard).os(
        "setrlimit",
        format_args!("resource {resource} {soft}:{hard}"),
    )
}
