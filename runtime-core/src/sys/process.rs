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

/// Soft and hard limit of this process for `resource`, an RLIMIT_* number (getrlimit(2)).
pub(crate) fn rlimit(resource: u32) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let none: *const libc::rlimit64 = std::ptr::null();
    // SAFETY: `limit` is a valid rlimit64 to write to; nothing is set. rustix's enum does not take a number.
    let r = unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, none, &raw mut limit) };
    if r == 0 {
        Ok((limit.rlim_cur, limit.rlim_max))
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sets a resource limit of this process; `resource` is an RLIMIT_* number.
pub(crate) fn set_rlimit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    let old: *mut libc::rlimit64 = std::ptr::null_mut();
    // SAFETY: `limit` is a valid rlimit64; the old value is not asked for. rustix's enum does not
    // take a number.
    let r = unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, &raw const limit, old) };
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

/// Gives this thread the normal scheduling policy at nice value 0, with the kernel's own time slice and no bounds of
/// utilization (sched_setattr(2)).
pub(crate) fn set_normal_scheduling() -> io::Result<()> {
    /// SCHED_FLAG_UTIL_CLAMP of linux/sched.h: both bounds are given.
    const UTIL_CLAMP: u64 = 0x60;
    /// As a bound: none.
    const NO_BOUND: u32 = u32::MAX;
    let mut normal = SchedAttr {
        size: 56,
        flags: UTIL_CLAMP,
        util_min: NO_BOUND,
        util_max: NO_BOUND,
        ..SchedAttr::default()
    };
    match set_scheduling(&normal) {
        // A kernel without such bounds (CONFIG_UCLAMP_TASK).
        Err(error) if error.raw_os_error() != Some(libc::EPERM) => {
            normal.flags = 0;
            set_scheduling(&normal)
        }
        done => done,
    }
}

/// `struct sched_attr` of linux/sched/types.h, of 56 bytes (Linux 5.3).
#[repr(C)]
#[derive(Default)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
    util_min: u32,
    util_max: u32,
}

fn set_scheduling(attr: &SchedAttr) -> io::Result<()> {
    // SAFETY: `attr` is a sched_attr whose `size` is right. No crate of ours wraps it.
    let r = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, std::ptr::from_ref(attr), 0) };
    if r == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Lets this thread run on every CPU that its cgroup has, also on one that comes later (sched_setaffinity(2)).
pub(crate) fn set_every_cpu() -> io::Result<()> {
    // More than any kernel has (NR_CPUS): it cuts what is too long, and rustix's set has 1024.
    let all = [u64::MAX; 128];
    // SAFETY: the length is that of `all`, which the kernel reads.
    let r = unsafe {
        libc::syscall(
            libc::SYS_sched_setaffinity,
            0,
            size_of_val(&all),
            &raw const all,
        )
    };
    if r == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Lets memory come from any node (set_mempolicy(2), MPOL_DEFAULT).
pub(crate) fn set_default_memory_policy() -> io::Result<()> {
    const MPOL_DEFAULT: libc::c_int = 0;
    let none: *const libc::c_ulong = std::ptr::null();
    // SAFETY: with MPOL_DEFAULT there is no mask to read. No crate of ours wraps it.
    let r = unsafe { libc::syscall(libc::SYS_set_mempolicy, MPOL_DEFAULT, none, 0) };
    if r == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Keeps the kernel from merging equal pages of this process with others' (prctl(2), PR_SET_MEMORY_MERGE of Linux 6.4).
pub(crate) fn set_no_memory_merge() -> io::Result<()> {
    const PR_SET_MEMORY_MERGE: libc::c_int = 67;
    // SAFETY: integers only. rustix does not have it.
    let r = unsafe { libc::prctl(PR_SET_MEMORY_MERGE, 0_usize, 0_usize, 0_usize, 0_usize) };
    if r == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Makes this process execute as Linux's own programs do, with random addresses (personality(2), PER_LINUX).
pub(crate) fn set_linux_personality() -> io::Result<()> {
    // SAFETY: an integer only.
    match unsafe { libc::personality(0) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
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
