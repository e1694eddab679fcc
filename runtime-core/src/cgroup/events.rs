//! Waits for a state in `cgroup.events`.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::{Errno, Result};

use super::tree::is_gone;

/// First pause between two looks; doubled up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_micros(100);
/// The kernel notifies at most every 10 ms (CGROUP_FILE_NOTIFY_MIN_INTV), so a waiter that only polls would mostly see a
/// change 10 ms late.
const MAX_PAUSE: Duration = Duration::from_millis(10);

/// Waits until `cgroup.events` of `dir` has `key` at `value`; false when `patience` has passed. A removed cgroup has
/// every key at 0.
pub(super) fn wait(dir: BorrowedFd<'_>, key: &str, value: u8, patience: Duration) -> Result<bool> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = match openat(dir, "cgroup.events", flags, Mode::empty()) {
        Ok(file) => file,
        Err(error) if is_gone(error) => return Ok(value == 0),
        Err(error) => return Err(error),
    };
    let deadline = Instant::now() + patience;
    let mut pause = MIN_PAUSE;
    loop {
        let mut text = [0; 256];
        let read = match rustix::io::pread(&file, &mut text, 0) {
            Ok(read) => read,
            Err(error) if is_gone(error) => return Ok(value == 0),
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error),
        };
        let text = text.get(..read).unwrap_or_default();
        if state(text, key) == Some(value) {
            return Ok(true);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(pause.min(left).subsec_nanos()),
        };
        match poll(&mut [PollFd::new(&file, PollFlags::PRI)], Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

/// Whether any process lives in `dir` or below.
pub(super) fn populated(dir: BorrowedFd<'_>) -> Result<bool> {
    Ok(!wait(dir, "populated", 0, Duration::ZERO)?)
}

fn state(events: &[u8], key: &str) -> Option<u8> {
    std::str::from_utf8(events)
        .ok()?
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(name, _)| *name == key)?
        .1
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_whole_words() {
        let events = b"populated 1\nfrozen 0\n";
        assert_eq!(state(events, "populated"), Some(1));
        assert_eq!(state(events, "frozen"), Some(0));
        assert_eq!(state(events, "froze"), None);
    }
}
