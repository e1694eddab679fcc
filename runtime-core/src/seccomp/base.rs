//! The base filter: what nothing in a container may call, under whatever filter its spec gives and where it gives none.
//!
//! ```text
//!   architecture ─► number ─► conditions on an argument ─► an error number
//!        │             └─ another ─────────────────────────► allowed
//!        └─ another ───────────────────────────────────────► ENOSYS
//! ```
//! It holds for every ABI by which the kernel lets programs call it, and answers by the error that software takes for
//! "this kernel does not have it", so that it falls back. Calls that the kernel grants by a capability over the host alone
//! (loading modules, setting the clock, swap) are not here: it asks for the capability before anything else.

use super::SeccompProgram;
use super::assembler::{ALLOW, ARCHITECTURE, Assembler, NUMBER, X32_BIT, argument, fails, op};
use super::barred::{
    ABI_AARCH64, ABI_ARM, ABI_I386, ABI_RISCV64, ABI_X86_64, Abi, ENTRIES, Rule, When, X32,
};
use crate::config::Barred;

/// The program without what the operator lets through (`seccomp.allow` of the configuration). It is a few hundred
/// instructions, made anew in some microseconds.
pub(crate) fn program(allowed: &[Barred]) -> SeccompProgram {
    let native: &[Abi] = if cfg!(target_arch = "x86_64") {
        &[ABI_X86_64, ABI_I386]
    } else if cfg!(target_arch = "aarch64") {
        &[ABI_AARCH64, ABI_ARM]
    } else {
        &[ABI_RISCV64]
    };
    program_of(native, allowed)
}

pub(super) fn program_of(abis: &[Abi], allowed: &[Barred]) -> SeccompProgram {
    let rules: Vec<&Rule> = ENTRIES
        .iter()
        .filter(|entry| !allowed.contains(&entry.barred))
        .flat_map(|entry| entry.rules)
        .collect();
    let mut program = Assembler::default();
    program.push(op::LOAD, ARCHITECTURE);
    for (token, columns) in abis {
        program.when(op::EQUAL, *token, |then| of_abi(then, columns, &rules));
    }
    program.push(op::RETURN, fails(libc::ENOSYS));
    program.into()
}

/// What an ABI's calls are answered: every number once, its conditions in order. All that a program calls often and that
/// is not settled by the number alone, ioctl(2), comes first.
fn of_abi(to: &mut Assembler, columns: &[usize], rules: &[&Rule]) {
    to.push(op::LOAD, NUMBER);
    if columns.contains(&X32) {
        // One table of numbers serves both, in part: kernels let x32's own numbers through without the bit, too.
        to.push(op::AND, !X32_BIT);
    }
    let mut numbers: Vec<(u32, Vec<&Rule>)> = Vec::new();
    for rule in rules {
        for number in columns
            .iter()
            .filter_map(|column| rule.call.numbers[*column])
        {
            match numbers.iter_mut().find(|(known, _)| *known == number) {
                Some((_, all)) => all.push(rule),
                None => numbers.push((number, vec![rule])),
            }
        }
    }
    for (number, rules) in numbers {
        to.when(op::EQUAL, number, |then| {
            for rule in rules {
                refuse(then, rule);
            }
            then.push(op::RETURN, ALLOW);
        });
    }
    to.push(op::RETURN, ALLOW);
}

/// Answers by the rule's error where its condition holds. The kernel takes all these arguments as 32 bits wide, so their
/// high halves count for nothing.
fn refuse(to: &mut Assembler, rule: &Rule) {
    let answer = fails(rule.errno);
    match rule.when {
        When::Always => to.push(op::RETURN, answer),
        When::Is(index, values) => {
            to.push(op::LOAD, argument(index));
            for value in values {
                to.when(op::EQUAL, *value, |then| then.push(op::RETURN, answer));
            }
        }
        When::Has(index, bit) => {
            to.push(op::LOAD, argument(index));
            to.when(op::SET, bit, |then| then.push(op::RETURN, answer));
        }
        When::Lacks(index, bit) => {
            to.push(op::LOAD, argument(index));
            to.unless(op::SET, bit, |then| then.push(op::RETURN, answer));
        }
    }
}
