//! What the base filter bars: the entries that the configuration names, with the calls of each.

use super::assembler::audit;
use crate::config::Barred;

/// One line of the table in docs/security.md.
pub(super) struct Entry {
    /// Its name in the configuration.
    pub(super) barred: Barred,
    /// What is refused and how, in words.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "the documentation is checked by it")
    )]
    pub(super) what: &'static str,
    /// Why a system container is better without it.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "the documentation is checked by it")
    )]
    pub(super) why: &'static str,
    pub(super) rules: &'static [Rule],
}

pub(super) struct Rule {
    pub(super) call: Call,
    pub(super) when: When,
    pub(super) errno: i32,
}

/// A condition on an argument, by its index.
pub(super) enum When {
    Always,
    Is(u32, &'static [u32]),
    Has(u32, u32),
    Lacks(u32, u32),
}

/// A system call and its numbers.
pub(super) struct Call {
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "the table is checked by the name")
    )]
    pub(super) name: &'static str,
    pub(super) numbers: [Option<u32>; 5],
}

/// The columns of numbers: x86-64, x32, i386, arm, and the common table of aarch64 and riscv64.
pub(super) const X86_64: usize = 0;
pub(super) const X32: usize = 1;
pub(super) const I386: usize = 2;
pub(super) const ARM: usize = 3;
pub(super) const COMMON: usize = 4;

