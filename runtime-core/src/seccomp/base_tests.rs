//! The base filter, run by the interpreter of [`super::tests`] for every ABI, and by the kernel.

use libseccomp::{ScmpArch, ScmpSyscall};

use super::SeccompProgram;
use super::assembler::{ALLOW, audit, fails};
use super::barred::{self, *};
use super::base::{program, program_of};
use super::tests::{AARCH64, I386, X32_BIT, X86_64, run};
use crate::config::Barred;

/// The program for all of them.
fn everywhere(allowed: &[Barred]) -> SeccompProgram {
    let all = [ABI_X86_64, ABI_I386, ABI_ARM, ABI_AARCH64, ABI_RISCV64];
    program_of(&all, allowed)
}

const ALL_ABIS: [(u32, ScmpArch, usize, u32); 6] = [
    (audit::X86_64, ScmpArch::X8664, barred::X86_64, 0),
    (audit::X86_64, ScmpArch::X32, X32, X32_BIT),
    (audit::I386, ScmpArch::X86, barred::I386, 0),
    (audit::ARM, ScmpArch::Arm, ARM, 0),
    (audit::AARCH64, ScmpArch::Aarch64, COMMON, 0),
    (audit::RISCV64, ScmpArch::Riscv64, COMMON, 0),
];

/// An index and a value.
type Argument = (usize, u64);

/// Arguments for which the condition holds, and one for which it does not, if there is one.
fn arguments(when: &When) -> (Vec<Argument>, Option<Argument>) {
    let at = |index: u32| usize::try_from(index).unwrap();
    // High halves count for nothing.
    const HIGH: u64 = 7 << 32;
    match *when {
        When::Always => (vec![(0, 0), (5, u64::MAX)], None),
        When::Is(index, values) => (
            values
                .iter()
                .flat_map(|v| [u64::from(*v), HIGH | u64::from(*v)])
                .map(|v| (at(index), v))
                .collect(),
            Some((at(index), 2)),
        ),
        When::Has(index, bit) => (
            [u64::from(bit), HIGH | u64::from(bit) | 4]
                .map(|v| (at(index), v))
                .into(),
            Some((at(index), !u64::from(bit))),
        ),
        When::Lacks(index, bit) => (
            vec![(at(index), 0), (at(index), HIGH | 0x800)],
            Some((at(index), u64::from(bit) | 0x800)),
        ),
    }
}

fn args((index, value): Argument) -> [u64; 6] {
    let mut args = [0; 6];
    args[index] = value;
    args
}

#[test]
fn every_entry_answers_by_every_abi_and_can_be_let_through() {
    let full = everywhere(&[]);
    for entry in ENTRIES {
        // Sockets by socketcall are refused for either entry on sockets.
        let shared = [Barred::Vsock, Barred::RareSockets];
        let allowed: Vec<Barred> = if shared.contains(&entry.barred) {
            shared.into()
        } else {
            vec![entry.barred]
        };
        let without = everywhere(&allowed);
        for rule in entry.rules {
            let (holding, other) = arguments(&rule.when);
            for (token, _, column, bit) in ALL_ABIS {
                let Some(number) = rule.call.numbers[column] else {
                    continue;
                };
                let run = |program: &SeccompProgram, argument| {
                    run(program, token, number | bit, args(argument))
                };
                let what = format!("{} on {token:#x}", rule.call.name);
                for argument in holding.iter().copied() {
                    assert_eq!(run(&full, argument), fails(rule.errno), "{what}");
                    assert_eq!(run(&without, argument), ALLOW, "{what}");
                }
                if let Some(argument) = other {
                    assert_eq!(run(&full, argument), ALLOW, "{what}");
                }
            }
        }
    }
}

