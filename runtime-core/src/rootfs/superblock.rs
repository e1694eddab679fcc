//! Waiting for the end of a mounted file system: of its superblock, not only of the mounts that we know.
//!
//! Other mount namespaces hold copies of mounts, and lazily unmounted ones live on with their open files. inotify(7) tells
//! when the last has gone (IN_UNMOUNT), and a watch does not itself hold it. But it tells so at the beginning of the end: an overlay
//! lets go of its layers a moment later, and whoever mounts them meanwhile is warned by the kernel of two overlays on one layer.
//! ustat(2) waits for the whole of it.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use crate::error::{OsContext, Result};
use crate::sys;

/// How long to wait for an end that cannot be seen.
const BLIND: Duration = Duration::from_millis(200);

/// A watch on a mounted file system, and its device number; no watch where the host's root has no inotify instance left
/// (`fs.inotify.max_user_instances`): its end is then believed.
#[derive(Debug)]
pub(crate) struct Superblock {
    watch: Option<OwnedFd>,
    device: u64,
}

impl Superblock {
    /// Watches the file system that directory `path` is on.
    pub(crate) fn watch(path: &Path) -> Result<Superblock> {
        Superblock::with(
            inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK),
            path,
        )
    }

    fn with(instance: Result<OwnedFd, Errno>, path: &Path) -> Result<Superblock> {
        let device = rustix::fs::stat(path).os("stat", path.display())?.st_dev;
        let fd = match instance {
            Err(error @ (Errno::MFILE | Errno::NFILE)) => {
                tracing::warn!(
                    path = %path.display(), %error,
                    "whether this root file system is still mounted elsewhere cannot be seen without an inotify instance: raise \
                     the sysctl fs.inotify.max_user_instances"
                );
                return Ok(Superblock {
                    watch: None,
                    device,
                });
            }
            instance => instance.os("inotify_init", path.display())?,
        };
        let flags = WatchFlags::DELETE_SELF | WatchFlags::ONLYDIR;
        inotify::add_watch(&fd, path, flags).os("inotify_add_watch", path.display())?;
        Ok(Superblock {
            watch: Some(fd),
            device,
        })
    }

    /// Whether it has gone, waiting for it up to `timeout`.
    pub(crate) fn is_gone(&self, timeout: Duration) -> Result<bool> {
        let Some(watch) = &self.watch else {
            std::thread::sleep(BLIND.min(timeout));
            return Ok(true);
        };
        let deadline = Instant::now() + timeout;
        loop {
            if is_ending(watch)? {
                self.wait_for_the_end();
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let left = Timespec::try_from(left)
                .map_err(std::io::Error::other)
                .os("poll", "inotify")?;
            let mut fds = [PollFd::new(watch, PollFlags::IN)];
            match poll(&mut fds, Some(&left)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).os("poll", "inotify"),
            }
        }
    }

    /// Its end has begun. Another file system may have its number already, which is as good an answer as that none has it.
    fn wait_for_the_end(&self) {
        match sys::mount::file_system_stat(self.device) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            // No such call on this machine.
            Err(_) => std::thread::sleep(BLIND),
        }
    }
}

fn is_ending(watch: &OwnedFd) -> Result<bool> {
    let mut buffer = [MaybeUninit::uninit(); 1024];
    let mut events = Reader::new(watch, &mut buffer);
    loop {
        match events.next() {
            Ok(event) if event.events().contains(ReadFlags::UNMOUNT) => return Ok(true),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(false),
            Err(errno) => return Err(errno).os("read", "inotify"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_instance_the_end_is_believed() {
        let blind = Superblock::with(Err(Errno::MFILE), Path::new("/")).unwrap();
        assert!(blind.is_gone(Duration::ZERO).unwrap());
        assert!(Superblock::with(Err(Errno::NOSYS), Path::new("/")).is_err());
    }
}
