//! Signals to all processes of a cgroup, by pidfd, so that none reaches a stranger who has got the number.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::error::Result;

/// Processes at a time: what it takes of descriptors.
const BATCH: usize = 256;
/// How often to look for new ones.
const ROUNDS: usize = 16;

/// Calls `send` with a pidfd of each of `pids`, which are asked again for every batch, so that the time grows with their
/// number, and until there is no new one.
pub(super) fn each(
    pids: &dyn Fn() -> Result<Vec<u32>>,
    mut send: impl FnMut(&OwnedFd) -> Result<()>,
) -> Result<()> {
    let mut met = BTreeSet::<u32>::new();
    let mut now = pids()?;
    for _ in 0..ROUNDS {
        now.retain(|pid| !met.contains(pid));
        if now.is_empty() {
            break;
        }
        for batch in now.chunks(BATCH) {
            let opened: Vec<_> = batch
                .iter()
                .filter_map(|pid| {
                    let raw = Pid::from_raw((*pid).try_into().ok()?)?;
                    Some((*pid, pidfd_open(raw, PidfdFlags::empty()).ok()?))
                })
                .collect();
            // Those that are still the container's, so the number has not gone to somebody else.
            let still = pids()?;
            for (pid, pidfd) in opened {
                if still.binary_search(&pid).is_ok() {
                    send(&pidfd)?;
                }
            }
            met.extend(batch);
        }
        now = pids()?;
    }
    Ok(())
}
