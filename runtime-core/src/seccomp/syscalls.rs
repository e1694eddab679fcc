//! Names and numbers of system calls.

/// What a system container may call, without regard to arguments, where a profile denies by default: what engines allow
/// every container, and what a container manager needs inside. The kernel checks each of them against the capabilities
/// that the caller has *in its user namespace*; what it answers by capabilities over the host alone (loading modules,
/// setting the clock, swap, raw I/O) stays with the profile, as do bpf(2), perf_event_open(2), io_uring and userfaultfd(2).
pub(super) const SYSTEM_CONTAINER: &[&str] = &[
    // Files and directories.
    "access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 \
     fadvise64 fadvise64_64 arm_fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat \
     fcntl fcntl64 fdatasync fgetxattr file_getattr file_setattr flistxattr flock fremovexattr fsetxattr fstat fstat64 \
     fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futimesat getcwd getdents getdents64 getxattr getxattrat \
     inotify_add_watch inotify_init inotify_init1 inotify_rm_watch fanotify_mark ioctl lchown lchown32 lgetxattr link \
     linkat listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 mkdir mkdirat mknod \
     mknodat name_to_handle_at newfstatat open openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read \
     readahead readlink readlinkat readv removexattr removexattrat rename renameat renameat2 rmdir sendfile sendfile64 \
     setxattr setxattrat splice stat stat64 statfs statfs64 statx symlink symlinkat sync sync_file_range \
     sync_file_range2 arm_sync_file_range syncfs tee truncate truncate64 umask unlink unlinkat utime utimensat \
     utimensat_time64 utimes vmsplice write writev cachestat",
    // Waiting.
    "epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd \
     eventfd2 io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit _newselect pause \
     pipe pipe2 poll ppoll ppoll_time64 pselect6 pselect6_time64 select signalfd signalfd4",
    // Memory.
    "brk get_mempolicy madvise map_shadow_stack mbind membarrier memfd_create memfd_secret mincore mlock mlock2 \
     mlockall mmap mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect \
     process_madvise process_mrelease remap_file_pages set_mempolicy set_mempolicy_home_node",
    // Processes and threads.
    "arch_prctl capget capset clone clone3 execve execveat exit exit_group fork futex futex_requeue futex_time64 \
     futex_wait futex_waitv futex_wake get_robust_list get_thread_area getcpu getegid getegid32 geteuid geteuid32 \
     getgid getgid32 getgroups getgroups32 getpgid getpgrp getpid getppid getpriority getresgid getresgid32 getresuid \
     getresuid32 getrlimit getrusage getsid gettid getuid getuid32 ioprio_get ioprio_set kcmp kill modify_ldt nice \
     pidfd_getfd pidfd_open pidfd_send_signal prctl prlimit64 process_vm_readv process_vm_writev ptrace \
     restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend \
     rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min \
     sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval \
     sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield \
     set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups \
     setgroups32 setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid \
     setreuid32 setrlimit setsid setuid setuid32 sigaction sigaltstack signal sigpending sigprocmask sigreturn \
     sigsuspend tgkill tkill ugetrlimit uname vfork wait4 waitid waitpid breakpoint cacheflush set_tls \
     riscv_flush_icache",
    // Security modules and filters of its own.
    "landlock_add_rule landlock_create_ruleset landlock_restrict_self lsm_get_self_attr lsm_list_modules \
     lsm_set_self_attr seccomp",
    // Time.
    "adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 \
     clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep setitimer time timer_create timer_delete \
     timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime \
     timerfd_gettime64 timerfd_settime timerfd_settime64 times",
    // System V and POSIX IPC.
    "ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 \
     mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget",
    // Sockets, but for socket(2) itself, whose filter of families the profile may have.
    "accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg recvmmsg_time64 \
     recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketpair",
    // Random numbers and the system.
    "getrandom sysinfo",
    // What engines deny by default and container managers need: namespaces and roots, mounts by the old interface and
    // the new, keys, names, and reboot(2), which in a pid namespace ends that namespace.
    "chroot pivot_root setns unshare",
    "mount umount umount2 fsconfig fsmount fsopen fspick listmount listns mount_setattr move_mount open_tree \
     open_tree_attr statmount",
    "add_key keyctl request_key",
    "reboot setdomainname sethostname",
];

/// Where a profile filters their arguments, the filter stays; where it does not name them, they are allowed.
pub(super) const FILTERED: [&str; 2] = ["personality", "socket"];

/// System calls newer than Linux 5.17, the last that libseccomp 2.5.4 knows, with their number. From 424 on a number is the
/// same on all architectures (include/uapi/asm-generic/unistd.h), but for Alpha and MIPS, which count from a base.
pub(super) const NEWER: [(&str, u32); 20] = [
    ("cachestat", 451),
    ("fchmodat2", 452),
    ("map_shadow_stack", 453),
    ("futex_wake", 454),
    ("futex_wait", 455),
    ("futex_requeue", 456),
    ("statmount", 457),
    ("listmount", 458),
    ("lsm_get_self_attr", 459),
    ("lsm_set_self_attr", 460),
    ("lsm_list_modules", 461),
    ("mseal", 462),
    ("setxattrat", 463),
    ("getxattrat", 464),
    ("listxattrat", 465),
    ("removexattrat", 466),
    ("open_tree_attr", 467),
    ("file_getattr", 468),
    ("file_setattr", 469),
    ("listns", 470),
];

/// First number that is the same on all architectures.
pub(super) const FIRST_GENERIC: u32 = 424;

/// Last number that can be a generic one: x32 has its own from 512 on, arm from 0xf0000.
pub(super) const LAST_GENERIC: u32 = 511;

/// All names of [`SYSTEM_CONTAINER`].
pub(super) fn system_container() -> impl Iterator<Item = &'static str> {
    SYSTEM_CONTAINER
        .iter()
        .flat_map(|group| group.split_ascii_whitespace())
}
