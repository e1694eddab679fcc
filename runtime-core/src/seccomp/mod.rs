//! `linux.seccomp` as a filter program (seccomp(2)), widened to what system containers need.
//!
//! [`profile`] decides which rules hold; libseccomp compiles those on system calls that it knows; [`prologue`] puts a
//! few instructions before its program, for system calls newer than libseccomp. [`cache`] keeps what libseccomp made. [`base`]
//! is a filter of ours that lies under it, whatever the spec says, [`listed`] one for a process of ours.

mod assembler;
mod barred;
pub(crate) mod base;
mod cache;
pub(crate) mod listed;
mod profile;
mod prologue;
mod syscalls;

use std::io::{Read, Seek};
use std::path::Path;

use libseccomp::{ScmpAction, ScmpArch, ScmpFilterContext, ScmpSyscall};
use oci_spec::runtime as oci;
use serde::{Deserialize, Serialize};

use crate::error::{Error, OsContext, Result, Warning};
use assembler::{Assembler, Instruction};
use cache::Entry;
use profile::{Profile, Rule};

/// A compiled seccomp filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SeccompProgram {
    /// `struct sock_filter[]`, 8 bytes an instruction, native byte order.
    pub filter: Vec<u8>,
    /// SECCOMP_FILTER_FLAG_* for seccomp(2).
    pub flags: u32,
}

impl From<Assembler> for SeccompProgram {
    fn from(program: Assembler) -> SeccompProgram {
        SeccompProgram {
            filter: program
                .finish()
                .iter()
                .flat_map(|instruction| instruction.to_bytes())
                .collect(),
            // As runc: a filter is no reason to switch off speculation.
            flags: libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32,
        }
    }
}

/// Most instructions that the kernel takes (BPF_MAXINSNS, linux/bpf_common.h).
const MAX_INSTRUCTIONS: usize = 4096;

/// Compiles a profile. The program holds for all architectures that the profile lists and for the native one; system
/// calls of any other are answered by SIGSYS.
///
/// `cache` is a directory of ours where what libseccomp compiled is kept; with none this is pure.
///
/// # Errors
/// [`Error::Invalid`] names what of the profile is malformed or not supported.
pub(crate) fn compile(
    given: &oci::LinuxSeccomp,
    cache: Option<&Path>,
) -> Result<(SeccompProgram, Vec<Warning>)> {
    let mut warnings = Vec::new();
    let profile = Profile::new(given, &mut warnings)?;
    let mut filter = ScmpFilterContext::new(profile.default).map_err(library)?;
    let mut architectures = vec![ScmpArch::native()];
    for (i, name) in profile.architectures.iter().enumerate() {
        match architecture(*name) {
            // libseccomp takes each once, and the native one is there.
            Some(arch) if architectures.contains(&arch) || arch == ScmpArch::Native => {}
            Some(arch) if filter.add_arch(arch).is_ok() => architectures.push(arch),
            _ => warnings.push(Warning::new(
                format!("linux.seccomp.architectures[{i}]"),
                format!(
                    "{name} is left out, its programs will not run: not in libseccomp; remove it"
                ),
            )),
        }
    }
    let (known, newer): (Vec<_>, Vec<_>) = profile
        .rules
        .iter()
        .map(|rule| (rule, ScmpSyscall::from_name(&rule.name).ok()))
        .partition(|(_, syscall)| syscall.is_some());
    let entry = cache.and_then(|dir| Entry::new(dir, &profile, &architectures));
    let program = match entry.as_ref().and_then(Entry::read) {
        Some(program) => program,
        None => {
            for (rule, syscall) in known {
                if let Some(syscall) = syscall {
                    add(&mut filter, syscall, rule).map_err(library)?;
                }
            }
            let program = export(&filter)?;
            if let Some(entry) = entry {
                entry.write(&program);
            }
            program
        }
    };
    let newer: Vec<&Rule> = newer.into_iter().map(|(rule, _)| rule).collect();
    let verdicts = profile::by_number(&newer, &mut warnings)?;
    let mut code = prologue::prologue(&profile, &architectures, &verdicts);
    code.extend(
        program
            .as_chunks()
            .0
            .iter()
            .copied()
            .map(Instruction::from_bytes),
    );
    if code.len() > MAX_INSTRUCTIONS {
        return Err(Error::invalid(
            "linux.seccomp",
            format!("a program of {} instructions", code.len()),
            format!("give fewer rules: the kernel takes {MAX_INSTRUCTIONS} instructions"),
        ));
    }
    let filter = code.iter().flat_map(|i| i.to_bytes()).collect();
    let flags = profile.flags;
    Ok((SeccompProgram { filter, flags }, warnings))
}

