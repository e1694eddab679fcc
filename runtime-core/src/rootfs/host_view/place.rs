//! The path of the view, which the engine keeps looking at and mounting on.
//!
//! A dockerd that comes back to running containers (live restore) asks statfs(2) for the type of what is at the path, and
//! mounts its overlay above what is none (moby, daemon/graphdriver/overlay2). FUSE cannot lie about its type, but it is
//! asked, and statfs(2) resolves the path again if the answer is ESTALE: so before answering the container's own overlay
//! is mounted above the view, until dockerd has seen it: an expiring mount tells whether somebody looked (umount(2),
//! MNT_EXPIRE). Until then nothing can be copied in, for host root has no id in the overlay. Where dockerd mounts an
//! overlay on the layer nevertheless, a second mount of the view takes its place, so that its unmounting does not take the
//! first away.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::pipe::{PipeFlags, pipe_with};

use super::View;
use crate::error::{OsContext, Result};
use crate::kernel::fs;
use crate::kernel::mountinfo::{self, Mount};
use crate::rootfs::mounted::{attach, stat};

/// How often it is asked whether dockerd has resolved the path again.
const GLANCE: Duration = Duration::from_millis(10);
/// How long the overlay stays above the view if dockerd has not.
const POSE: Duration = Duration::from_millis(500);

/// A path with a view.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    /// Upper directory of the overlay that is seen.
    upper: Option<PathBuf>,
    state: Mutex<State>,
}

/// Mounts of the overlay that is seen, and of the view of it.
#[derive(Debug)]
struct Mounts {
    view: OwnedFd,
    overlay: OwnedFd,
}

#[derive(Debug)]
struct State {
    /// To be copied; `None` when the view is closed.
    mounts: Option<Mounts>,
    /// What was uppermost at the last look.
    top: u64,
    pose: Option<Pose>,
}

/// The overlay above the view, twice: asking whether the upper one was looked at unmounts it if not.
#[derive(Debug)]
struct Pose {
    mounts: [u64; 2],
    /// When to ask; `None` where nothing would tell.
    glance: Option<Instant>,
    /// When they go.
    until: Instant,
}

impl Mounts {
    /// Mounts a copy of the overlay at `path`; returns its id.
    fn show_overlay(&self, path: &Path) -> Result<u64> {
        let copy = fs::copy_mount(&self.overlay, false, "root file system")?;
        attach(&copy, path)?;
        Ok(stat(path)?.stx_mnt_id)
    }

    /// The same, marked: whoever resolves the path takes the mark away. Returns when to look for it.
    fn show_marked(&self, path: &Path) -> Result<(u64, Option<Instant>)> {
        let id = self.show_overlay(path)?;
        // The first time it only marks.
        let marked = unmount(path, UnmountFlags::EXPIRE) == Err(Errno::AGAIN);
        Ok((id, marked.then(|| Instant::now() + GLANCE)))
    }
}

impl Place {
    /// Mounts `view` of `overlay` at `path`.
    pub(super) fn take(
        path: &Path,
        upper: Option<PathBuf>,
        overlay: OwnedFd,
        view: OwnedFd,
    ) -> Result<Place> {
        attach(&view, path)?;
        let top = stat(path)?.stx_mnt_id;
        Ok(Place {
            path: path.into(),
            upper,
            state: Mutex::new(State {
                mounts: Some(Mounts { view, overlay }),
                top,
                pose: None,
            }),
        })
    }

    /// Mounts the overlay at `point`, too: a mount that is in no namespace cannot be copied for [`Place::pose`].
    pub(super) fn anchor(&self, point: &Path) -> Result<()> {
        match &self.lock().mounts {
            Some(mounts) => attach(&mounts.overlay, point),
            None => Ok(()),
        }
    }

    /// Shows the overlay at the path for a moment.
    pub(super) fn pose(&self) -> Result<()> {
        let mut state = self.lock();
        let Some(mounts) = state.mounts.as_ref().filter(|_| state.pose.is_none()) else {
            return Ok(());
        };
        let lower = mounts.show_overlay(&self.path)?;
        let (upper, glance) = mounts.show_marked(&self.path)?;
        state.pose = Some(Pose {
            mounts: [lower, upper],
            glance,
            until: Instant::now() + POSE,
        });
        Ok(())
    }

