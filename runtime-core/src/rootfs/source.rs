//! Where a root file system comes from (design D6): containerd's mounts, parsed. Pure.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::kernel::fs::FsOption;
use crate::kernel::idmap::{IdMap, IdMapping};

/// A mount of `CreateTaskRequest.rootfs`.
#[derive(Debug, Clone)]
pub struct RootfsMount {
    /// File-system type (`overlay`, `bind`).
    pub fs_type: String,
    /// Source path or name.
    pub source: String,
    /// Path below the root file system, mostly empty.
    pub target: String,
    /// Mount options as containerd spells them (`lowerdir=…`).
    pub options: Vec<String>,
}

/// The root file system, by what must be done for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum RootfsSource {
    /// An overlay over these directories.
    Overlay(Overlay),
    /// A directory (`bind` of the native snapshotter, or `root.path` as it is).
    Directory {
        /// Absolute host path.
        path: PathBuf,
        /// With the mounts below it.
        recursive: bool,
        /// Read-only.
        readonly: bool,
    },
    /// A file system on a device or image (erofs, ext4 …).
    Device {
        /// File-system type.
        fs_type: String,
        /// Source.
        source: String,
        /// Options for fsconfig.
        options: Vec<FsOption>,
        /// Read-only.
        readonly: bool,
    },
}

/// Layers of an overlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Overlay {
    /// Lower directories, topmost first.
    pub(crate) lower: Vec<PathBuf>,
    /// Upper and work directory; none: read-only.
    pub(crate) upper: Option<(PathBuf, PathBuf)>,
    /// Further options.
    pub(crate) options: Vec<FsOption>,
    /// `uidmap=` and `gidmap=`: the lower layers are seen through these mappings, and files of the upper one belong on
    /// disk to the host ids, for containerd has given them its directory (design D6 (b); containerd
    /// core/mount/mount_linux.go, prepareIDMappedOverlay).
    pub(crate) remapped: Option<IdMap>,
}

impl RootfsSource {
    /// Refuses mappings asked of the layers that are not the container's own `idmap`: root inside would own nothing.
    pub(crate) fn check_mappings(&self, idmap: &IdMap) -> Result<()> {
        let RootfsSource::Overlay(Overlay {
            remapped: Some(asked),
            ..
        }) = self
        else {
            return Ok(());
        };
        for (key, asked, has) in [
            ("uidmap", &asked.uids, &idmap.uids),
            ("gidmap", &asked.gids, &idmap.gids),
        ] {
            if asked != has {
                return Err(Error::invalid(
                    format!("rootfs[0].options {key}"),
                    show(asked),
                    format!(
                        "label the snapshot with the mappings of the container's user namespace, {}",
                        show(has)
                    ),
                ));
            }
        }
        Ok(())
    }
}

impl Overlay {
    /// The longest directory above all layers that are ID-mapped.
    pub(crate) fn mapped_parent(&self) -> PathBuf {
        let upper = self.upper.iter().filter(|_| self.remapped.is_none());
        let mut paths = self.lower.iter().chain(upper.flat_map(|(u, w)| [u, w]));
        let first = paths
            .next()
            .and_then(|p| p.parent())
            .unwrap_or(Path::new("/"))
            .to_path_buf();
        paths.fold(first, |common, path| {
            common
                .components()
                .zip(path.components())
                .take_while(|(a, b)| a == b)
                .map(|(a, _)| a)
                .collect()
        })
    }
}

/// Parses `CreateTaskRequest.rootfs`; `root_path` is `root.path`, used where the list is empty.
pub(crate) fn parse(mounts: &[RootfsMount], root_path: &Path) -> Result<RootfsSource> {
    let mount = match mounts {
        [] => {
            return Ok(RootfsSource::Directory {
                path: root_path.to_path_buf(),
                recursive: false,
                readonly: false,
            });
        }
        [mount] => mount,
        _ => {
            return Err(Error::invalid(
                "rootfs",
                mounts
                    .iter()
                    .map(|m| m.fs_type.as_str())
                    .collect::<Vec<_>>()
                    .join(","),
                "several mounts are not supported: use a snapshotter that gives one, such as overlayfs",
            ));
        }
    };
    if !mount.target.is_empty() {
        return Err(Error::invalid(
            "rootfs[0].target",
            &mount.target,
            "a root file system has no target: leave it empty",
        ));
    }
    let readonly = mount.options.iter().any(|o| o == "ro");
    match mount.fs_type.as_str() {
        "overlay" => overlay(&mount.options).map(RootfsSource::Overlay),
        "bind" => Ok(RootfsSource::Directory {
            path: absolute("rootfs[0].source", &mount.source)?,
            recursive: mount.options.iter().any(|o| o == "rbind"),
            readonly,
        }),
        fs_type => Ok(RootfsSource::Device {
            fs_type: fs_type.to_string(),
            source: mount.source.clone(),
            options: mount
                .options
                .iter()
                .filter(|o| !matches!(o.as_str(), "ro" | "rw"))
                .map(|o| option(o))
                .collect(),
            readonly,
        }),
    }
}

