//! Descriptors as a whole.

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::PathBuf;

/// A path that leads to what `fd` refers to as long as it is open, for calls that take no descriptor (proc_pid_fd(5)).
pub(crate) fn path(fd: &impl AsFd) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()).into()
}

/// Closes every descriptor but the standard streams and `kept` (close_range(2), Linux 5.9), and goes on with `then`, which hears
/// whether that could be done and never comes back: whoever owns what is closed must not use it any more, nor close it again.
pub(crate) fn with_only(
    kept: &[BorrowedFd<'_>],
    then: impl FnOnce(io::Result<()>) -> Infallible,
) -> ! {
    let mut kept: Vec<_> = kept
        .iter()
        .map(|fd| fd.as_raw_fd().unsigned_abs())
        .collect();
    kept.sort_unstable();
    let mut first = 3;
    let mut close_to = |last: u32, next: u32| {
        let (begin, _) = (first, first = next);
        // SAFETY: it touches no memory, and the owners of what is closed are gone: this function does not return to them,
        // and `then` ends the process or becomes another program. No safe wrapper exists.
        if begin > last || unsafe { libc::syscall(libc::SYS_close_range, begin, last, 0) } == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    let mut gaps = kept.into_iter().filter(|number| *number > 2);
    let closed = gaps
        .try_for_each(|number| close_to(number - 1, number + 1))
        .and_then(|()| close_to(u32::MAX, u32::MAX));
    match then(closed) {}
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