#[test]
fn all_else_is_allowed_and_an_unknown_abi_has_nothing() {
    let full = everywhere(&[]);
    for (token, _, column, bit) in ALL_ABIS {
        let named: Vec<u32> = ENTRIES
            .iter()
            .flat_map(|entry| entry.rules)
            .flat_map(|rule| rule.call.numbers)
            .flatten()
            .collect();
        for number in (0..1100).filter(|number| !named.contains(number)) {
            assert_eq!(
                run(&full, token, number | bit, [u64::MAX; 6]),
                ALLOW,
                "{number} {column}"
            );
        }
    }
    // MIPS, which we are not built for.
    assert_eq!(run(&full, 0x4000_0008, 20, [0; 6]), fails(libc::ENOSYS));
    let none: Vec<Barred> = ENTRIES.iter().map(|entry| entry.barred).collect();
    for (token, number) in [
        (X86_64, 425),
        (X86_64, 425 | X32_BIT),
        (I386, 102),
        (AARCH64, 280),
    ] {
        assert_eq!(run(&everywhere(&none), token, number, [1; 6]), ALLOW);
    }
}

#[test]
fn numbers_are_those_of_libseccomp_where_it_knows_them() {
    let mut known = 0;
    for call in ENTRIES
        .iter()
        .flat_map(|entry| entry.rules)
        .map(|rule| &rule.call)
    {
        for (_, arch, column, bit) in ALL_ABIS {
            // It gives calls that some architecture multiplexes a negative number of its own.
            let number = ScmpSyscall::from_name_by_arch(call.name, arch)
                .ok()
                .and_then(|call| u32::try_from(call.as_raw_syscall()).ok());
            if let Some(number) = number {
                assert_eq!(
                    call.numbers[column].map(|n| n | bit),
                    Some(number),
                    "{} on {arch:?}",
                    call.name
                );
                known += 1;
            }
        }
    }
    assert!(known > 60, "only {known}");
}

#[test]
fn each_name_of_the_configuration_is_an_entry() {
    let names: Vec<Barred> = ENTRIES.iter().map(|entry| entry.barred).collect();
    for barred in Barred::ALL {
        assert_eq!(
            names.iter().filter(|name| **name == barred).count(),
            1,
            "{barred:?}"
        );
    }
    assert_eq!(names.len(), Barred::ALL.len());
}

#[test]
fn the_documentation_has_the_table() {
    let mut table = String::from("| `seccomp.allow` | refused | why |\n|---|---|---|\n");
    for entry in ENTRIES {
        let line = format!(
            "| `{}` | {} | {} |\n",
            entry.barred.name(),
            entry.what,
            entry.why
        );
        table.push_str(&line);
    }
    let text = include_str!("../../../docs/security.md");
    assert!(
        text.contains(&table),
        "docs/security.md should have:\n{table}"
    );
    let shipped = include_str!("../../../deploy/config.toml");
    for barred in Barred::ALL {
        let name = format!("{:?}", barred.name());
        assert!(
            shipped.contains(&name),
            "deploy/config.toml should name {name}"
        );
    }
}

#[test]
fn the_kernel_takes_the_program_and_answers_by_it() {
    use rustix::mount::{MoveMountFlags, move_mount};
    use rustix::net::{AddressFamily, SocketType, socket};
    let base = program(&[]);
    // A filter holds for the thread that installs it.
    let thread = std::thread::Builder::new().spawn(move || {
        rustix::thread::set_no_new_privs(true).unwrap();
        crate::sys::seccomp::install(&base.filter, base.flags).unwrap();
        let beneath = MoveMountFlags::MOVE_MOUNT_BENEATH;
        let moved = move_mount(rustix::fs::CWD, "/", rustix::fs::CWD, "/", beneath);
        let vsock = socket(AddressFamily::from_raw(40), SocketType::STREAM, None);
        let plain = socket(AddressFamily::UNIX, SocketType::STREAM, None);
        (moved, vsock.map(drop), plain.map(drop))
    });
    let (moved, vsock, plain) = thread.unwrap().join().unwrap();
    assert_eq!(moved, Err(rustix::io::Errno::INVAL));
    assert_eq!(vsock, Err(rustix::io::Errno::AFNOSUPPORT));
    assert_eq!(plain, Ok(()));
}
