//! `linux.maskedPaths` and `linux.readonlyPaths`, less what a system container needs.

use super::text;
use crate::error::{Result, Warning};

/// Paths that engines mask by default and that stay visible, as with Sysbox: inner engines, systemd and tools use them,
/// and in a user namespace the kernel itself refuses what is dangerous there.
const NEVER_MASKED: [&str; 5] = [
    "/proc",
    "/proc/sys",
    "/proc/kcore",
    "/proc/kallsyms",
    "/proc/kmsg",
];

/// Paths that engines make read-only by default and that stay writable: sysctls of the container's own namespaces.
const NEVER_READONLY: [&str; 2] = ["/proc", "/proc/sys"];

/// Where systemd mounts: covered neither way.
const OF_SYSTEMD: [&str; 3] = ["/run", "/run/lock", "/tmp"];

/// Most paths of each list.
const MAX_PATHS: usize = 10_000;

/// `linux.maskedPaths`.
pub(super) fn masked(given: &[String], warnings: &mut Vec<Warning>) -> Result<Vec<String>> {
    reduced("linux.maskedPaths", given, &NEVER_MASKED, warnings)
}

/// `linux.readonlyPaths`.
pub(super) fn readonly(given: &[String], warnings: &mut Vec<Warning>) -> Result<Vec<String>> {
    reduced("linux.readonlyPaths", given, &NEVER_READONLY, warnings)
}

/// Leaves out the `known` defaults silently, and with a warning what would break a system container.
fn reduced(
    field: &str,
    given: &[String],
    known: &[&str],
    warnings: &mut Vec<Warning>,
) -> Result<Vec<String>> {
    text::bounded(field, given, MAX_PATHS)?;
    let mut out = Vec::with_capacity(given.len());
    for (i, path) in given.iter().enumerate() {
        let path = text::absolute(&format!("{field}[{i}]"), path.as_ref())?;
        if known.contains(&path.as_str()) || OF_SYSTEMD.contains(&path.as_str()) {
            continue;
        }
        // A locked mount below /sys/kernel makes inner engines fail when they unmount what systemd mounts there.
        let needed = text::is_at_or_below(&path, "/sys/kernel")
            || text::is_at_or_below(&path, "/sys/fs/cgroup")
            || ["/", "/sys", "/sys/fs", "/dev"].contains(&path.as_str());
        if needed {
            warnings.push(Warning::new(
                field,
                format!(
                    "{path} stays as it is: a system container needs it; remove it from the list"
                ),
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
            &mut warnings,
        );
        assert_eq!(readonly.unwrap(), ["/proc/bus", "/proc/sysrq-trigger"]);
        assert_eq!(warnings, []);
    }

    #[test]
    fn what_system_containers_need_stays_with_a_warning() {
        let mut warnings = Vec::new();
        let out = masked(
            &list(&["/sys/kernel/debug", "/run", "/sys", "/dev", "/"]),
            &mut warnings,
        )
        .unwrap();
        assert!(out.is_empty());
        assert_eq!(warnings.len(), 4);
        assert!(warnings[0].text.contains("/sys/kernel/debug"));
        let out = readonly(&list(&["/sys/fs/cgroup", "/etc"]), &mut warnings).unwrap();
        assert_eq!(out, ["/etc"]);
        assert_eq!(warnings.len(), 5);
    }
}
