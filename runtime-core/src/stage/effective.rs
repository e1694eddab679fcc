//! Acting under another effective user for a moment.

use rustix::thread::{Gid, Uid, set_thread_res_gid, set_thread_res_uid};

use super::inherited;
use crate::error::{OsContext, Result};

/// Runs `act` under the effective (and file-system) user `uid` and group `gid`, ids of the host; then this process, and only
/// it, is root again. A process that `act` forks stays what it is. Capabilities are kept if NO_SETUID_FIXUP is set. Real
/// and saved ids stay root's, so nobody of that user may signal or trace us (kill(2), ptrace(2)).
pub(super) fn as_user<T>(uid: u32, gid: u32, act: impl FnOnce() -> T) -> Result<T> {
    become_user(uid, gid)?;
    let done = act();
    become_user(0, 0)?;
    Ok(done)
}

fn become_user(uid: u32, gid: u32) -> Result<()> {
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
    set_thread_res_gid(Gid::ROOT, group, Gid::ROOT).os("setresgid", gid)?;
    set_thread_res_uid(Uid::ROOT, user, Uid::ROOT).os("setresuid", uid)?;
    inherited::hide()
}
