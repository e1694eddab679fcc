//! From a TOML file, and TOML text in runtime options, to a checked [`Config`].

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use toml::{Table, Value};

use super::{Config, DEFAULT_PATH};
use crate::error::{Error, OsContext, Result};

const ROOT: u32 = 0;

/// A configuration is a page; more is a mistake that every shim would read.
const MAX_BYTES: u64 = 1 << 20;

impl Config {
    /// Reads the file at `path` over the defaults. Only the file at [`DEFAULT_PATH`] may be absent.
    ///
    /// Errors: [`Error::Os`] where it cannot be read; [`Error::Invalid`] where it is not a regular file that root alone
    /// can write, has an unknown key or a bad value.
    pub fn load(path: &Path) -> Result<Config> {
        load_owned_by(path, ROOT)
    }

    /// Parses TOML text over the defaults.
    pub fn from_toml_str(text: &str) -> Result<Config> {
        Config::default().override_with(text)
    }

    /// This configuration, the keys of the TOML `text` replaced: `config_body` of runtime options over the file.
    pub fn override_with(&self, text: &str) -> Result<Config> {
        let overrides: Table = text.parse().map_err(|e| syntax_error(text, &e))?;
        let mut leaves = Vec::new();
        collect_leaves(&overrides, &self.to_table(), &[], &mut leaves)?;
        self.with_leaves(leaves)
    }

    /// This configuration, each key path's value replaced.
    pub(super) fn with_leaves<'a>(
        &self,
        leaves: impl IntoIterator<Item = (Vec<&'a str>, Value)>,
    ) -> Result<Config> {
        let mut table = self.to_table();
        let mut config = self.clone();
        // One key at a time, so that the error names the key.
        for (path, value) in leaves {
            replace(&mut table, &path, value.clone());
            config = table
                .clone()
                .try_into()
                .map_err(|e| Error::invalid(dotted(&path), value, e.message()))?;
        }
        config.validate()?;
        Ok(config)
    }

    pub(super) fn to_table(&self) -> Table {
        Table::try_from(self).expect("integers, strings, lists and tables are TOML")
    }
}

fn load_owned_by(path: &Path, owner: u32) -> Result<Config> {
    let mut file = match open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound && path == Path::new(DEFAULT_PATH) => {
            return Ok(Config::default());
        }
        opened => opened.os("open configuration", path.display())?,
    };
    let metadata = file.metadata().os("stat", path.display())?;
    check_trusted(path, &metadata, owner)?;
    let mut text = String::new();
    file.by_ref()
        .take(MAX_BYTES + 1)
        .read_to_string(&mut text)
        .os("read configuration", path.display())?;
    if text.len() as u64 > MAX_BYTES {
        return Err(Error::invalid(
            path.display().to_string(),
            format!("{} bytes", metadata.len()),
            "too large for a configuration: at most 1 MiB",
        ));
    }
    Config::from_toml_str(&text).map_err(|error| error.in_file(path))
}

/// Opens without waiting: a fifo or device in its place must not hang the shim.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
}

/// Whoever can write this file decides over privileges on the host.
fn check_trusted(path: &Path, metadata: &Metadata, owner: u32) -> Result<()> {
    let name = path.display();
    let refuse =
        |value: String, remedy: String| Err(Error::invalid(name.to_string(), value, remedy));
    if !metadata.is_file() {
        return refuse(
            format!("file type {:o}", metadata.mode() & 0o170_000),
            "must be a regular file".into(),
        );
    }
    if metadata.uid() != owner {
        return refuse(
            format!("owner {}", metadata.uid()),
            format!("must belong to root: chown root {name}"),
        );
    }
    if metadata.mode() & 0o022 != 0 {
        return refuse(
            format!("mode {:04o}", metadata.mode() & 0o7777),
            format!("must not be writable by group or others: chmod go-w {name}"),
        );
    }
    Ok(())
}

