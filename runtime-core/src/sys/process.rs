//! Properties of a process that rustix and nix do not set in the form needed.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Sets the file-system user and group id of this thread, by raw system call so that glibc does
/// not tell other threads.
///
/// The calls report the old id, never an error (setfsuid(2)), so the result is read back.
pub(crate) fn set_fs_ids(uid: u32, gid: u32) -> io::Result<()> {
    for (call, id) in [(libc::SYS_setfsgid, gid), (libc::SYS_setfsuid, uid)] {
        // SAFETY: setfsuid and setfsgid take an integer and touch no memory.
        unsafe { libc::syscall(call, id) };
        // SAFETY: as above; an invalid id changes nothing and returns the current one.
        let now = unsafe { libc::syscall(call, u32::MAX) };
        if now != i64::from(id) {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
    }
    Ok(())
}

/// Sets a resource limit of process `pid` (prlimit(2)); `resource` is an RLIMIT_* number.
pub(crate) fn set_rlimit(pid: i32, resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    let old: *mut libc::rlimit64 = std::ptr::null_mut();
    // SAFETY: `limit` is a valid rlimit64; the old value is not asked for. rustix's enum does not
    // take a number.
    let r = unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, &raw const limit, old) };
    if r == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sets the I/O priority of this process (ioprio_set(2)).
pub(crate) fn set_io_priority(value: i32) -> io::Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    // SAFETY: ioprio_set takes integers only. No crate of ours wraps it.
    let r = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) };
    if r == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sends signal `number` (realtime ones too, which rustix has no name for) to the process behind
/// `pidfd` (pidfd_send_signal(2)).
pub(crate) fn signal(pidfd: impl AsFd, number: i32) -> io::Result<()> {
    let info: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: a null siginfo means that of kill(2); the rest are integers.
    let r = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            number,
            info,
            0,
        )
    };
    if r == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
