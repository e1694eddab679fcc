//! Descriptors that the runtime waits for.

use std::io;
use std::os::fd::AsRawFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor that can be polled.
#[expect(
    deprecated,
    reason = "unsound only for a type whose descriptor can change; the replacement is unsafe, which this crate forbids"
)]
pub(crate) fn register<T: AsRawFd>(fd: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(fd, interest)
}