fn overlay(options: &[String]) -> Result<Overlay> {
    let mut lower = Vec::new();
    let (mut upper, mut work) = (None, None);
    let mut rest = Vec::new();
    let (mut uids, mut gids) = (None, None);
    for text in options {
        match text.split_once('=') {
            Some(("lowerdir", dirs)) => {
                lower = split_lowers(dirs)
                    .iter()
                    .map(|d| absolute("rootfs[0].options lowerdir", d))
                    .collect::<Result<_>>()?;
            }
            Some(("upperdir", dir)) => upper = Some(absolute("rootfs[0].options upperdir", dir)?),
            Some(("workdir", dir)) => work = Some(absolute("rootfs[0].options workdir", dir)?),
            Some(("uidmap", lines)) => uids = Some(mappings("uidmap", lines)?),
            Some(("gidmap", lines)) => gids = Some(mappings("gidmap", lines)?),
            _ if matches!(text.as_str(), "ro" | "rw") => {}
            _ if text.starts_with("X-") || text.starts_with("x-") => {
                return Err(Error::invalid(
                    "rootfs[0].options",
                    text,
                    "unknown to this runtime: use the overlayfs snapshotter",
                ));
            }
            _ => rest.push(option(text)),
        }
    }
    if lower.is_empty() {
        return Err(Error::invalid(
            "rootfs[0].options",
            options.join(","),
            "an overlay needs lowerdir=",
        ));
    }
    let upper = match (upper, work) {
        (Some(upper), Some(work)) => Some((upper, work)),
        (None, None) => None,
        _ => {
            return Err(Error::invalid(
                "rootfs[0].options",
                options.join(","),
                "give upperdir= and workdir= together",
            ));
        }
    };
    let remapped = match (uids, gids) {
        (Some(uids), Some(gids)) => Some(IdMap { uids, gids }),
        (None, None) => None,
        _ => {
            return Err(Error::invalid(
                "rootfs[0].options",
                options.join(","),
                "give uidmap= and gidmap= together",
            ));
        }
    };
    Ok(Overlay {
        lower,
        upper,
        options: rest,
        remapped,
    })
}

/// `0:1000000:65536`, several with commas (containerd internal/userns/idmap.go, Marshal).
fn mappings(key: &str, text: &str) -> Result<Vec<IdMapping>> {
    let line = |text: &str| {
        let mut numbers = text.split(':').map(|number| number.parse().ok());
        let line = IdMapping {
            container: numbers.next()??,
            host: numbers.next()??,
            size: numbers.next()??,
        };
        numbers.next().is_none().then_some(line)
    };
    text.split(',')
        .map(line)
        .collect::<Option<_>>()
        .ok_or_else(|| {
            Error::invalid(
                format!("rootfs[0].options {key}"),
                text,
                "give container:host:size, several separated by commas",
            )
        })
}

fn show(lines: &[IdMapping]) -> String {
    let line = |l: &IdMapping| format!("{}:{}:{}", l.container, l.host, l.size);
    lines.iter().map(line).collect::<Vec<_>>().join(",")
}

/// Splits at colons that no backslash escapes (Documentation/filesystems/overlayfs.rst).
fn split_lowers(text: &str) -> Vec<String> {
    let mut dirs = vec![String::new()];
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let last = dirs.last_mut();
        match (c, last) {
            ('\\', Some(dir)) => dir.extend(chars.next()),
            (':', _) => dirs.push(String::new()),
            (c, Some(dir)) => dir.push(c),
            (_, None) => {}
        }
    }
    dirs
}

