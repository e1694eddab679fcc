//! A filter for a process of ours, whose system calls we know: those listed, threads, and nothing else.

use super::SeccompProgram;
use super::assembler::{ALLOW, ARCHITECTURE, Assembler, NUMBER, argument, audit, fails, op};

/// AUDIT_ARCH_* of this program.
const NATIVE: u32 = if cfg!(target_arch = "x86_64") {
    audit::X86_64
} else if cfg!(target_arch = "aarch64") {
    audit::AARCH64
} else {
    audit::RISCV64
};

/// Lets system calls `numbers` through, and clone(2) where it makes a thread; clone3(2), whose flags no filter sees, answers
/// ENOSYS, from which the C library falls back. All others answer EPERM.
pub(crate) fn listed(numbers: &[i64]) -> SeccompProgram {
    let mut program = Assembler::default();
    let refused = fails(libc::EPERM);
    program.push(op::LOAD, ARCHITECTURE);
    program.unless(op::EQUAL, NATIVE, |then| then.push(op::RETURN, refused));
    program.push(op::LOAD, NUMBER);
    for number in numbers {
        program.when(op::EQUAL, short(*number), |then| {
            then.push(op::RETURN, ALLOW);
        });
    }
    program.when(op::EQUAL, short(libc::SYS_clone3), |then| {
        then.push(op::RETURN, fails(libc::ENOSYS));
    });
    program.when(op::EQUAL, short(libc::SYS_clone), |then| {
        then.push(op::LOAD, argument(0));
        then.when(op::SET, libc::CLONE_THREAD.unsigned_abs(), |then| {
            then.push(op::RETURN, ALLOW);
        });
        then.push(op::RETURN, refused);
    });
    program.push(op::RETURN, refused);
    program.into()
}

/// Numbers of system calls have 32 bits in a filter.
fn short(number: i64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
