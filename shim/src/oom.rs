//! Out-of-memory kills in a container, from its cgroup's `memory.events` (kernel `cgroup-v2.rst`).
//!
//! The file is polled for POLLPRI, as the kernel offers for its event files: no inotify instance, of which a host has
//! 128 by default.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::epoll;

/// Watches one counter of a cgroup's event file.
#[derive(Debug)]
pub(crate) struct Watch {
    key: &'static str,
    file: AsyncFd<OwnedFd>,
}

impl Watch {
    /// `None` where the cgroup has no memory controller.
    pub(crate) fn oom_kills(cgroup: &Path) -> Option<Watch> {
        Watch::open(&cgroup.join("memory.events"), "oom_kill")
    }

    fn open(path: &Path, key: &'static str) -> Option<Watch> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::empty()).ok()?;
        let file = epoll::register(file, Interest::PRIORITY).ok()?;
        Some(Watch { key, file })
    }

    /// The counter now; `None` once the cgroup is gone. Reading also arms the next notification.
    pub(crate) fn count(&self) -> Option<u64> {
        let mut bytes = [0; 512];
        let n = rustix::io::pread(&self.file, &mut bytes, 0).ok()?;
        parse(std::str::from_utf8(&bytes[..n]).ok()?, self.key)
    }

    /// Waits until the file has changed since it was last read.
    pub(crate) async fn changed(&self) {
        if let Ok(mut ready) = self.file.ready(Interest::PRIORITY).await {
            ready.clear_ready();
        }
    }
}

fn parse(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| value.trim().parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_the_named_one() {
        let text = "low 0\nhigh 0\nmax 7\noom 3\noom_kill 2\noom_group_kill 1\n";
        assert_eq!(parse(text, "oom_kill"), Some(2));
        assert_eq!(parse(text, "oom"), Some(3));
        assert_eq!(parse("", "oom_kill"), None);
    }

    #[tokio::test]
    async fn no_controller_no_watch() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Watch::oom_kills(dir.path()).is_none());
    }
}
