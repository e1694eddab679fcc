//! Descriptors as a whole.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// Marks every descriptor from `first` on close-on-exec (close_range(2), Linux 5.11).
pub(crate) fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: with CLOSE_RANGE_CLOEXEC nothing is closed, only a flag set. No safe wrapper exists.
    let r = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if r == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Takes what is open as standard input, leaving it closed on exec: first thing in a stage.
pub(crate) fn take_stdin() -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC on descriptor 0 returns a new descriptor or -1; no memory involved.
    let fd = unsafe { libc::fcntl(0, libc::F_DUPFD_CLOEXEC, 3) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fcntl just made `fd`; nobody else owns it. There is no safe way from a number.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: std's Stdin does not own descriptor 0 and a stage never reads it.
    let closed = unsafe { libc::close(0) };
    if closed < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(owned)
    }
}