fn option(text: &str) -> FsOption {
    match text.split_once('=') {
        Some((key, value)) => FsOption {
            key: key.into(),
            value: Some(value.into()),
        },
        None => FsOption {
            key: text.into(),
            value: None,
        },
    }
}

fn absolute(field: &str, path: &str) -> Result<PathBuf> {
    let path = Path::new(path);
    let clean = path.is_absolute()
        && path
            .components()
            .all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
    if !clean {
        return Err(Error::invalid(
            field,
            path.display(),
            "give an absolute path without `..`",
        ));
    }
    Ok(path.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(fs_type: &str, options: &[&str]) -> RootfsMount {
        RootfsMount {
            fs_type: fs_type.into(),
            source: "/src".into(),
            target: String::new(),
            options: options.iter().map(|o| o.to_string()).collect(),
        }
    }

    #[test]
    fn overlay_options_are_understood() {
        let parsed = parse(
            &[mount(
                "overlay",
                &[
                    "index=off",
                    "workdir=/s/9/work",
                    "upperdir=/s/9/fs",
                    "lowerdir=/s/2/fs:/s/1\\:x/fs",
                ],
            )],
            Path::new("/b/rootfs"),
        )
        .unwrap();
        let RootfsSource::Overlay(overlay) = parsed else {
            panic!("{parsed:?}")
        };
        assert_eq!(
            overlay.lower,
            [PathBuf::from("/s/2/fs"), PathBuf::from("/s/1:x/fs")]
        );
        assert_eq!(
            overlay.options,
            [FsOption {
                key: "index".into(),
                value: Some("off".into())
            }]
        );
        assert_eq!(overlay.mapped_parent(), Path::new("/s"));
        assert_eq!(overlay.remapped, None);
    }

    #[test]
    fn asked_mappings_are_the_containers() {
        let layers = [
            "lowerdir=/s/l/2/fs:/s/l/1/fs",
            "upperdir=/s/9/fs",
            "workdir=/s/9/work",
        ];
        let options = [&["uidmap=0:1000:65536", "gidmap=0:2000:65536"], &layers[..]].concat();
        let parsed = parse(&[mount("overlay", &options)], Path::new("/r")).unwrap();
        let mut idmap = IdMap::single(1000, 65536);
        let Err(Error::Invalid { field, .. }) = parsed.check_mappings(&idmap) else {
            panic!("groups differ")
        };
        assert_eq!(field, "rootfs[0].options gidmap");
        idmap.gids = IdMap::single(2000, 65536).gids;
        parsed.check_mappings(&idmap).unwrap();
        let RootfsSource::Overlay(overlay) = parsed else {
            panic!("{parsed:?}")
        };
        assert_eq!(
            overlay.mapped_parent(),
            Path::new("/s/l"),
            "the upper one is not mapped"
        );
    }

    #[test]
    fn nothing_given_means_the_path_itself() {
        let parsed = parse(&[], Path::new("/b/rootfs")).unwrap();
        assert_eq!(
            parsed,
            RootfsSource::Directory {
                path: "/b/rootfs".into(),
                recursive: false,
                readonly: false
            }
        );
    }

    #[test]
    fn wrong_lists_are_refused_by_name() {
        for (mounts, field) in [
            (
                vec![mount("overlay", &["upperdir=/u", "workdir=/w"])],
                "rootfs[0].options",
            ),
            (
                vec![mount("overlay", &["lowerdir=/l", "upperdir=/u"])],
                "rootfs[0].options",
            ),
            (
                vec![mount("overlay", &["lowerdir=/l", "uidmap=0:1:2"])],
                "rootfs[0].options",
            ),
            (
                vec![mount("overlay", &["lowerdir=/l", "gidmap=0:1"])],
                "rootfs[0].options gidmap",
            ),
            (
                vec![mount("overlay", &["lowerdir=l"])],
                "rootfs[0].options lowerdir",
            ),
            (
                vec![mount("overlay", &["lowerdir=/a/../b"])],
                "rootfs[0].options lowerdir",
            ),
            (vec![mount("bind", &[]), mount("overlay", &[])], "rootfs"),
        ] {
            let Err(Error::Invalid { field: got, .. }) = parse(&mounts, Path::new("/r")) else {
                panic!("{mounts:?}")
            };
            assert_eq!(got, field);
        }
    }
}
