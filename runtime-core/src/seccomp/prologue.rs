//! Instructions before libseccomp's program (classic BPF, Documentation/networking/filter.rst).
//!
//! ```text
//!   architecture none of ours ─────────────────────────────► libseccomp's program (SIGSYS)
//!   number not in 424..=511, the range that is common ─────► libseccomp's program
//!   newer than libseccomp, named by a rule ────────────────► the rule's action
//!   newer than the profile, named by none ─────────────────► ENOSYS, where the profile denies by default
//!   anything else ─────────────────────────────────────────► libseccomp's program
//! ```
//! ENOSYS, because a C library takes EPERM as final but falls back from ENOSYS to an older call (as runc does).

use libseccomp::{ScmpAction, ScmpArch};

use super::allows;
use super::assembler::{ARCHITECTURE, Assembler, Instruction, NUMBER, X32_BIT, audit, fails, op};
use super::profile::{self, Profile};
use super::syscalls::{FIRST_GENERIC, LAST_GENERIC};

/// The instructions; the next one after them is the first of libseccomp's program.
pub(super) fn prologue(
    profile: &Profile,
    architectures: &[ScmpArch],
    newer: &[(u32, ScmpAction)],
) -> Vec<Instruction> {
    let audit: Vec<u32> = dedup(architectures.iter().filter_map(|arch| token(*arch)));
    let mut body = Assembler::default();
    if architectures.contains(&ScmpArch::X8664) {
        if architectures.contains(&ScmpArch::X32) {
            body.push(op::AND, !X32_BIT);
        } else {
            body.when(op::SET, X32_BIT, |then| then.jump_to_end());
        }
    }
    body.unless(op::AT_LEAST, FIRST_GENERIC, |then| then.jump_to_end());
    body.when(op::GREATER, LAST_GENERIC, |then| then.jump_to_end());
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
            body.when(op::EQUAL, number, |then| then.jump_to_end());
        }
        body.when(
            op::GREATER,
            profile.last_known.max(FIRST_GENERIC - 1),
            |then| {
                then.push(op::RETURN, fails(libc::ENOSYS));
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
    program.jump_to_end();
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
        ScmpAction::Errno(errno) => fails(errno),
        ScmpAction::Trace(value) => 0x7ff0_0000 | u32::from(value),
        ScmpAction::Log => 0x7ffc_0000,
        // [`Profile`] has no other.
        _ => 0x7fff_0000,
    }
}

/// AUDIT_ARCH_* of architectures whose numbers are generic from 424 on.
fn token(arch: ScmpArch) -> Option<u32> {
    match arch {
        ScmpArch::X8664 | ScmpArch::X32 => Some(audit::X86_64),
        ScmpArch::X86 => Some(audit::I386),
        ScmpArch::Aarch64 => Some(audit::AARCH64),
        ScmpArch::Arm => Some(audit::ARM),
        ScmpArch::Riscv64 => Some(audit::RISCV64),
        _ => None,
    }
}
