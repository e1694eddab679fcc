//! Descriptors as a whole.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;

/// A path that leads to what `fd` refers to as long as it is open, for calls that take no descriptor (proc_pid_fd(5)).
pub(crate) fn path(fd: &impl AsFd) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()).into()
}

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

/// Takes what is open as standard input, leaving a copy of standard output there, /dev/null in a stage: first thing in
/// one. Were number 0 free, a later descriptor would get it, to be closed under the user's program.
pub(crate) fn take_stdin() -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC on descriptor 0 returns a new descriptor or -1; no memory involved.
    let fd = unsafe { libc::fcntl(0, libc::F_DUPFD_CLOEXEC, 3) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fcntl just made `fd`; nobody else owns it. There is no safe way from a number.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    rustix::stdio::dup2_stdin(io::stdout())?;
    Ok(owned)
}
