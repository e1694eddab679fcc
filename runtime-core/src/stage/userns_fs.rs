//! tmpfs whose superblock belongs to the container's user namespace, so that root inside may
//! remount it with another size (whole.md 8).

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sched::CloneFlags;
use rustix::process::{PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::error::{Error, OsContext, Result, StageFailure};
use crate::kernel::fs;
use crate::kernel::fs::FsOption;
use crate::kernel::reap::reap_blocking;
use crate::stage::Step;
use crate::stage::proto::{Channel, MAX_FDS, unexpected};
use crate::sys::clone::{Side, SingleThreaded, clone3, exit};
use crate::sys::process::set_fs_ids;

/// A process that makes the container's tmpfs while S does other things.
///
/// It enters the user namespace but keeps the global file-system ids 0: a superblock made by any other id shows `uid=` in
/// /proc/mounts, which libmount passes back on a remount and the kernel refuses there.
#[derive(Debug)]
pub(super) struct TmpfsMaker {
    /// None where there is nothing to make.
    process: Option<(OwnedFd, Channel)>,
    received: VecDeque<OwnedFd>,
}

#[derive(Serialize, Deserialize)]
enum Reply {
    /// As many as go into one message.
    Contexts,
    Failed(StageFailure),
}

impl TmpfsMaker {
    /// Has one tmpfs made for each list of options, seen from inside `userns`.
    pub(super) fn start(
        proof: &SingleThreaded,
        userns: BorrowedFd<'_>,
        options: Vec<Vec<FsOption>>,
    ) -> Result<TmpfsMaker> {
        let received = VecDeque::new();
        if options.is_empty() {
            return Ok(TmpfsMaker {
                process: None,
                received,
            });
        }
        let (ours, theirs) = Channel::pair()?;
        match clone3(proof, 0, None, false).os("clone3", "maker of tmpfs")? {
            Side::Child => exit(i32::from(answer(userns, &options, &theirs).is_err())),
            Side::Parent(pid) => {
                let pid = rustix::process::Pid::from_raw(pid.as_raw())
                    .ok_or_else(|| unexpected("pid 0"))?;
                let pidfd =
                    pidfd_open(pid, PidfdFlags::empty()).os("pidfd_open", "maker of tmpfs")?;
                Ok(TmpfsMaker {
                    process: Some((pidfd, ours)),
                    received,
                })
            }
        }
    }

    /// The next one in the order of the lists, as a context ready for fsmount(2).
    pub(super) fn next(&mut self) -> Result<OwnedFd> {
        if let (None, Some((_, channel))) = (self.received.front(), &self.process) {
            match channel.recv::<Reply>()? {
                Some((Reply::Contexts, contexts)) => self.received.extend(contexts),
                Some((Reply::Failed(failure), _)) => return Err(Error::Stage(failure)),
                None => {}
            }
        }
        let next = self.received.pop_front();
        next.ok_or_else(|| unexpected("the maker of tmpfs died"))
    }

    /// Waits for its end, when the container is made: that of its mount namespace waits for grace periods of RCU.
    pub(super) fn finish(self) {
        if let Some((pidfd, _)) = self.process {
            // Nobody is left to be told.
            let _ = reap_blocking(pidfd);
        }
    }
}

fn answer(userns: BorrowedFd<'_>, options: &[Vec<FsOption>], channel: &Channel) -> Result<()> {
    let contexts = match make(userns, options) {
        Ok(contexts) => contexts,
        Err(error) => {
            return channel.send(&Reply::Failed(StageFailure {
                step: Step::Dev.to_string(),
                chain: error.chain(),
                errno: error.errno(),
            }));
        }
    };
    let fds: Vec<_> = contexts.iter().map(AsFd::as_fd).collect();
    fds.chunks(MAX_FDS)
        .try_for_each(|some| channel.send_with(&Reply::Contexts, some))
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
