//! tmpfs whose superblock belongs to the container's user namespace, so that root inside may
//! remount it with another size (whole.md 8).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sched::CloneFlags;
use rustix::process::{PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::error::{Error, OsContext, Result, StageFailure};
use crate::kernel::fs;
use crate::kernel::fs::FsOption;
use crate::kernel::reap::reap_blocking;
use crate::stage::Step;
use crate::stage::proto::{Channel, unexpected};
use crate::sys::clone::{Side, SingleThreaded, clone3, exit};
use crate::sys::process::set_fs_ids;

/// Makers of tmpfs that are exiting: the end of their mount namespaces waits for grace periods of RCU, so each is waited
/// for when the container is made.
#[derive(Debug, Default)]
pub(super) struct Makers(Vec<OwnedFd>);

impl Makers {
    /// Waits for all of them, whose work has been received.
    pub(super) fn finish(self) {
        for maker in self.0 {
            // Nobody is left to be told.
            let _ = reap_blocking(maker);
        }
    }
}

#[derive(Serialize, Deserialize)]
enum Reply {
    Contexts,
    Failed(StageFailure),
}

/// Creates one tmpfs for each list of options, seen from inside `userns`, as contexts ready for
/// fsmount(2).
///
/// A process of its own enters the user namespace but keeps the global file-system ids 0: a
/// superblock made by any other id shows `uid=` in /proc/mounts, which libmount passes back on a
/// remount and the kernel refuses there.
pub(super) fn tmpfs_contexts(
    proof: &SingleThreaded,
    userns: BorrowedFd<'_>,
    options: &[Vec<FsOption>],
    makers: &mut Makers,
) -> Result<Vec<OwnedFd>> {
    let (ours, theirs) = Channel::pair()?;
    match clone3(proof, 0, None, false).os("clone3", "maker of tmpfs")? {
        Side::Child => {
            let reply = match make(userns, options) {
                Ok(contexts) => {
                    let fds: Vec<_> = contexts.iter().map(AsFd::as_fd).collect();
                    theirs.send_with(&Reply::Contexts, &fds)
                }
                Err(error) => theirs.send(&Reply::Failed(StageFailure {
                    step: Step::Dev.to_string(),
                    chain: error.chain(),
                    errno: error.errno(),
                })),
            };
            exit(i32::from(reply.is_err()))
        }
        Side::Parent(pid) => {
            drop(theirs);
            let reply = ours.recv::<Reply>();
            let pid =
                rustix::process::Pid::from_raw(pid.as_raw()).ok_or_else(|| unexpected("pid 0"))?;
            let pidfd = pidfd_open(pid, PidfdFlags::empty()).os("pidfd_open", "maker of tmpfs")?;
            makers.0.push(pidfd);
            match reply? {
                Some((Reply::Contexts, fds)) if fds.len() == options.len() => Ok(fds),
                Some((Reply::Failed(failure), _)) => Err(Error::Stage(failure)),
                _ => Err(unexpected("the maker of tmpfs died")),
            }
        }
    }
}

fn make(userns: BorrowedFd<'_>, options: &[Vec<FsOption>]) -> Result<Vec<OwnedFd>> {
    set_fs_ids(0, 0).os("setfsuid", "0")?;
    nix::sched::setns(userns, CloneFlags::CLONE_NEWUSER).os("setns", "user namespace")?;
    // Mounting needs a mount namespace that the user namespace owns.
    nix::sched::unshare(CloneFlags::CLONE_NEWNS).os("unshare", "mount namespace")?;
    options
        .iter()
        .map(|options| {
            let context = fs::context("tmpfs", options)?;
            fs::create(&context, "tmpfs")?;
            Ok(context)
        })
        .collect()
}
