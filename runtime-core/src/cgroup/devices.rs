//! The device policy: rules compiled to an eBPF program of type BPF_PROG_TYPE_CGROUP_DEVICE, attached to the container's
//! directory (bpf(2), Documentation/admin-guide/cgroup-v2.rst "Device controller").
//!
//! It is attached from outside with BPF_F_ALLOW_MULTI: whatever the container attaches below can only take away.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::io::Errno;

use super::Cgroup;
use super::limits::DeviceRule;
use crate::error::{Error, Result};
use crate::sys::bpf::{self, Instruction};

/// The program of the cgroup that was made last, if that still exists: the containers of a pod mostly have the same policy, and
/// the kernel takes longer to verify and translate it than for all else of a cgroup.
#[derive(Debug, Default)]
pub(crate) struct Programs(Mutex<Option<(Vec<DeviceRule>, Weak<OwnedFd>)>>);

impl Programs {
    /// The program of `rules`, for `cgroup`.
    pub(super) fn of(&self, rules: &[DeviceRule], cgroup: &Cgroup) -> Result<Arc<OwnedFd>> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, program)) = &*last
            && known == rules
            && let Some(program) = program.upgrade()
        {
            return Ok(program);
        }
        let program = Arc::new(cgroup.load(rules)?);
        *last = Some((rules.to_vec(), Arc::downgrade(&program)));
        Ok(program)
    }
}

/// What a host lacks where it is refused.
const FEATURE: &str = "the device policy (linux.resources.devices)";

/// Bits of `access_type >> 16` (BPF_DEVCG_ACC_* of linux/bpf.h), by the runtime spec's letters.
const ACCESS: [(char, i32); 3] = [('m', 1), ('r', 2), ('w', 4)];
const EVERY_ACCESS: i32 = 7;
/// Types in the low half of `access_type` (BPF_DEVCG_DEV_*).
const BLOCK: i32 = 1;
const CHAR: i32 = 2;

impl Cgroup {
    /// Puts the policy in force, in the place of the one set before, without a gap. Later rules win, and what no rule
    /// speaks of is denied.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where this host cannot attach a program: a container whose policy is not in force is
    /// refused, because device nodes of its image would be open to it. [`Error::Invalid`] for more rules than the kernel
    /// takes.
    pub fn set_devices(&self, rules: &[DeviceRule]) -> Result<()> {
        self.set_program(Arc::new(self.load(rules)?))
    }

    fn load(&self, rules: &[DeviceRule]) -> Result<OwnedFd> {
        bpf::load_device_program(&compile(rules)?)
            .map_err(|error| self.why_not_loaded(rules, error))
    }

    pub(super) fn set_program(&self, program: Arc<OwnedFd>) -> Result<()> {
        let mut current = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        bpf::attach_device_program(
            self.dir.as_fd(),
            program.as_fd(),
            current.as_ref().map(AsFd::as_fd),
        )
        .map_err(|error| self.why_not_attached(error))?;
        *current = Some(program);
        Ok(())
    }

    fn why_not_attached(&self, error: Errno) -> Error {
        let source = std::io::Error::from(error);
        match error {
            Errno::PERM | Errno::INVAL => Error::Unsupported {
                feature: FEATURE.into(),
                needs: format!(
                    "CAP_NET_ADMIN, and above {} no cgroup whose own device program allows no further one: see \
                     `bpftool cgroup tree` ({source})",
                    self.path.display()
                ),
            },
            _ => Error::Os {
                op: "attach device program to",
                target: self.path.display().to_string(),
                source,
            },
        }
    }

    fn why_not_loaded(&self, rules: &[DeviceRule], error: Errno) -> Error {
        let source = std::io::Error::from(error);
        match error {
            // EINVAL: the kernel has no such programs; one of ours is never malformed.
            Errno::PERM | Errno::NOSYS | Errno::INVAL => Error::Unsupported {
                feature: FEATURE.into(),
                needs: format!(
                    "a kernel with CONFIG_CGROUP_BPF, and bpf(2) not denied to containerd's service by capabilities \
                     (CAP_BPF, CAP_NET_ADMIN), a system call filter or lockdown ({source})"
                ),
            },
            Errno::TOOBIG => Error::invalid(
                "linux.resources.devices",
                format!("{} rules", rules.len()),
                "the kernel does not take that many; name devices by wildcard",
            ),
            _ => Error::Os {
                op: "load device program for",
                target: self.path.display().to_string(),
                source,
            },
        }
    }
}

