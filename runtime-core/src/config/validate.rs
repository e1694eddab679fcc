//! The ranges of each key.

use super::{Config, annotations};
use crate::error::{Error, Result};

/// What distributions use as user ids, nobody (65534) included.
const IDS_OF_A_HOST: u32 = 1 << 16;

/// `uid_t` -1 means "no id" to every system call, so the last id is one less.
const IDS_OF_THE_KERNEL: u64 = u32::MAX as u64;

/// systemd alone makes about 40 control groups at boot, and five levels for a user's service.
const MIN_DESCENDANTS: u32 = 64;
const MIN_DEPTH: u32 = 6;

/// The kernel parses both as `int` (kernel/cgroup/cgroup.c, `cgroup_max_descendants_write`).
const MAX_LIMIT: u32 = i32::MAX.cast_unsigned();

/// A socket below the directory must fit `sockaddr_un.sun_path`, 108 bytes.
const MAX_STATE_DIR: usize = 40;

impl Config {
    /// Checks every value; the error names key, value and remedy.
    pub fn validate(&self) -> Result<()> {
        self.validate_ids()?;
        self.validate_cgroup()?;
        self.validate_data_roots()?;
        clean_path("state-dir", &self.state_dir)?;
        if self.state_dir.len() > MAX_STATE_DIR {
            return Err(Error::invalid(
                "state-dir",
                &self.state_dir,
                format!("must be at most {MAX_STATE_DIR} bytes long, since it holds sockets"),
            ));
        }
        for name in &self.annotations {
            annotations::key_of(name).ok_or_else(|| {
                Error::invalid(
                    "annotations",
                    name,
                    format!(
                        "no such annotation; there are {}",
                        annotations::names().collect::<Vec<_>>().join(", ")
                    ),
                )
            })?;
        }
        Ok(())
    }

    fn validate_ids(&self) -> Result<()> {
        let ids = &self.ids;
        if ids.first < IDS_OF_A_HOST {
            return Err(Error::invalid(
                "ids.first",
                ids.first,
                "must be at least 65536: the ids below are the host's own users",
            ));
        }
        if !ids.first.is_multiple_of(IDS_OF_A_HOST) {
            return Err(Error::invalid(
                "ids.first",
                ids.first,
                "must be a multiple of 65536",
            ));
        }
        if u64::from(ids.first) + u64::from(ids.count) > IDS_OF_THE_KERNEL {
            return Err(Error::invalid(
                "ids.count",
                ids.count,
                format!(
                    "must be at most {}: the last id of the kernel is 4294967294",
                    IDS_OF_THE_KERNEL - u64::from(ids.first)
                ),
            ));
        }
        if ids.per_pod < IDS_OF_A_HOST {
            return Err(Error::invalid(
                "ids.per-pod",
                ids.per_pod,
                "must be at least 65536, the ids that distributions use",
            ));
        }
        if !ids.per_pod.is_multiple_of(IDS_OF_A_HOST) {
            return Err(Error::invalid(
                "ids.per-pod",
                ids.per_pod,
                "must be a multiple of 65536",
            ));
        }
        if ids.count < ids.per_pod {
            return Err(Error::invalid(
                "ids.count",
                ids.count,
                format!("must hold one pod at least: ids.per-pod is {}", ids.per_pod),
            ));
        }
        Ok(())
    }

    fn validate_cgroup(&self) -> Result<()> {
        for (key, value, least) in [
            (
                "cgroup.max-descendants",
                self.cgroup.max_descendants,
                MIN_DESCENDANTS,
            ),
            ("cgroup.max-depth", self.cgroup.max_depth, MIN_DEPTH),
        ] {
            if !(least..=MAX_LIMIT).contains(&value) {
                return Err(Error::invalid(
                    key,
                    value,
                    format!(
                        "must be {least} to {MAX_LIMIT}; systemd and an engine inside need that many"
                    ),
                ));
            }
        }
        Ok(())
    }

