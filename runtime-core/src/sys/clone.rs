//! clone3(2) without shared memory: fork with namespaces, a cgroup and a parent of choice.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::unistd::Pid;

/// Which side of the clone we are on.
#[derive(Debug)]
pub(crate) enum Side {
    /// The caller, with the child's pid in the caller's pid namespace.
    Parent(Pid),
    /// The new process.
    Child,
}

/// `struct clone_args` of linux/sched.h, version 2 (Linux 5.7, with `cgroup`).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_PARENT: u64 = 0x8000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Proof that this process has one thread, so that a clone without exec inherits no held lock.
///
/// Stage processes take it first thing and never start a thread.
#[derive(Debug)]
pub(crate) struct SingleThreaded(());

impl SingleThreaded {
    /// Counts the threads in `/proc/self/task`; EBUSY where there are more than one.
    pub(crate) fn check() -> io::Result<Self> {
        match std::fs::read_dir("/proc/self/task")?.count() {
            1 => Ok(SingleThreaded(())),
            _ => Err(io::Error::from_raw_os_error(libc::EBUSY)),
        }
    }
}

/// Forks this process into `namespaces` (CLONE_NEW* bits), born in `cgroup` if given, as a
/// sibling (child of our parent) if `sibling`.
pub(crate) fn clone3(
    _proof: &SingleThreaded,
    namespaces: i32,
    cgroup: Option<BorrowedFd<'_>>,
    sibling: bool,
) -> io::Result<Side> {
    let mut args = CloneArgs {
        flags: u64::from(namespaces.unsigned_abs()),
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
    }
    if sibling {
        // clone(2): with CLONE_PARENT the exit signal is inherited and must be 0 here.
        args.flags |= CLONE_PARENT;
    } else {
        args.exit_signal = u64::from(libc::SIGCHLD.unsigned_abs());
    }
    // SAFETY: `args` is a valid clone_args of the size passed; without CLONE_VM the child has its
    // own copy of all memory, and `_proof` says that we are single-threaded, so no lock is held
    // across the clone. No safe wrapper has both a cgroup and CLONE_PARENT.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Side::Child),
        pid => Ok(Side::Parent(Pid::from_raw(
            i32::try_from(pid).map_err(io::Error::other)?,
        ))),
    }
}

/// Ends this process at once, without running destructors or flushing (they are the parent's).
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: _exit(2) has no preconditions. std::process::exit would run atexit handlers that
    // belong to the process we were cloned from.
    unsafe { libc::_exit(code) }
}
