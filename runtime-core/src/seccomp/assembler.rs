//! Classic BPF as seccomp(2) takes it (Documentation/networking/filter.rst), written down in order with jumps to places that
//! are not known yet.

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

/// Opcodes of linux/bpf_common.h that are used here. The kernel's action cache understands all of them
/// (`seccomp_is_const_allow`, kernel/seccomp.c), so a call whose answer rests on its number alone does not run the program.
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
pub(super) const NUMBER: u32 = 0;
pub(super) const ARCHITECTURE: u32 = 4;

/// Offset of the low half of an argument.
pub(super) const fn argument(index: u32) -> u32 {
    16 + 8 * index + if cfg!(target_endian = "big") { 4 } else { 0 }
}

/// SECCOMP_RET_ALLOW (linux/seccomp.h).
pub(super) const ALLOW: u32 = 0x7fff_0000;

/// The answer "fails with `errno`": SECCOMP_RET_ERRNO (linux/seccomp.h), whose value has 16 bits.
pub(super) fn fails(errno: i32) -> u32 {
    0x0005_0000 | (errno.unsigned_abs() & 0xffff)
}

/// AUDIT_ARCH_* (linux/audit.h).
pub(super) mod audit {
    pub(in crate::seccomp) const X86_64: u32 = 0xc000_003e;
    pub(in crate::seccomp) const I386: u32 = 0x4000_0003;
    pub(in crate::seccomp) const AARCH64: u32 = 0xc000_00b7;
    pub(in crate::seccomp) const ARM: u32 = 0x4000_0028;
    pub(in crate::seccomp) const RISCV64: u32 = 0xc000_00f3;
}

/// Bit that marks x32 calls in the number on x86-64 (asm/unistd.h).
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// Instructions in order, with jumps to the end that are resolved once the end is known.
#[derive(Default)]
pub(super) struct Assembler {
    code: Vec<Instruction>,
    /// Indices of jumps to the end.
    to_end: Vec<usize>,
}

impl Assembler {
    pub(super) fn push(&mut self, code: u16, k: u32) {
        self.code.push(Instruction {
            code,
            jt: 0,
            jf: 0,
            k,
        });
    }

    /// Jumps to what follows the whole program.
    pub(super) fn jump_to_end(&mut self) {
        self.to_end.push(self.code.len());
        self.push(op::JUMP, 0);
    }

    /// Jumps over `over` instructions if the test holds.
    pub(super) fn jump_if(&mut self, test: u16, k: u32, over: usize) {
        self.push(test, k);
        if let Some(last) = self.code.last_mut() {
            last.jt = short(over);
        }
    }

    /// Runs `block` if the test holds, goes on after it otherwise.
    pub(super) fn when(&mut self, test: u16, k: u32, block: impl FnOnce(&mut Assembler)) {
        let mut inner = Assembler::default();
        block(&mut inner);
        self.push(test, k);
        if let Some(last) = self.code.last_mut() {
            last.jf = short(inner.code.len());
        }
        self.append(inner);
    }

    /// Runs `block` if the test does not hold.
    pub(super) fn unless(&mut self, test: u16, k: u32, block: impl FnOnce(&mut Assembler)) {
        let mut inner = Assembler::default();
        block(&mut inner);
        self.jump_if(test, k, inner.code.len());
        self.append(inner);
    }

    pub(super) fn append(&mut self, other: Assembler) {
        let base = self.code.len();
        self.to_end.extend(other.to_end.iter().map(|i| base + i));
        self.code.extend(other.code);
    }

    pub(super) fn finish(mut self) -> Vec<Instruction> {
        let end = self.code.len();
        for i in self.to_end {
            self.code[i].k = u32::try_from(end - i - 1).unwrap_or(u32::MAX);
        }
        self.code
    }
}

/// Distance of a conditional jump, 8 bits. A longer one would land elsewhere; blocks here are of fixed tables.
fn short(distance: usize) -> u8 {
    debug_assert!(distance <= usize::from(u8::MAX), "a block of {distance}");
    u8::try_from(distance).unwrap_or(u8::MAX)
}