    fn validate_data_roots(&self) -> Result<()> {
        for (i, path) in self.data_roots.iter().enumerate() {
            clean_path("data-roots", path)?;
            if let Some(own) = ["/proc", "/sys", "/dev"]
                .iter()
                .find(|own| is_within(path, own))
            {
                return Err(Error::invalid(
                    "data-roots",
                    path,
                    format!("must not lie in {own}, which the runtime mounts itself"),
                ));
            }
            for (j, other) in self.data_roots.iter().enumerate() {
                if i != j && is_within(path, other) {
                    return Err(Error::invalid(
                        "data-roots",
                        path,
                        format!("lies in {other}, which is listed too: leave one out"),
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Whether `path` is `parent` or below it.
fn is_within(path: &str, parent: &str) -> bool {
    path.strip_prefix(parent)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// An absolute path without anything to resolve, and not the root itself.
fn clean_path(key: &str, path: &str) -> Result<()> {
    let clean = path
        .strip_prefix('/')
        .is_some_and(|rest| rest.split('/').all(|part| !matches!(part, "" | "." | "..")));
    if clean && !path.contains('\0') {
        return Ok(());
    }
    Err(Error::invalid(
        key,
        path,
        "must be an absolute path without empty, `.` and `..` parts",
    ))
}

#[cfg(test)]
mod tests {
    use super::super::Ids;
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        Config::default().validate().unwrap();
    }

    #[test]
    fn a_value_out_of_range_is_named_with_its_remedy() {
        type Change = fn(&mut Config);
        let table: &[(Change, &str)] = &[
            (
                |c| c.ids.first = 0,
                "ids.first: 0: must be at least 65536: ",
            ),
            (
                |c| c.ids.first = 65535,
                "ids.first: 65535: must be at least 65536: ",
            ),
            (
                |c| c.ids.first = 100_000,
                "ids.first: 100000: must be a multiple of 65536",
            ),
            (
                |c| c.ids.count = 3_221_225_472,
                "ids.count: 3221225472: must be at most 3221225471: ",
            ),
            (
                |c| c.ids.count = 0,
                "ids.count: 0: must hold one pod at least: ids.per-pod is 1048576",
            ),
            (
                |c| c.ids.count = 262_143,
                "ids.count: 262143: must hold one pod",
            ),
            (
                |c| c.ids.per_pod = 0,
                "ids.per-pod: 0: must be at least 65536",
            ),
            (
                |c| c.ids.per_pod = 65535,
                "ids.per-pod: 65535: must be at least 65536",
            ),
            (
                |c| c.ids.per_pod = 65537,
                "ids.per-pod: 65537: must be a multiple of 65536",
            ),
            (
                |c| c.cgroup.max_descendants = 63,
                "cgroup.max-descendants: 63: must be 64 to 2147483647",
            ),
            (
                |c| c.cgroup.max_descendants = 1 << 31,
                "cgroup.max-descendants: 2147483648: must be 64",
            ),
            (
                |c| c.cgroup.max_depth = 5,
                "cgroup.max-depth: 5: must be 6 to 2147483647",
            ),
            (
                |c| c.data_roots = vec!["var/lib".into()],
                "data-roots: var/lib: must be an absolute path",
            ),
            (
                |c| c.data_roots = vec!["/".into()],
                "data-roots: /: must be an absolute path",
            ),
            (
                |c| c.data_roots = vec!["/a/".into()],
                "data-roots: /a/: must be an absolute path",
            ),
            (
                |c| c.data_roots = vec!["/a/../b".into()],
                "data-roots: /a/../b: must be an absolute path",
            ),
            (
                |c| c.data_roots = vec!["/a/./b".into()],
                "data-roots: /a/./b: must be an absolute path",
            ),
            (
                |c| c.data_roots = vec!["/a\0b".into()],
                "data-roots: /a\0b: must be an absolute path",
            ),
            (
                |c| c.data_roots = vec!["".into()],
                "data-roots: : must be an absolute path",
            ),
            (
                |c| c.data_roots = vec!["/proc/x".into()],
                "data-roots: /proc/x: must not lie in /proc",
            ),
            (
                |c| c.data_roots = vec!["/dev".into()],
                "data-roots: /dev: must not lie in /dev",
            ),
            (
                |c| c.data_roots = vec!["/a/b".into(), "/a".into()],
                "data-roots: /a/b: lies in /a",
            ),
            (
                |c| c.data_roots = vec!["/a".into(), "/a".into()],
                "data-roots: /a: lies in /a",
            ),
            (
                |c| c.state_dir = "run".into(),
                "state-dir: run: must be an absolute path",
            ),
            (
                |c| c.state_dir = format!("/{}", "x".repeat(40)),
                "state-dir: /xxxx",
            ),
            (
                |c| c.annotations = vec!["io.containerd.sysbox.state-dir".into()],
                "annotations: io.containerd.sysbox.state-dir: no such annotation; there are io.containerd.sysbox.",
            ),
            (
                |c| c.annotations = vec!["cgroup.max-depth".into()],
                "annotations: cgroup.max-depth: no such annotation; ",
            ),
        ];
        for (change, expected) in table {
            let mut config = Config::default();
            change(&mut config);
            let error = config.validate().unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}\nwanted {expected}");
        }
    }

    #[test]
    fn the_edges_of_each_range_are_valid() {
        type Change = fn(&mut Config);
        let table: &[Change] = &[
            |c| {
                c.ids = Ids {
                    first: 65536,
                    count: 65536,
                    per_pod: 65536,
                }
            },
            |c| c.ids.count = 3_221_225_471,
            |c| c.cgroup.max_descendants = 64,
            |c| c.cgroup.max_descendants = i32::MAX as u32,
            |c| c.cgroup.max_depth = 6,
            |c| c.data_roots = vec![],
            |c| c.data_roots = vec!["/a".into(), "/ab".into()],
            |c| c.data_roots = vec!["/process".into()],
            |c| c.state_dir = format!("/{}", "x".repeat(39)),
            |c| c.annotations = vec!["io.containerd.sysbox.cgroup.max-depth".into()],
        ];
        for change in table {
            let mut config = Config::default();
            change(&mut config);
            config.validate().unwrap();
        }
    }
}
