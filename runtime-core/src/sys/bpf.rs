//! bpf(2) as far as device programs go: load one, attach it to a cgroup.

use std::ffi::c_long;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::{Errno, Result};

const BPF_PROG_LOAD: c_long = 5;
const BPF_PROG_ATTACH: c_long = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 1 << 1;
const BPF_F_REPLACE: u32 = 1 << 2;

/// Registers that device programs use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Register {
    R0 = 0,
    R1 = 1,
    R2 = 2,
    R3 = 3,
    R4 = 4,
    R5 = 5,
}

/// `struct bpf_insn` (linux/bpf.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    const fn new(code: u8, to: Register, from: u8, offset: i16, immediate: i32) -> Self {
        // dst_reg is the bit field declared first: the low half on little-endian machines.
        let registers = if cfg!(target_endian = "little") {
            from << 4 | to as u8
        } else {
            (to as u8) << 4 | from
        };
        Instruction {
            code,
            registers,
            offset,
            immediate,
        }
    }

    /// `to = *(u32 *)(from + offset)`
    pub(crate) const fn load_word(to: Register, from: Register, offset: i16) -> Self {
        Self::new(0x61, to, from as u8, offset, 0)
    }

    /// `to = from`, 32 bits
    pub(crate) const fn mov(to: Register, from: Register) -> Self {
        Self::new(0xbc, to, from as u8, 0, 0)
    }

    /// `to = value`, 32 bits
    pub(crate) const fn set(to: Register, value: i32) -> Self {
        Self::new(0xb4, to, 0, 0, value)
    }

    /// `to &= mask`, 32 bits
    pub(crate) const fn and(to: Register, mask: i32) -> Self {
        Self::new(0x54, to, 0, 0, mask)
    }

    /// `to ^= mask`, 32 bits
    pub(crate) const fn xor(to: Register, mask: i32) -> Self {
        Self::new(0xa4, to, 0, 0, mask)
    }

    /// `to |= from`, 32 bits
    pub(crate) const fn or(to: Register, from: Register) -> Self {
        Self::new(0x4c, to, from as u8, 0, 0)
    }

    /// `to >>= bits`, 32 bits
    pub(crate) const fn shift_right(to: Register, bits: i32) -> Self {
        Self::new(0x74, to, 0, 0, bits)
    }

    /// Skips `over` instructions where the low 32 bits of `register` are `value`.
    pub(crate) const fn jump_if_equal(register: Register, value: i32, over: i16) -> Self {
        Self::new(0x16, register, 0, over, value)
    }

    /// Skips `over` instructions where the low 32 bits of `register` are not `value`.
    pub(crate) const fn jump_if_not_equal(register: Register, value: i32, over: i16) -> Self {
        Self::new(0x56, register, 0, over, value)
    }

    /// `return R0`
    pub(crate) const fn exit() -> Self {
        Self::new(0x95, Register::R0, 0, 0, 0)
    }
}

/// The part of `union bpf_attr` that BPF_PROG_LOAD reads here.
#[repr(C)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// The part of `union bpf_attr` that BPF_PROG_ATTACH reads here.
#[repr(C)]
struct Attach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

/// Loads a device program and returns its descriptor (close-on-exec, as bpf(2) makes all).
pub(crate) fn load_device_program(program: &[Instruction]) -> Result<OwnedFd> {
    let license = c"Apache-2.0";
    let attributes = Load {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).map_err(|_| Errno::TOOBIG)?,
        insns: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name: *b"sysbox_devices\0\0",
        prog_ifindex: 0,
        expected_attach_type: BPF_CGROUP_DEVICE,
    };
    // SAFETY: `Load` is the kernel's layout (repr(C), no padding) for this command; `program` and `license` outlive the
    // call, `insn_cnt` is the length of `program`, and the kernel copies both.
    let fd = unsafe { bpf(BPF_PROG_LOAD, &attributes) }?;
    // SAFETY: the kernel has just returned this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches `program` to `cgroup` beside whatever else is attached, or in the place of `replaced`.
pub(crate) fn attach_device_program(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    replaced: Option<BorrowedFd<'_>>,
) -> Result<()> {
    let attributes = Attach {
        target_fd: cgroup.as_raw_fd().cast_unsigned(),
        attach_bpf_fd: program.as_raw_fd().cast_unsigned(),
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI | replaced.map_or(0, |_| BPF_F_REPLACE),
        replace_bpf_fd: replaced.map_or(0, |fd| fd.as_raw_fd().cast_unsigned()),
    };
    // SAFETY: `Attach` is the kernel's layout (repr(C), no padding) for this command, and the descriptors are borrowed for
    // the call.
    unsafe { bpf(BPF_PROG_ATTACH, &attributes) }?;
    Ok(())
}

/// bpf(2); no kept crate without a C library of its own offers it.
///
/// # Safety
/// `T` is the kernel's layout for `command`, without padding, and the pointers in it are good for the call.
unsafe fn bpf<T>(command: c_long, attributes: &T) -> Result<i32> {
    // SAFETY: the caller's promise; size and address are those of `attributes`, which the kernel only reads.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    match i32::try_from(answer) {
        Ok(answer) if answer >= 0 => Ok(answer),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}