/// Key paths and values of `overrides`; `known` has every key that exists.
fn collect_leaves<'a>(
    overrides: &'a Table,
    known: &Table,
    parents: &[&'a str],
    leaves: &mut Vec<(Vec<&'a str>, Value)>,
) -> Result<()> {
    for (key, value) in overrides {
        let mut path = parents.to_vec();
        path.push(key);
        match (known.get(key), value) {
            (Some(Value::Table(known)), Value::Table(section)) => {
                collect_leaves(section, known, &path, leaves)?;
            }
            (Some(_), value) => leaves.push((path, value.clone())),
            (None, value) => {
                let names: Vec<&str> = known.keys().map(String::as_str).collect();
                return Err(Error::invalid(
                    dotted(&path),
                    value,
                    format!("no such key; here are {}", names.join(", ")),
                ));
            }
        }
    }
    Ok(())
}

/// The key as TOML writes it: what is no bare key is quoted, so that an empty one is seen.
fn dotted(path: &[&str]) -> String {
    let bare = |key: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        !key.is_empty() && key.chars().all(plain)
    };
    let quoted = path.iter().map(|key| {
        if bare(key) {
            (*key).to_owned()
        } else {
            format!("{key:?}")
        }
    });
    quoted.collect::<Vec<_>>().join(".")
}

/// Puts `value` at `path`, whose parents exist.
fn replace(table: &mut Table, path: &[&str], value: Value) {
    match path {
        [key] => {
            table.insert((*key).to_owned(), value);
        }
        [section, rest @ ..] => {
            if let Some(Value::Table(section)) = table.get_mut(*section) {
                replace(section, rest, value);
            }
        }
        [] => {}
    }
}

fn syntax_error(text: &str, error: &toml::de::Error) -> Error {
    let at = error.span().map_or(0, |span| span.start).min(text.len());
    let before = &text.as_bytes()[..at];
    let number = before.iter().filter(|byte| **byte == b'\n').count();
    let line = text.lines().nth(number).unwrap_or_default().trim();
    Error::invalid(format!("line {}", number + 1), line, error.message())
}

