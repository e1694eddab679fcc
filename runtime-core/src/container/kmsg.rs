//! What the container writes to its `/dev/kmsg`, thrown away. `stage::kmsg` tells what that is.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer};

use crate::error::{OsContext, Result};

/// What a read takes at most: all that a terminal holds for its reader.
const CHUNK: usize = 4096;
/// Reads at once, a megabyte.
const BURST: u32 = 256;
/// Between further reads. Who writes more than 64 kB/s waits: the shim's time is not the container's.
const PACE: Duration = Duration::from_millis(62);

/// A thread that reads the master, until this is dropped. Then the terminal is gone: reads end, writes are EIO.
#[derive(Debug)]
pub(super) struct Drain {
    _alive: OwnedFd,
}

impl Drain {
    /// Starts the thread.
    pub(super) fn start(master: OwnedFd) -> Result<Drain> {
        // While the slave is open here the master never ends.
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = ioctl_tiocgptpeer(&master, flags).os("TIOCGPTPEER", "/dev/kmsg")?;
        let (alive, ended) = socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .os("socketpair", "/dev/kmsg")?;
        std::thread::Builder::new()
            .name("kmsg".into())
            .stack_size(64 * 1024)
            .spawn(move || {
                drain(&master, &ended);
                drop(slave);
            })
            .os("start thread", "kmsg")?;
        Ok(Drain { _alive: alive })
    }
}

fn drain(master: &OwnedFd, ended: &OwnedFd) {
    let mut buffer = [0; CHUNK];
    let mut bucket = Bucket::new(Instant::now());
    loop {
        if !wait(&[ended, master], None) {
            return;
        }
        match rustix::io::read(master, &mut buffer) {
            Ok(_) | Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => return,
        }
        while !bucket.take(Instant::now()) {
            if !wait(&[ended], Some(PACE)) {
                return;
            }
        }
    }
}

/// Waits for one of `fds`. Whether to go on: the first one has not ended.
fn wait(fds: &[&OwnedFd], timeout: Option<Duration>) -> bool {
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    let mut polled: Vec<_> = fds
        .iter()
        .map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN))
        .collect();
    match poll(&mut polled, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => polled.first().is_some_and(|end| end.revents().is_empty()),
        Err(_) => false,
    }
}

/// Tokens, one for a read.
struct Bucket {
    tokens: u32,
    filled: Instant,
}

impl Bucket {
    fn new(now: Instant) -> Bucket {
        Bucket {
            tokens: BURST,
            filled: now,
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        let due = now.duration_since(self.filled).as_millis() / PACE.as_millis();
        if let Ok(due @ 1..) = u32::try_from(due) {
            self.tokens = self.tokens.saturating_add(due).min(BURST);
            self.filled += PACE * due;
        }
        let some = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        some
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_a_pace() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        assert_eq!((0..1000).filter(|_| bucket.take(start)).count(), 256);
        let second = start + Duration::from_secs(1);
        assert_eq!((0..1000).filter(|_| bucket.take(second)).count(), 16);
        assert!(!bucket.take(second + PACE / 2));
        let day = start + Duration::from_secs(86400);
        assert_eq!((0..1000).filter(|_| bucket.take(day)).count(), 256);
    }
}
