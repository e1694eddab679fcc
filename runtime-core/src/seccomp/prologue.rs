//! Instructions before libseccomp's program (classic BPF, Documentation/networking/filter.rst).
//!
//! ```text
//!   architecture none of ours ─────────────────────────────► libseccomp's program (SIGSYS)
//!   number not in 424..=511, the range that is common ─────► libseccomp's program
//!   open_tree, open_tree_attr with OPEN_TREE_NAMESPACE ────► EPERM
//!   move_mount with MOVE_MOUNT_BENEATH ────────────────────► EPERM
//!   newer than libseccomp, named by a rule ────────────────► the rule's action
//!   newer than the profile, named by none ─────────────────► ENOSYS, where the profile denies by default
//!   anything else ─────────────────────────────────────────► libseccomp's program
//! ```
//! The two flags uncover locked mounts on kernels before the fixes of October 2026 (CVE-2026-98976 and following).
//! ENOSYS, because a C library takes EPERM as final but falls back from ENOSYS to an older call (as runc does).

use libseccomp::{ScmpAction, ScmpArch};

use super::allows;
use super::profile::{self, Profile};
use super::syscalls::{FIRST_GENERIC, LAST_GENERIC, MOVE_MOUNT, OPEN_TREE, OPEN_TREE_ATTR};

/// `struct sock_filter` (linux/filter.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) code: u16,
    pub(super) jt: u8,
    pub(super) jf: u8,
    pub(super) k: u32,
}

impl Instruction {
    pub(super) fn to_bytes(self) -> [u8; 8] {
        let [c0, c1] = self.code.to_ne_bytes();
        let [k0, k1, k2, k3] = self.k.to_ne_bytes();
        [c0, c1, self.jt, self.jf, k0, k1, k2, k3]
    }

    pub(super) fn from_bytes([c0, c1, jt, jf, k0, k1, k2, k3]: [u8; 8]) -> Self {
        Instruction {
            code: u16::from_ne_bytes([c0, c1]),
            jt,
            jf,
            k: u32::from_ne_bytes([k0, k1, k2, k3]),
        }
    }
}

/// Opcodes of linux/bpf_common.h that are used here.
pub(super) mod op {
    /// A = 32 bits of `struct seccomp_data` at k.
    pub(in crate::seccomp) const LOAD: u16 = 0x20;
    /// A &= k.
    pub(in crate::seccomp) const AND: u16 = 0x54;
    /// Jump by k.
    pub(in crate::seccomp) const JUMP: u16 = 0x05;
    /// A == k.
    pub(in crate::seccomp) const EQUAL: u16 = 0x15;
    /// A > k.
    pub(in crate::seccomp) const GREATER: u16 = 0x25;
    /// A >= k.
    pub(in crate::seccomp) const AT_LEAST: u16 = 0x35;
    /// A & k.
    pub(in crate::seccomp) const SET: u16 = 0x45;
    /// The answer is k.
    pub(in crate::seccomp) const RETURN: u16 = 0x06;
}

/// Offsets in `struct seccomp_data` (linux/seccomp.h).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

/// Offset of the low half of an argument.
const fn argument(index: u32) -> u32 {
    16 + 8 * index + if cfg!(target_endian = "big") { 4 } else { 0 }
}

/// SECCOMP_RET_ERRNO (linux/seccomp.h).
const RET_ERRNO: u32 = 0x0005_0000;

/// open_tree(2): a copy of the tree as a new mount namespace (Linux 7.0).
const OPEN_TREE_NAMESPACE: u32 = 0x2;

/// move_mount(2): mount beneath the top mount (Linux 6.5).
const MOVE_MOUNT_BENEATH: u32 = 0x200;

/// Bit that marks x32 calls in the number on x86-64 (asm/unistd.h).
const X32_BIT: u32 = 0x4000_0000;

