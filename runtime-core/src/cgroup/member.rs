//! Whether a process is in a cgroup.

use std::path::Path;

/// Whether `process`, a directory of a procfs, is in the cgroup `relative` to the root of the hierarchy, or below.
pub(crate) fn is_member(process: &Path, relative: &str) -> bool {
    let text = std::fs::read_to_string(process.join("cgroup")).unwrap_or_default();
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"));
    path.is_some_and(|path| is_below(path, relative))
}

fn is_below(path: &str, cgroup: &str) -> bool {
    path.strip_prefix(cgroup)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ' ']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_holds_those_below_it_only() {
        assert!(is_below("default/c1", "default/c1"));
        assert!(is_below("default/c1/init.scope", "default/c1"));
        assert!(is_below("default/c1 (deleted)", "default/c1"));
        assert!(!is_below("default/c10", "default/c1"));
        assert!(!is_below("default", "default/c1"));
    }
}
