//! Keeps an overlay of the engine's off the layer while the container has it.
//!
//! A dockerd that comes back to running containers (live restore) knows its root file systems by the type that statfs(2)
//! tells, takes the view for nothing and mounts its overlay above it. Both work until one of them copies up, so ours goes
//! on and dockerd's is unmounted at once: dockerd then has the view again, at the path that it expects.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::error::{OsContext, Result};
use crate::mounted::stat;
use crate::mountinfo;

/// A thread that sleeps until the host's mounts change.
#[derive(Debug)]
pub(super) struct Watch {
    stop: OwnedFd,
    thread: JoinHandle<()>,
}

impl Watch {
    /// Watches over `path`, where mount `mount_id` shall stay uppermost, overlays on `upper` permitting.
    pub(super) fn start(path: &Path, mount_id: u64, upper: Option<PathBuf>) -> Result<Watch> {
        let (stopped, stop) = pipe_with(PipeFlags::CLOEXEC).os("pipe", "watch")?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let mounts = rustix::fs::open("/proc/self/mountinfo", flags, Mode::empty())
            .os("open", "/proc/self/mountinfo")?;
        let path = path.to_path_buf();
        let thread = std::thread::Builder::new()
            .name("view-watch".into())
            .spawn(move || {
                let watched = watch(&stopped, &mounts, || look(&path, mount_id, upper.as_deref()));
                if let Err(error) = watched {
                    tracing::error!(path = %path.display(), error = error.chain(), "watch over a view ended");
                }
            })
            .os("start thread", "view-watch")?;
        Ok(Watch { stop, thread })
    }

    /// Ends it, and returns when it has ended.
    pub(super) fn stop(self) {
        drop(self.stop);
        // It reports its own end.
        let _ = self.thread.join();
    }
}

/// Calls `look` after every change of the mounts (proc_pid_mounts(5)), until the other end of `stopped` is closed.
fn watch(stopped: &OwnedFd, mounts: &OwnedFd, look: impl Fn() -> Result<()>) -> Result<()> {
    loop {
        let mut fds = [
            PollFd::new(stopped, PollFlags::IN),
            PollFd::new(mounts, PollFlags::PRI),
        ];
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            polled => polled.os("poll", "mounts")?,
        };
        if !fds[0].revents().is_empty() {
            return Ok(());
        }
        look()?;
    }
}

fn look(path: &Path, mount_id: u64, upper: Option<&Path>) -> Result<()> {
    let Ok(top) = stat(path) else {
        return Ok(());
    };
    if top.stx_mnt_id == mount_id {
        return Ok(());
    }
    let above = mountinfo::read()?
        .into_iter()
        .find(|mount| mount.id == top.stx_mnt_id && mount.point == path);
    let same_layer = above.is_some_and(|mount| {
        mount.fs_type == "overlay"
            && mount.options().any(|(key, value)| {
                key == "upperdir" && value.map(mountinfo::path).as_deref() == upper
            })
    });
    if same_layer {
        tracing::info!(path = %path.display(), "unmounting an overlay that came above the view of a running container");
        unmount(path, UnmountFlags::DETACH).os("umount", path.display())?;
    }
    Ok(())
}
