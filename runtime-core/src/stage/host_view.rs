//! The host-view stage: serves the host's view of a container's root file system, until the shim closes its socket or kills it.
//!
//! It touches what root inside has made, and so is one of those who have no power over anything else: root inside, with the
//! capabilities that files need, in a cgroup of its own that root inside cannot reach, with an empty root file system.

use std::os::fd::{AsFd, OwnedFd};

use nix::sched::CloneFlags;
use rustix::fs::{Mode, OFlags, mkdirat, openat};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};

use super::{Steps, builder, maker, security};
use crate::error::{OsContext, Result, StageFailure, Warning};
use crate::kernel::fs;
use crate::rootfs::Service;
use crate::seccomp::listed::listed;
use crate::stage::Step;
use crate::stage::proto::{Channel, FdKind, HostViewRequest, Message, take_fd, unexpected};
use crate::sys;
use crate::sys::clone::{SingleThreaded, exit};
use crate::sys::fd::with_only;
use crate::sys::mount::{Change, RDONLY, set_attr};

/// What root has over files: of all owners and whatever their modes, to give away, with set-id bits and capabilities.
const CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETFCAP);

/// Bytes of memory that it may have, stacks and buffers included: also where its cgroup does not bound that. Some million
/// files' names.
const MEMORY: u64 = 256 << 20;

/// Files by descriptor, memory and threads, and the socket.
const CALLS: &[i64] = &[
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_mknodat,
    libc::SYS_mkdirat,
    libc::SYS_symlinkat,
    libc::SYS_linkat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchownat,
    libc::SYS_ftruncate,
    libc::SYS_utimensat,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_setxattr,
    libc::SYS_getxattr,
    libc::SYS_listxattr,
    libc::SYS_removexattr,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_prctl,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_geteuid,
    libc::SYS_tgkill,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// The pipeline.
pub(super) fn run(
    channel: &Channel,
    _proof: SingleThreaded,
    _told_at_create: Vec<Warning>,
) -> Result<(), StageFailure> {
    let steps = Steps::new(None);
    let (service, requests) = steps.run(Step::View, || {
        rustix::thread::set_name(c"sysbox:[view]").os("prctl", "name")?;
        let (request, fds) = channel.recv_request::<HostViewRequest>()?;
        let mut fds: Vec<_> = fds.into_iter().map(Some).collect();
        let mut need = |kind| {
            take_fd(&request.fds, &mut fds, kind)
                .ok_or_else(|| unexpected("a descriptor is missing"))
        };
        enter_cgroup(&need(FdKind::Cgroup)?)?;
        let service = Service::new(need(FdKind::Rootfs)?, request.last)?;
        let userns = need(FdKind::Userns)?;
        leave_files()?;
        nix::sched::setns(&userns, CloneFlags::CLONE_NEWUSER).os("setns", "user namespace")?;
        maker::become_root()?;
        Ok((service, need(FdKind::Requests)?))
    })?;
    let kept = [channel.as_fd(), service.as_fd(), requests.as_fd()];
    with_only(&kept, |closed| {
        let served = steps.run(Step::Security, || {
            closed.os("close_range", "what serving does not need")?;
            confine()?;
            channel.send(&Message::Ready {
                times: steps.take_times(),
            })?;
            service.run(requests.as_fd())
        });
        match served {
            Ok(()) => exit(0),
            Err(failure) => {
                // The shim may be gone; then nobody is there to be told.
                let _ = channel.send(&Message::Failed(failure));
                exit(1)
            }
        }
    })
}

fn enter_cgroup(cgroup: &OwnedFd) -> Result<()> {
    const FILE: &str = "cgroup.procs";
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat(cgroup, FILE, flags, Mode::empty()).os("open", FILE)?;
    rustix::io::write(file, b"0").os("write", FILE)?;
    Ok(())
}

/// Leaves nothing to be found by a path, but /proc with processes alone: descriptors are reopened through it.
fn leave_files() -> Result<()> {
    builder::private_mounts()?;
    let processes = [fs::option("subset", "pid"), fs::option("hidepid", "4")];
    let proc = fs::new("proc", &processes, fs::PLAIN)?;
    let root = fs::new("tmpfs", &[fs::option("size", "4k")], fs::PLAIN)?;
    mkdirat(&root, "proc", Mode::from_raw_mode(0o555)).os("mkdir", "proc")?;
    let read_only = Change {
        set: RDONLY,
        ..Change::default()
    };
    for mount in [&root, &proc] {
        set_attr(mount, read_only).os("mount_setattr read-only", "empty root")?;
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let old = openat(rustix::fs::CWD, "/", flags, Mode::empty()).os("open", "/")?;
    fs::attach(&root, &old, "/")?;
    let point = openat(&root, "proc", flags, Mode::empty()).os("open", "proc")?;
    fs::attach(&proc, &point, "/proc")?;
    rustix::process::fchdir(&root).os("fchdir", "empty root")?;
    rustix::process::pivot_root(".", ".").os("pivot_root", "empty root")?;
    // The old root lies above the new one. It follows the host's mounts, and never the other way.
    rustix::process::fchdir(&old).os("fchdir", "old root")?;
    unmount(".", UnmountFlags::DETACH).os("umount", "old root")?;
    rustix::process::chdir("/").os("chdir", "/")
}

/// Gives up all that serving does not need. Threads that are started from here on are confined as well.
fn confine() -> Result<()> {
    rustix::process::umask(Mode::empty());
    sys::process::set_rlimit(libc::RLIMIT_DATA, MEMORY, MEMORY).os("setrlimit", "data")?;
    // Also where it is stopped, or a thread of it hangs.
    set_parent_process_death_signal(Some(Signal::KILL)).os("prctl", "death signal")?;
    security::bounding(CAPABILITIES.bits())?;
    let sets = CapabilitySets {
        effective: CAPABILITIES,
        permitted: CAPABILITIES,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).os("capset", "of files")?;
    set_no_new_privs(true).os("prctl", "no_new_privs")?;
    let program = listed(CALLS);
    sys::seccomp::install(&program.filter, program.flags).os("seccomp", "filter")
}