/// The program: R2 type, R3 major, R4 minor, R5 those requested accesses that no rule has decided yet; R0 and R1 scratch.
/// Rules run from the last; a matching one decides the accesses it names. A denied access denies the request; it is
/// allowed once nothing is undecided. So `deny w` after `allow rwm` denies opening for both reading and writing.
fn compile(rules: &[DeviceRule]) -> Result<Vec<Instruction>> {
    use bpf::Register::{R0, R1, R2, R3, R4, R5};
    // struct bpf_cgroup_dev_ctx { u32 access_type, major, minor; }
    let mut code = vec![
        Instruction::load_word(R2, R1, 0),
        Instruction::load_word(R3, R1, 4),
        Instruction::load_word(R4, R1, 8),
        Instruction::mov(R5, R2),
        Instruction::shift_right(R5, 16),
        Instruction::and(R2, 0xffff),
    ];
    // Those that decide all accesses of the same devices as an earlier one: engines repeat what every container has.
    let mut settled = HashSet::new();
    for (index, rule) in rules.iter().enumerate().rev() {
        let kind = match rule.kind {
            'a' => None,
            'b' => Some(BLOCK),
            'c' => Some(CHAR),
            other => return Err(invalid(index, "type", other)),
        };
        let mut access = 0;
        for letter in rule.access.chars() {
            match ACCESS.iter().find(|(known, _)| *known == letter) {
                Some((_, bit)) => access |= bit,
                None => return Err(invalid(index, "access", &rule.access)),
            }
        }
        let all = access == EVERY_ACCESS;
        if settled.contains(&(kind, rule.major, rule.minor)) {
            continue;
        }
        if all {
            settled.insert((kind, rule.major, rule.minor));
        }
        let verdict = [Instruction::set(R0, rule.allow.into()), Instruction::exit()];
        // Something is undecided still, so a rule on all accesses ends it.
        let body = match (all, rule.allow) {
            (true, _) => verdict.to_vec(),
            (false, true) => [
                &[
                    Instruction::and(R5, !access),
                    Instruction::jump_if_not_equal(R5, 0, 2),
                ],
                &verdict[..],
            ]
            .concat(),
            (false, false) => [
                &[
                    Instruction::mov(R1, R5),
                    Instruction::and(R1, access),
                    Instruction::jump_if_equal(R1, 0, 2),
                ],
                &verdict[..],
            ]
            .concat(),
        };
        // One comparison of all, on a copy: the verifier would take what a branch tells of a register along and follow
        // every rule's match through all the others, which is too much for it from some hundred rules on.
        let conditions = [
            (R2, kind),
            (R3, rule.major.map(u32::cast_signed)),
            (R4, rule.minor.map(u32::cast_signed)),
        ];
        let mut differs = R1;
        for (register, wanted) in conditions {
            if let Some(wanted) = wanted {
                code.push(Instruction::mov(differs, register));
                code.push(Instruction::xor(differs, wanted));
                if differs == R0 {
                    code.push(Instruction::or(R1, R0));
                }
                differs = R0;
            }
        }
        if differs == R0 {
            let over = i16::try_from(body.len()).unwrap_or_default();
            code.push(Instruction::jump_if_not_equal(R1, 0, over));
        }
        code.extend(body);
        if differs == R1 && all {
            // It speaks of everything: no earlier rule counts, and the verifier wants no code that nothing reaches.
            return Ok(code);
        }
    }
    code.extend([Instruction::set(R0, 0), Instruction::exit()]);
    Ok(code)
}

fn invalid(index: usize, key: &str, value: impl ToString) -> Error {
    Error::invalid(
        format!("linux.resources.devices[{index}].{key}"),
        value,
        "the type is one of a, b, c; the access is made of r, w, m",
    )
}