impl Error {
    /// The same mistake, said to be in the file `path`.
    fn in_file(self, path: &Path) -> Error {
        match self {
            Error::Invalid {
                field,
                value,
                remedy,
            } => Error::Invalid {
                field: format!("{}: {field}", path.display()),
                value,
                remedy,
            },
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::super::{CgroupConfig, Ids, OnUnmappable};
    use super::*;

    /// A file of ours: tests need no root.
    struct Scratch(tempfile::TempDir);

    impl Scratch {
        fn new() -> Self {
            Scratch(tempfile::tempdir().unwrap())
        }

        fn file(&self, text: &str, mode: u32) -> PathBuf {
            let path = self.0.path().join("config.toml");
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            path
        }
    }

    fn load_own(path: &Path) -> Result<Config> {
        load_owned_by(path, rustix::process::geteuid().as_raw())
    }

    #[test]
    fn the_shipped_file_is_the_defaults_and_names_every_key() {
        let shipped = include_str!("../../../deploy/config.toml");
        assert_eq!(Config::from_toml_str(shipped).unwrap(), Config::default());

        fn names(table: &Table) -> Vec<&str> {
            table
                .iter()
                .flat_map(|(key, value)| match value {
                    Value::Table(section) => names(section),
                    _ => vec![key.as_str()],
                })
                .collect()
        }
        let set: Table = shipped.parse().unwrap();
        let mut set = names(&set);
        let all = Config::default().to_table();
        let mut all = names(&all);
        set.sort_unstable();
        all.sort_unstable();
        assert_eq!(set, all);
    }

    #[test]
    fn keys_that_are_set_replace_the_defaults_and_only_they() {
        let config = Config::from_toml_str(
            "unmappable-mount = 'error'\ndata-roots = ['/data']\n[ids]\nper-pod = 65536\n",
        )
        .unwrap();
        let expected = Config {
            ids: Ids {
                per_pod: 65536,
                ..Ids::default()
            },
            data_roots: vec!["/data".into()],
            unmappable_mount: OnUnmappable::Error,
            ..Config::default()
        };
        assert_eq!(config, expected);
        let overridden = config.override_with("[cgroup]\nmax-depth = 9").unwrap();
        let expected = Config {
            cgroup: CgroupConfig {
                max_depth: 9,
                ..CgroupConfig::default()
            },
            ..expected
        };
        assert_eq!(overridden, expected);
    }

    #[test]
    fn a_bad_text_is_named_by_key_value_and_remedy() {
        for (text, error) in [
            (
                "colour = 'red'",
                "colour: \"red\": no such key; here are annotations, cgroup, data-roots, devices, dropped-capabilities, environment, ids, network, pretend-missing, relaxed-read-only, seccomp, state-dir, unmappable-mount",
            ),
            (
                "[ids]\nfrist = 7",
                "ids.frist: 7: no such key; here are count, first, per-pod",
            ),
            (
                "[ids]\n\"\" = 7",
                "ids.\"\": 7: no such key; here are count, first, per-pod",
            ),
            (
                "[ids]\nfirst = -1",
                "ids.first: -1: invalid value: integer `-1`, expected u32",
            ),
            (
                "[ids]\nfirst = 1073741824\ncount = 'many'",
                "ids.count: \"many\": invalid type: string \"many\", expected u32",
            ),
            (
                "ids = 3",
                "ids: 3: invalid type: integer `3`, expected a section [ids]",
            ),
            (
                "unmappable-mount = 'ignore'",
                "unmappable-mount: \"ignore\": unknown variant `ignore`, expected `warn` or `error`",
            ),
            (
                "environment = 'image'",
                "environment: \"image\": unknown variant `image`, expected `honor` or `ignore`",
            ),
            (
                "pretend-missing = ['overlay']",
                "pretend-missing: [\"overlay\"]: unknown variant `overlay`, expected one of `fuse-control`, `overlay-append`, `overlay-descriptors`, `clone-detached`, `overlay-detached`, `proc-pidns`",
            ),
            (
                "[seccomp]\nallow = ['io_uring']",
                "seccomp.allow: [\"io_uring\"]: unknown variant `io_uring`, expected one of `terminal-input`, `vsock`, \
                 `rare-sockets`, `io-uring`, `mount-beneath`, `open-tree-namespace`, `userfaultfd`, `bpf`, \
                 `open-by-handle`, `kexec`",
            ),
            (
                "data-roots = '/x'",
                "data-roots: \"/x\": invalid type: string \"/x\", expected a sequence",
            ),
            (
                "[ids]\nper-pod = 1000",
                "ids.per-pod: 1000: must be at least 65536, the ids that distributions use",
            ),
        ] {
            assert_eq!(
                Config::from_toml_str(text).unwrap_err().to_string(),
                error,
                "{text}"
            );
        }
        let error = Config::from_toml_str("[ids]\nfirst = = 3\n").unwrap_err();
        assert!(
            error.to_string().starts_with("line 2: first = = 3: "),
            "{error}"
        );
    }

    #[test]
    fn only_the_default_file_may_be_absent() {
        let named = Path::new("/nonexistent/config.toml");
        let error = Config::load(named).unwrap_err().chain();
        assert_eq!(
            error,
            "open configuration /nonexistent/config.toml: No such file or directory (os error 2)"
        );
        if !Path::new(DEFAULT_PATH).exists() {
            let config = Config::load(Path::new(DEFAULT_PATH)).unwrap();
            assert_eq!(config, Config::default());
        }
    }

    #[test]
    fn a_file_is_read_and_its_mistakes_name_it() {
        let scratch = Scratch::new();
        let path = scratch.file("unmappable-mount = 'error'", 0o644);
        let config = load_own(&path).unwrap();
        assert_eq!(config.unmappable_mount, OnUnmappable::Error);

        let path = scratch.file("x = 1", 0o600);
        let error = load_own(&path).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("{}: x: 1: no such key", path.display())),
            "{error}"
        );
    }

    #[test]
    fn a_file_that_others_can_write_is_refused() {
        let scratch = Scratch::new();
        for mode in [0o620, 0o602, 0o666] {
            let error = load_own(&scratch.file("", mode)).unwrap_err().to_string();
            assert!(
                error.contains(&format!("mode {mode:04o}: must not be writable")),
                "{error}"
            );
        }
        let path = scratch.file("", 0o600);
        let error = load_owned_by(&path, 4_000_000_000).unwrap_err().to_string();
        assert!(error.contains("must belong to root"), "{error}");
    }

    #[test]
    fn what_is_no_regular_file_is_refused_without_waiting() {
        let scratch = Scratch::new();
        let fifo = scratch.0.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, 0o600.into()).unwrap();
        for path in [fifo.as_path(), scratch.0.path(), Path::new("/dev/null")] {
            let error = load_own(path).unwrap_err().to_string();
            assert!(error.contains("must be a regular file"), "{error}");
        }
    }

    #[test]
    fn a_file_too_large_is_refused() {
        let scratch = Scratch::new();
        let path = scratch.file(&"#".repeat(1 << 21), 0o600);
        let error = load_own(&path).unwrap_err().to_string();
        assert!(error.contains("2097152 bytes: too large"), "{error}");
    }
}