/// The instructions; the next one after them is the first of libseccomp's program.
pub(super) fn prologue(
    profile: &Profile,
    architectures: &[ScmpArch],
    newer: &[(u32, ScmpAction)],
) -> Vec<Instruction> {
    let audit: Vec<u32> = dedup(architectures.iter().filter_map(|arch| audit(*arch)));
    let errno = |errno: i32| RET_ERRNO | errno.unsigned_abs();
    let mut body = Assembler::default();
    if architectures.contains(&ScmpArch::X8664) {
        if architectures.contains(&ScmpArch::X32) {
            body.push(op::AND, !X32_BIT);
        } else {
            body.when(op::SET, X32_BIT, |then| then.jump_to_filter());
        }
    }
    body.unless(op::AT_LEAST, FIRST_GENERIC, |then| then.jump_to_filter());
    body.when(op::GREATER, LAST_GENERIC, |then| then.jump_to_filter());
    for (number, flags, bit) in [
        (OPEN_TREE, argument(2), OPEN_TREE_NAMESPACE),
        (OPEN_TREE_ATTR, argument(2), OPEN_TREE_NAMESPACE),
        (MOVE_MOUNT, argument(4), MOVE_MOUNT_BENEATH),
    ] {
        body.when(op::EQUAL, number, |then| {
            then.push(op::LOAD, flags);
            then.when(op::SET, bit, |then| {
                then.push(op::RETURN, errno(libc::EPERM))
            });
            // The accumulator held the number.
            match newer.iter().find(|(other, _)| *other == number) {
                Some((_, action)) => then.push(op::RETURN, ret(*action)),
                None => then.jump_to_filter(),
            }
        });
    }
    for (number, action) in newer {
        body.when(op::EQUAL, *number, |then| {
            then.push(op::RETURN, ret(*action))
        });
    }
    if !allows(profile.default) {
        // Newer than the profile, but allowed by widening and known to libseccomp.
        let known = profile.rules.iter().filter_map(profile::generic_number);
        let newer = |number: &u32| newer.iter().any(|(other, _)| other == number);
        for number in dedup(known.filter(|n| *n > profile.last_known && !newer(n))) {
            body.when(op::EQUAL, number, |then| then.jump_to_filter());
        }
        body.when(
            op::GREATER,
            profile.last_known.max(FIRST_GENERIC - 1),
            |then| {
                then.push(op::RETURN, errno(libc::ENOSYS));
            },
        );
    }
    let mut program = Assembler::default();
    program.push(op::LOAD, ARCHITECTURE);
    for (i, arch) in audit.iter().enumerate() {
        // To the load of the number, over the comparisons that are left and the jump to the filter.
        let over = audit.len() - i;
        program.jump_if(op::EQUAL, *arch, over);
    }
    program.jump_to_filter();
    program.push(op::LOAD, NUMBER);
    program.append(body);
    program.finish()
}

/// Sorted, each once.
fn dedup(numbers: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut numbers: Vec<u32> = numbers.collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// The kernel's word for an action (linux/seccomp.h).
fn ret(action: ScmpAction) -> u32 {
    match action {
        ScmpAction::KillProcess => 0x8000_0000,
        ScmpAction::KillThread => 0,
        ScmpAction::Trap => 0x0003_0000,
        ScmpAction::Errno(errno) => RET_ERRNO | (errno.unsigned_abs() & 0xffff),
        ScmpAction::Trace(value) => 0x7ff0_0000 | u32::from(value),
        ScmpAction::Log => 0x7ffc_0000,
        // [`Profile`] has no other.
        _ => 0x7fff_0000,
    }
}

/// AUDIT_ARCH_* (linux/audit.h) of architectures whose numbers are generic from 424 on.
fn audit(arch: ScmpArch) -> Option<u32> {
    match arch {
        ScmpArch::X8664 | ScmpArch::X32 => Some(0xc000_003e),
        ScmpArch::X86 => Some(0x4000_0003),
        ScmpArch::Aarch64 => Some(0xc000_00b7),
        ScmpArch::Arm => Some(0x4000_0028),
        ScmpArch::Riscv64 => Some(0xc000_00f3),
        _ => None,
    }
}

/// Instructions in order, with jumps to the end that are resolved once the end is known.
#[derive(Default)]
struct Assembler {
    code: Vec<Instruction>,
    /// Indices of jumps to libseccomp's program.
    to_filter: Vec<usize>,
}

impl Assembler {
    fn push(&mut self, code: u16, k: u32) {
        self.code.push(Instruction {
            code,
            jt: 0,
            jf: 0,
            k,
        });
    }

    fn jump_to_filter(&mut self) {
        self.to_filter.push(self.code.len());
        self.push(op::JUMP, 0);
    }

    /// Jumps over `over` instructions if the test holds.
    fn jump_if(&mut self, test: u16, k: u32, over: usize) {
        self.push(test, k);
        if let Some(last) = self.code.last_mut() {
            last.jt = short(over);
        }
    }

    /// Runs `block` if the test holds, goes on after it otherwise.
    fn when(&mut self, test: u16, k: u32, block: impl FnOnce(&mut Assembler)) {
        let mut inner = Assembler::default();
        block(&mut inner);
        self.push(test, k);
        if let Some(last) = self.code.last_mut() {
            last.jf = short(inner.code.len());
        }
        self.append(inner);
    }

    /// Runs `block` if the test does not hold.
    fn unless(&mut self, test: u16, k: u32, block: impl FnOnce(&mut Assembler)) {
        let mut inner = Assembler::default();
        block(&mut inner);
        self.jump_if(test, k, inner.code.len());
        self.append(inner);
    }

    fn append(&mut self, other: Assembler) {
        let base = self.code.len();
        self.to_filter
            .extend(other.to_filter.iter().map(|i| base + i));
        self.code.extend(other.code);
    }

    fn finish(mut self) -> Vec<Instruction> {
        let end = self.code.len();
        for i in self.to_filter {
            self.code[i].k = u32::try_from(end - i - 1).unwrap_or(u32::MAX);
        }
        self.code
    }
}

/// Distance of a conditional jump, 8 bits. Blocks here are a handful of instructions.
fn short(distance: usize) -> u8 {
    u8::try_from(distance).unwrap_or(u8::MAX)
}