/// Adds a rule; its conditions all have to hold, but several on one argument are alternatives, which libseccomp takes
/// only one by one (as runc does).
fn add(
    filter: &mut ScmpFilterContext,
    syscall: ScmpSyscall,
    rule: &Rule,
) -> Result<(), libseccomp::error::SeccompError> {
    let alternatives = rule.conditions.iter().enumerate().any(|(i, c)| {
        rule.conditions[..i]
            .iter()
            .any(|other| other.argument == c.argument)
    });
    if rule.conditions.is_empty() {
        filter.add_rule(rule.action, syscall)?;
    } else if alternatives {
        for condition in &rule.conditions {
            filter.add_rule_conditional(rule.action, syscall, &[condition.compare()])?;
        }
    } else {
        let all: Vec<_> = rule.conditions.iter().map(|c| c.compare()).collect();
        filter.add_rule_conditional(rule.action, syscall, &all)?;
    }
    Ok(())
}

/// libseccomp's program. It can write it to a descriptor only: a file in memory.
fn export(filter: &ScmpFilterContext) -> Result<Vec<u8>> {
    let fd = rustix::fs::memfd_create("seccomp", rustix::fs::MemfdFlags::CLOEXEC)
        .os("create memory file for", "the seccomp program")?;
    filter.export_bpf(&fd).map_err(library)?;
    let mut file = std::fs::File::from(fd);
    let mut bytes = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut bytes))
        .os("read", "the seccomp program")?;
    Ok(bytes)
}

fn library(error: libseccomp::error::SeccompError) -> Error {
    Error::Os {
        op: "compile by libseccomp",
        target: "linux.seccomp".into(),
        source: std::io::Error::other(error),
    }
}

/// libseccomp's name of an architecture.
fn architecture(arch: oci::Arch) -> Option<ScmpArch> {
    Some(match arch {
        oci::Arch::ScmpArchNative => ScmpArch::Native,
        oci::Arch::ScmpArchX86 => ScmpArch::X86,
        oci::Arch::ScmpArchX86_64 => ScmpArch::X8664,
        oci::Arch::ScmpArchX32 => ScmpArch::X32,
        oci::Arch::ScmpArchArm => ScmpArch::Arm,
        oci::Arch::ScmpArchAarch64 => ScmpArch::Aarch64,
        oci::Arch::ScmpArchMips => ScmpArch::Mips,
        oci::Arch::ScmpArchMips64 => ScmpArch::Mips64,
        oci::Arch::ScmpArchMips64n32 => ScmpArch::Mips64N32,
        oci::Arch::ScmpArchMipsel => ScmpArch::Mipsel,
        oci::Arch::ScmpArchMipsel64 => ScmpArch::Mipsel64,
        oci::Arch::ScmpArchMipsel64n32 => ScmpArch::Mipsel64N32,
        oci::Arch::ScmpArchPpc => ScmpArch::Ppc,
        oci::Arch::ScmpArchPpc64 => ScmpArch::Ppc64,
        oci::Arch::ScmpArchPpc64le => ScmpArch::Ppc64Le,
        oci::Arch::ScmpArchS390 => ScmpArch::S390,
        oci::Arch::ScmpArchS390x => ScmpArch::S390X,
        oci::Arch::ScmpArchParisc => ScmpArch::Parisc,
        oci::Arch::ScmpArchParisc64 => ScmpArch::Parisc64,
        oci::Arch::ScmpArchRiscv64 => ScmpArch::Riscv64,
        oci::Arch::ScmpArchLoongarch64
        | oci::Arch::ScmpArchM68k
        | oci::Arch::ScmpArchSh
        | oci::Arch::ScmpArchSheb => return None,
    })
}

/// Whether an action lets the system call happen.
fn allows(action: ScmpAction) -> bool {
    matches!(
        action,
        ScmpAction::Allow | ScmpAction::Log | ScmpAction::Trace(_)
    )
}

#[cfg(test)]
mod base_tests;
#[cfg(test)]
mod tests;