    /// Puts right what is uppermost. Returns when to look again, unless the mounts change before.
    fn look(&self) -> Result<Option<Duration>> {
        let mut state = self.lock();
        let State { mounts, top, pose } = &mut *state;
        let Some(mounts) = mounts else {
            return Ok(None);
        };
        if let Some(posing) = pose {
            let again = self.end(posing, mounts)?;
            if again.is_none() {
                *pose = None;
            }
            return Ok(again);
        }
        let Ok(now) = self.top() else {
            return Ok(None);
        };
        if now == *top {
            return Ok(None);
        }
        let all = mountinfo::read()?;
        if all.iter().any(|m| m.id == now && self.is_on_layer(m)) {
            tracing::info!(path = %self.path.display(), "in place of an overlay on a running container's layer: the view");
            let copy = fs::copy_mount(&mounts.view, false, "view")?;
            unmount(&self.path, UnmountFlags::DETACH).os("umount", self.path.display())?;
            attach(&copy, &self.path)?;
        }
        *top = self.top()?;
        Ok(None)
    }

    /// Ends a pose that has been seen or has lasted long enough; else returns when to look again.
    fn end(&self, pose: &mut Pose, mounts: &Mounts) -> Result<Option<Duration>> {
        let now = Instant::now();
        if let Some(at) = pose.glance {
            let left = at.saturating_duration_since(now);
            // Before that, not even we may resolve the path.
            if !left.is_zero() {
                return Ok(Some(left));
            }
            match unmount(&self.path, UnmountFlags::EXPIRE) {
                // Nobody did, and it is gone.
                Ok(()) if now < pose.until => {
                    let [_, upper] = &mut pose.mounts;
                    (*upper, pose.glance) = mounts.show_marked(&self.path)?;
                    return Ok(Some(GLANCE));
                }
                _ => (pose.glance, pose.until) = (None, now),
            }
        }
        let Ok(mut top) = self.top() else {
            return Ok(None);
        };
        let left = pose.until.saturating_duration_since(now);
        if !pose.mounts.contains(&top) || !left.is_zero() {
            return Ok(Some(left.max(GLANCE)));
        }
        while pose.mounts.contains(&top) {
            unmount(&self.path, UnmountFlags::DETACH).os("umount", self.path.display())?;
            top = self.top()?;
        }
        Ok(None)
    }

    fn top(&self) -> Result<u64> {
        Ok(stat(&self.path)?.stx_mnt_id)
    }

    fn is_on_layer(&self, mount: &Mount) -> bool {
        mount.point == self.path
            && mount.fs_type == "overlay"
            && mount
                .options()
                .any(|(key, value)| key == "upperdir" && value.map(mountinfo::path) == self.upper)
    }

    /// Takes the view and what is above it away.
    pub(super) fn clear(&self) -> Result<()> {
        let mut state = self.lock();
        state.mounts = None;
        take_away(&self.path)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while it is changed leaves a mount that `clear` takes away.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Unmounts every view at `path`, and what the engine has mounted above it.
pub(crate) fn take_away(path: &Path) -> Result<()> {
    let is_view = |mount: &Mount| mount.point == path && View::is(mount);
    while mountinfo::read()?.iter().any(is_view) {
        unmount(path, UnmountFlags::DETACH).os("umount", path.display())?;
    }
    Ok(())
}

/// A thread that looks at a place whenever the host's mounts change.
#[derive(Debug)]
pub(super) struct Watch {
    stop: OwnedFd,
    thread: JoinHandle<()>,
}

impl Watch {
    /// Starts it.
    pub(super) fn start(place: Arc<Place>) -> Result<Watch> {
        let (stopped, stop) = pipe_with(PipeFlags::CLOEXEC).os("pipe", "watch")?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let mounts = rustix::fs::open("/proc/self/mountinfo", flags, Mode::empty())
            .os("open", "/proc/self/mountinfo")?;
        let thread = std::thread::Builder::new()
            .name("view-watch".into())
            .spawn(move || {
                if let Err(error) = watch(&stopped, &mounts, &place) {
                    tracing::error!(path = %place.path.display(), error = error.chain(), "watch over a view ended");
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

/// Looks after every change of the mounts (proc_pid_mounts(5)), until the other end of `stopped` is closed.
fn watch(stopped: &OwnedFd, mounts: &OwnedFd, place: &Place) -> Result<()> {
    loop {
        let again = place
            .look()?
            .map(Timespec::try_from)
            .transpose()
            .map_err(std::io::Error::other)
            .os("poll", "mounts")?;
        let mut fds = [
            PollFd::new(stopped, PollFlags::IN),
            PollFd::new(mounts, PollFlags::PRI),
        ];
        match poll(&mut fds, again.as_ref()) {
            Err(Errno::INTR) => continue,
            polled => polled.os("poll", "mounts")?,
        };
        let [stopped, _] = &fds;
        if !stopped.revents().is_empty() {
            return Ok(());
        }
    }
}