/// An ABI by the token that the kernel gives a filter, and its columns.
pub(super) type Abi = (u32, &'static [usize]);

/// x32 has the token of x86-64.
pub(super) const ABI_X86_64: Abi = (audit::X86_64, &[X86_64, X32]);
pub(super) const ABI_I386: Abi = (audit::I386, &[I386]);
pub(super) const ABI_ARM: Abi = (audit::ARM, &[ARM]);
pub(super) const ABI_AARCH64: Abi = (audit::AARCH64, &[COMMON]);
pub(super) const ABI_RISCV64: Abi = (audit::RISCV64, &[COMMON]);

const fn call(name: &'static str, numbers: [u32; 5]) -> Call {
    let [x86_64, x32, i386, arm, common] = numbers;
    Call {
        name,
        numbers: [Some(x86_64), Some(x32), Some(i386), Some(arm), Some(common)],
    }
}

/// A call that has one number everywhere, as all have from 424 on.
const fn generic(name: &'static str, number: u32) -> Call {
    call(name, [number; 5])
}

const SOCKET: Call = call("socket", [41, 41, 359, 281, 198]);
const SOCKETPAIR: Call = call("socketpair", [53, 53, 360, 288, 199]);
/// All calls on sockets by one number, the arguments behind a pointer, where no filter sees them.
const SOCKETCALL: Call = Call {
    name: "socketcall",
    numbers: [None, None, Some(102), None, None],
};
/// Its socket and socketpair (SYS_SOCKET, SYS_SOCKETPAIR of linux/net.h).
const MAKES_SOCKETS: When = When::Is(0, &[1, 8]);

/// TIOCSTI and TIOCLINUX (asm-generic/ioctls.h).
const TIOCSTI: u32 = 0x5412;
const TIOCLINUX: u32 = 0x541c;
/// move_mount(2): mount beneath the top mount (Linux 6.5).
const MOVE_MOUNT_BENEATH: u32 = 0x200;
/// open_tree(2): a copy of the tree as a new mount namespace (Linux 7.0).
const OPEN_TREE_NAMESPACE: u32 = 0x2;
/// userfaultfd(2): faults of user mode alone (Linux 5.11).
const UFFD_USER_MODE_ONLY: u32 = 0x1;

/// Address families (linux/socket.h).
const AF_VSOCK: &[u32] = &[40];
/// AX.25, AppleTalk, NET/ROM, X.25, ROSE, RDS, LLC, TIPC, Bluetooth, RxRPC, Phonet, 802.15.4, CAIF, AF_ALG, NFC, QIPCRTR.
const RARE: &[u32] = &[3, 5, 6, 9, 11, 21, 26, 30, 31, 33, 35, 36, 37, 38, 39, 42];

const fn rule(call: Call, when: When, errno: i32) -> Rule {
    Rule { call, when, errno }
}

/// All of it.
pub(super) const ENTRIES: &[Entry] = &[
    Entry {
        barred: Barred::TerminalInput,
        what: "ioctl TIOCSTI (EIO) and TIOCLINUX (EPERM)",
        why: "types into a terminal on behalf of whoever reads it: a way out wherever a terminal of the host gets inside \
              (CVE-2016-10124); Linux 6.2 and later switch TIOCSTI off themselves (dev.tty.legacy_tiocsti)",
        rules: &[
            rule(
                call("ioctl", [16, 514, 54, 54, 29]),
                When::Is(1, &[TIOCSTI]),
                libc::EIO,
            ),
            rule(
                call("ioctl", [16, 514, 54, 54, 29]),
                When::Is(1, &[TIOCLINUX]),
                libc::EPERM,
            ),
        ],
    },
    Entry {
        barred: Barred::Vsock,
        what: "socket, socketpair of AF_VSOCK (EAFNOSUPPORT); both by i386's socketcall (ENOSYS)",
        why: "leads to the hypervisor and to other virtual machines, past every network namespace (CVE-2021-26708 was its own \
              fault); socketcall's arguments no filter sees (CVE-2026-112917)",
        rules: &[
            rule(SOCKET, When::Is(0, AF_VSOCK), libc::EAFNOSUPPORT),
            rule(SOCKETPAIR, When::Is(0, AF_VSOCK), libc::EAFNOSUPPORT),
            rule(SOCKETCALL, MAKES_SOCKETS, libc::ENOSYS),
        ],
    },
    Entry {
        barred: Barred::RareSockets,
        what: "socket, socketpair of AF_ALG, TIPC, RDS, RxRPC, Bluetooth, NFC, QIPCRTR, LLC, X.25, AX.25, NET/ROM, ROSE, \
               AppleTalk, Phonet, 802.15.4, CAIF (EAFNOSUPPORT); by socketcall as above",
        why: "one call makes the kernel load a module that hardly anybody uses and few have read: CVE-2026-31431 (AF_ALG \
              writes to the page cache of files), CVE-2021-43267 (TIPC), CVE-2010-3904 (RDS), CVE-2020-25673 (NFC); most \
              of them work in the host's network namespace alone",
        rules: &[
            rule(SOCKET, When::Is(0, RARE), libc::EAFNOSUPPORT),
            rule(SOCKETPAIR, When::Is(0, RARE), libc::EAFNOSUPPORT),
            rule(SOCKETCALL, MAKES_SOCKETS, libc::ENOSYS),
        ],
    },
    Entry {
        barred: Barred::IoUring,
        what: "io_uring_setup (ENOSYS)",
        why: "makes sockets and opens files that no filter sees (IORING_OP_SOCKET), and has been the way into the kernel \
              of most exploits that Google paid for in 2022; engines' default profiles deny it, what uses it falls back",
        rules: &[rule(
            generic("io_uring_setup", 425),
            When::Always,
            libc::ENOSYS,
        )],
    },
    Entry {
        barred: Barred::MountBeneath,
        what: "move_mount with MOVE_MOUNT_BENEATH (EINVAL)",
        why: "uncovers locked mounts on kernels before the fixes of October 2026 (CVE-2026-98976 and following), which \
              cannot be told from fixed ones; programs fall back as on Linux before 6.5",
        rules: &[rule(
            generic("move_mount", 429),
            When::Has(4, MOVE_MOUNT_BENEATH),
            libc::EINVAL,
        )],
    },
    Entry {
        barred: Barred::OpenTreeNamespace,
        what: "open_tree, open_tree_attr with OPEN_TREE_NAMESPACE (EINVAL)",
        why: "the same; programs fall back as on Linux before 7.0",
        rules: &[
            rule(
                generic("open_tree", 428),
                When::Has(2, OPEN_TREE_NAMESPACE),
                libc::EINVAL,
            ),
            rule(
                generic("open_tree_attr", 467),
                When::Has(2, OPEN_TREE_NAMESPACE),
                libc::EINVAL,
            ),
        ],
    },
    Entry {
        barred: Barred::Userfaultfd,
        what: "userfaultfd without UFFD_USER_MODE_ONLY (EPERM)",
        why: "holds the kernel at a point of the caller's choice, which makes races sure to win (CVE-2016-6187, \
              CVE-2021-26708 and many others); the kernel's own answer unless vm.unprivileged_userfaultfd is set",
        rules: &[rule(
            call("userfaultfd", [323, 323, 374, 388, 282]),
            When::Lacks(0, UFFD_USER_MODE_ONLY),
            libc::EPERM,
        )],
    },
    Entry {
        barred: Barred::Bpf,
        what: "bpf (EPERM)",
        why: "the kernel's own answer unless kernel.unprivileged_bpf_disabled is 0, where its verifier was the way to the \
              host's root (CVE-2020-8835, CVE-2021-3490, CVE-2022-23222)",
        rules: &[rule(
            call("bpf", [321, 321, 357, 386, 280]),
            When::Always,
            libc::EPERM,
        )],
    },
    Entry {
        barred: Barred::OpenByHandle,
        what: "open_by_handle_at (EPERM)",
        why: "opens files by inode number, outside what is mounted (the \"shocker\" escape of 2014); the kernel's own \
              answer to a user namespace's root before 6.11",
        rules: &[rule(
            call("open_by_handle_at", [304, 304, 342, 371, 265]),
            When::Always,
            libc::EPERM,
        )],
    },
    Entry {
        barred: Barred::Kexec,
        what: "kexec_load, kexec_file_load (EPERM)",
        why: "boots another kernel on the host; the kernel's own answer, given before it reads anything",
        rules: &[
            rule(
                call("kexec_load", [246, 528, 283, 347, 104]),
                When::Always,
                libc::EPERM,
            ),
            rule(
                Call {
                    name: "kexec_file_load",
                    numbers: [Some(320), Some(320), None, Some(401), Some(294)],
                },
                When::Always,
                libc::EPERM,
            ),
        ],
    },
];
