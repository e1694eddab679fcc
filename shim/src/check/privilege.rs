//! What we may do here.

use std::fs;

use super::Finding;

/// Capabilities without which create fails, by bit (linux/capability.h).
const REQUIRED: &[(u8, &str)] = &[
    (0, "chown"),
    (1, "dac_override"),
    (3, "fowner"),
    (5, "kill"),
    (6, "setgid"),
    (7, "setuid"),
    (8, "setpcap"),
    (18, "sys_chroot"),
    (19, "sys_ptrace"),
    (21, "sys_admin"),
    (27, "mknod"),
];

const SYS_RESOURCE: u8 = 24;

/// The user, in the host's own user namespace.
pub(super) fn root() -> Finding {
    const NAME: &str = "root";
    let uid = rustix::process::geteuid();
    if !uid.is_root() {
        return Finding::missing(
            NAME,
            format!("uid {}", uid.as_raw()),
            "run it as root; containerd does",
        );
    }
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    if !is_initial(&map) {
        return Finding::missing(
            NAME,
            "root of a user namespace, not of the host",
            "run containerd as root of the host: ranges of host ids are handed out to pods",
        );
    }
    Finding::ok(NAME, "of the host")
}

/// The effective set.
pub(super) fn capabilities() -> Finding {
    const NAME: &str = "capabilities";
    if !rustix::process::geteuid().is_root() {
        return Finding::needs_root(NAME);
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    judge_capabilities(NAME, effective(&status))
}

fn judge_capabilities(name: &'static str, set: u64) -> Finding {
    let has = |bit: u8| set & (1 << bit) != 0;
    let lacking: Vec<_> = REQUIRED
        .iter()
        .filter(|(bit, _)| !has(*bit))
        .map(|(_, name)| format!("cap_{name}"))
        .collect();
    if !lacking.is_empty() {
        return Finding::missing(
            name,
            format!("without {}", lacking.join(", ")),
            "give containerd's service all capabilities (CapabilityBoundingSet=)",
        );
    }
    if !has(SYS_RESOURCE) {
        return Finding::degraded(
            name,
            "without cap_sys_resource",
            "hard limits of open files and locked memory are not raised, nor OOM scores lowered; where a spec asks for it the container starts, with a warning",
            "give containerd's service CAP_SYS_RESOURCE",
        );
    }
    Finding::ok(name, "all that are needed")
}

/// The whole id space maps onto itself (user_namespaces(7)).
fn is_initial(uid_map: &str) -> bool {
    uid_map
        .split_ascii_whitespace()
        .eq(["0", "0", "4294967295"])
}

fn effective(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Status;
    use super::*;

    #[test]
    fn capabilities_are_judged_by_what_needs_them() {
        let all = u64::MAX >> 23;
        let judge = |set| {
            let finding = judge_capabilities("c", set);
            (finding.status, finding.detail)
        };
        assert_eq!(judge(all), (Status::Ok, "all that are needed".into()));
        assert_eq!(
            judge(all & !(1 << SYS_RESOURCE)),
            (Status::Degraded, "without cap_sys_resource".into())
        );
        assert_eq!(
            judge(all & !(1 << 21) & !(1 << 27)),
            (Status::Missing, "without cap_sys_admin, cap_mknod".into())
        );
    }

    #[test]
    fn kernel_texts_are_read() {
        assert_eq!(
            effective("Name:\tx\nCapEff:\t000001fffeffffff\n"),
            0x1ff_feff_ffff
        );
        assert_eq!(effective("Name:\tx\n"), 0);
        assert!(is_initial("         0          0 4294967295\n"));
        assert!(!is_initial("         0     100000      65536\n"));
    }
}
