//! Overrides of one container: annotations `io.containerd.sysbox.<key>` that the file allows by name.
//!
//! Whoever may create a pod may set annotations, so none is honoured unless the operator lists it, and what we do not
//! honour is an error: a setting that is ignored would look as if it held.

use toml::Value;

use super::Config;
use crate::error::{Error, Result};

/// Every annotation of ours begins with this; all others are somebody else's.
pub(crate) const PREFIX: &str = "io.containerd.sysbox.";

/// Keys that an annotation may override where the file allows it. The pool of ids and the paths on the host are the
/// operator's alone.
const OVERRIDABLE: &[&str] = &[
    "cgroup.max-depth",
    "cgroup.max-descendants",
    "data-roots",
    "devices.fuse",
    "dropped-capabilities",
    "ids.per-pod",
    "relaxed-read-only",
    "seccomp.allow",
    "unmappable-mount",
];

impl Config {
    /// This configuration with the annotations of a container applied. Lists are separated by commas.
    ///
    /// Errors: [`Error::Invalid`] names an annotation below [`PREFIX`] that does not exist, is not allowed, or has a
    /// bad value.
    pub fn with_annotations<'a>(
        &self,
        annotations: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Config> {
        let mut ours: Vec<_> = annotations
            .into_iter()
            .filter(|(name, _)| name.starts_with(PREFIX))
            .collect();
        // A map has no order, the error should have one.
        ours.sort_unstable();
        let mut config = self.clone();
        for (name, text) in ours {
            let refuse =
                |remedy: String| Error::invalid(format!("annotations.{name}"), text, remedy);
            let key = key_of(name).ok_or_else(|| {
                let names: Vec<String> = names().collect();
                refuse(format!(
                    "no such annotation; there are {}",
                    names.join(", ")
                ))
            })?;
            if !self.annotations.iter().any(|allowed| allowed == name) {
                return Err(refuse(
                    "not allowed on this host: its administrator must add it to `annotations` of the configuration".into(),
                ));
            }
            let path: Vec<&str> = key.split('.').collect();
            let value = self.parse_like(&path, text);
            config = config
                .with_leaves([(path, value)])
                .map_err(|error| match error {
                    Error::Invalid { remedy, .. } => refuse(remedy),
                    other => other,
                })?;
        }
        Ok(config)
    }

    /// The text as the type that the key has now; a text that does not fit stays text, and fails as such.
    fn parse_like(&self, path: &[&str], text: &str) -> Value {
        let table = Value::Table(self.to_table());
        let present = path.iter().try_fold(&table, |value, part| value.get(part));
        match present {
            Some(Value::Integer(_)) => text
                .parse()
                .map_or_else(|_| Value::String(text.into()), Value::Integer),
            Some(Value::Boolean(_)) => text
                .parse()
                .map_or_else(|_| Value::String(text.into()), Value::Boolean),
            Some(Value::Array(_)) => text
                .split(',')
                .filter(|item| !item.is_empty())
                .map(Value::from)
                .collect::<Vec<_>>()
                .into(),
            _ => Value::String(text.into()),
        }
    }
}

/// The key that the annotation `name` overrides.
pub(super) fn key_of(name: &str) -> Option<&str> {
    name.strip_prefix(PREFIX)
        .filter(|key| OVERRIDABLE.contains(key))
}

/// Full names of all annotations.
pub(super) fn names() -> impl Iterator<Item = String> {
    OVERRIDABLE.iter().map(|key| format!("{PREFIX}{key}"))
}

#[cfg(test)]
mod tests {
    use super::super::{Barred, CgroupConfig, Ids, OnDropped, OnUnmappable, Seccomp};
    use super::*;

    fn allowing(names: &[&str]) -> Config {
        let config = Config {
            annotations: names.iter().map(|key| format!("{PREFIX}{key}")).collect(),
            ..Config::default()
        };
        config.validate().unwrap();
        config
    }

    #[test]
    fn allowed_annotations_override_what_the_file_says() {
        let file = allowing(OVERRIDABLE);
        let config = file
            .with_annotations([
                ("io.containerd.sysbox.cgroup.max-depth", "20"),
                ("io.containerd.sysbox.cgroup.max-descendants", "100"),
                ("io.containerd.sysbox.data-roots", "/a,/b"),
                ("io.containerd.sysbox.dropped-capabilities", "drop"),
                ("io.containerd.sysbox.ids.per-pod", "131072"),
                ("io.containerd.sysbox.seccomp.allow", "io-uring,vsock"),
                ("io.containerd.sysbox.unmappable-mount", "error"),
                ("io.kubernetes.cri.container-type", "container"),
            ])
            .unwrap();
        let expected = Config {
            ids: Ids {
                per_pod: 131_072,
                ..Ids::default()
            },
            cgroup: CgroupConfig {
                max_depth: 20,
                max_descendants: 100,
            },
            data_roots: vec!["/a".into(), "/b".into()],
            seccomp: Seccomp {
                allow: vec![Barred::IoUring, Barred::Vsock],
            },
            dropped_capabilities: OnDropped::Drop,
            unmappable_mount: OnUnmappable::Error,
            ..file
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn a_list_can_be_emptied() {
        let config = allowing(&["data-roots"])
            .with_annotations([("io.containerd.sysbox.data-roots", "")])
            .unwrap();
        assert!(config.data_roots.is_empty());
    }

    #[test]
    fn annotations_of_others_are_no_matter_of_ours() {
        let config = Config::default();
        let unchanged = config
            .with_annotations([("io.containerd.sysboxes", "x"), ("run.oci.handler", "y")])
            .unwrap();
        assert_eq!(unchanged, config);
    }

    #[test]
    fn what_is_not_honoured_is_refused_by_name() {
        let depth = "io.containerd.sysbox.cgroup.max-depth";
        for (allowed, name, value, expected) in [
            (
                &[][..],
                depth,
                "20",
                "annotations.io.containerd.sysbox.cgroup.max-depth: 20: not allowed on this host",
            ),
            (
                &["data-roots"],
                depth,
                "20",
                "annotations.io.containerd.sysbox.cgroup.max-depth: 20: not allowed on this host",
            ),
            (
                OVERRIDABLE,
                "io.containerd.sysbox.state-dir",
                "/tmp",
                "annotations.io.containerd.sysbox.state-dir: /tmp: no such annotation; there are io.containerd.sysbox.",
            ),
            (
                OVERRIDABLE,
                "io.containerd.sysbox.annotations",
                "x",
                "annotations.io.containerd.sysbox.annotations: x: no such annotation",
            ),
            (
                OVERRIDABLE,
                depth,
                "deep",
                "annotations.io.containerd.sysbox.cgroup.max-depth: deep: invalid type: string \"deep\", expected u32",
            ),
            (
                OVERRIDABLE,
                depth,
                "1",
                "annotations.io.containerd.sysbox.cgroup.max-depth: 1: must be 6 to",
            ),
            (
                OVERRIDABLE,
                "io.containerd.sysbox.data-roots",
                "/a,b",
                "annotations.io.containerd.sysbox.data-roots: /a,b: must be an absolute path",
            ),
        ] {
            let error = allowing(allowed)
                .with_annotations([(name, value)])
                .unwrap_err()
                .to_string();
            assert!(error.starts_with(expected), "{error}\nwanted {expected}");
        }
    }
}
