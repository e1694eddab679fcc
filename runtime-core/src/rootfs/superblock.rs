//! Waiting for the end of a mounted file system: of its superblock, not only of the mounts that we know.
//!
//! Other mount namespaces hold copies of mounts, and lazily unmounted ones live on with their open files. inotify(7) tells
//! when the last has gone (IN_UNMOUNT), and a watch does not itself hold it.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use crate::error::{OsContext, Result};

/// A watch on a mounted file system.
#[derive(Debug)]
pub(crate) struct Superblock(OwnedFd);

impl Superblock {
    /// Watches the file system that directory `path` is on.
    pub(crate) fn watch(path: &Path) -> Result<Superblock> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .os("inotify_init", path.display())?;
        let flags = WatchFlags::DELETE_SELF | WatchFlags::ONLYDIR;
        inotify::add_watch(&fd, path, flags).os("inotify_add_watch", path.display())?;
        Ok(Superblock(fd))
    }

    /// Whether it has gone, waiting for it up to `timeout`.
    pub(crate) fn is_gone(&self, timeout: Duration) -> Result<bool> {
        let deadline = Instant::now() + timeout;
        loop {
            if self.has_ended()? {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let left = Timespec::try_from(left)
                .map_err(std::io::Error::other)
                .os("poll", "inotify")?;
            let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
            match poll(&mut fds, Some(&left)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).os("poll", "inotify"),
            }
        }
    }

    fn has_ended(&self) -> Result<bool> {
        let mut buffer = [MaybeUninit::uninit(); 1024];
        let mut events = Reader::new(&self.0, &mut buffer);
        loop {
            match events.next() {
                Ok(event) if event.events().contains(ReadFlags::UNMOUNT) => return Ok(true),
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(errno) => return Err(errno).os("read", "inotify"),
            }
        }
    }
}
