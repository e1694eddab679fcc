//! `linux.maskedPaths` and `linux.readonlyPaths`, less what a system container needs.

use super::text;
use crate::error::{Result, Warning};

/// What engines mask by default and what stays visible, as with Sysbox: in a user namespace the kernel itself refuses it.
const NEVER_MASKED: &str = "/proc/kcore";

/// What engines make read-only by default and what stays writable: sysctls of the container's own namespaces.
const NEVER_READONLY: &str = "/proc/sys";

/// Where systemd mounts: a container whose program it is needs them as they are.
const OF_SYSTEMD: [&str; 3] = ["/run", "/run/lock", "/tmp"];

/// Most paths of each list.
const MAX_PATHS: usize = 10_000;

/// `linux.maskedPaths`. `systemd`: whether it is the container's program.
pub(super) fn masked(
    given: &[String],
    systemd: bool,
    warnings: &mut Vec<Warning>,
) -> Result<Vec<String>> {
    reduced("linux.maskedPaths", given, NEVER_MASKED, systemd, warnings)
}

/// `linux.readonlyPaths`. `systemd`: whether it is the container's program.
pub(super) fn readonly(
    given: &[String],
    systemd: bool,
    warnings: &mut Vec<Warning>,
) -> Result<Vec<String>> {
    reduced(
        "linux.readonlyPaths",
        given,
        NEVER_READONLY,
        systemd,
        warnings,
    )
}

/// Leaves out the `known` default silently, and with a warning what would break a system container.
fn reduced(
    field: &str,
    given: &[String],
    known: &str,
    systemd: bool,
    warnings: &mut Vec<Warning>,
) -> Result<Vec<String>> {
    text::bounded(field, given, MAX_PATHS)?;
    let mut out = Vec::with_capacity(given.len());
    for (i, path) in given.iter().enumerate() {
        let path = text::absolute(&format!("{field}[{i}]"), path.as_ref())?;
        if path == known {
            continue;
        }
        // A locked mount below /sys/kernel makes inner engines fail when they unmount what systemd mounts there.
        let needed = text::is_at_or_below(&path, "/sys/kernel")
            || text::is_at_or_below(&path, "/sys/fs/cgroup")
            || ["/", "/proc", "/proc/sys", "/sys", "/sys/fs", "/dev"].contains(&path.as_str());
        let mounts = systemd && OF_SYSTEMD.contains(&path.as_str());
        if needed || mounts {
            let who = if needed {
                "a system container"
            } else {
                "systemd"
            };
            warnings.push(Warning::new(
                field,
                format!("{path} stays as it is: {who} needs it; remove it from the list"),
            ));
        } else if !out.contains(&path) {
            out.push(path);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(paths: &[&str]) -> Vec<String> {
        paths.iter().map(|p| p.to_string()).collect()
    }

    #[test]
    fn the_engines_default_lists() {
        let mut warnings = Vec::new();
        let masked = masked(
            &list(&[
                "/proc/acpi",
                "/proc/kcore",
                "/proc/keys",
                "/proc/timer_list",
                "/sys/firmware",
                "/proc/keys/",
            ]),
            true,
            &mut warnings,
        );
        assert_eq!(
            masked.unwrap(),
            [
                "/proc/acpi",
                "/proc/keys",
                "/proc/timer_list",
                "/sys/firmware"
            ]
        );
        let readonly = readonly(
            &list(&["/proc/bus", "/proc/sys", "/proc/sysrq-trigger"]),
            true,
            &mut warnings,
        );
        assert_eq!(readonly.unwrap(), ["/proc/bus", "/proc/sysrq-trigger"]);
        assert_eq!(warnings, []);
    }

    #[test]
    fn what_system_containers_need_stays_with_a_warning() {
        let mut warnings = Vec::new();
        let given = list(&["/sys/kernel/debug", "/proc/sys", "/sys", "/dev", "/"]);
        assert!(masked(&given, false, &mut warnings).unwrap().is_empty());
        assert_eq!(warnings.len(), 5);
        assert!(warnings[0].text.contains("/sys/kernel/debug"));
        let given = list(&["/sys/fs/cgroup", "/etc", "/proc"]);
        assert_eq!(readonly(&given, false, &mut warnings).unwrap(), ["/etc"]);
        assert_eq!(warnings.len(), 7);
    }

    #[test]
    fn where_systemd_mounts_it_is_covered_only_without_systemd() {
        let given = list(&["/run", "/run/lock/", "/tmp", "/run/x"]);
        for cover in [masked, readonly] {
            let mut warnings = Vec::new();
            let covered = cover(&given, false, &mut warnings).unwrap();
            assert_eq!(covered, ["/run", "/run/lock", "/tmp", "/run/x"]);
            assert_eq!(warnings, []);
            assert_eq!(cover(&given, true, &mut warnings).unwrap(), ["/run/x"]);
            let texts: Vec<_> = warnings.iter().map(|warning| &*warning.text).collect();
            assert_eq!(texts.len(), 3);
            assert!(texts[2].starts_with("/tmp stays as it is: systemd needs it"));
        }
    }
}
