//! What `delete` needs to undo a container whose shim has died: a file in its bundle.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{OsContext, Result};
use crate::kernel::features::Features;
use crate::kernel::idmap::IdMap;
use crate::plan::Hook;
use crate::rootfs::data_roots::DataRoot;
use crate::rootfs::mounted::Mounted;

/// Name of the file in the bundle.
const FILE: &str = "sysbox.json";

/// The record of one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Container id.
    pub(crate) id: String,
    /// cgroup, relative to the root of the hierarchy.
    pub(crate) cgroup: String,
    /// The unit of systemd's that it is, if it is one.
    #[serde(default)]
    pub(crate) unit: Option<String>,
    /// Directory with the ranges' lock files.
    pub(crate) state_dir: PathBuf,
    /// Upper directory of the root file system, if it is an overlay that images may be made of.
    pub(crate) upper: Option<PathBuf>,
    /// Data roots, once the stage has made them.
    pub(crate) data_roots: Vec<DataRoot>,
    /// Its ids, once its init is there.
    #[serde(default)]
    pub(crate) ids: Option<IdMap>,
    /// The root file system as the engine had mounted it, if it had.
    #[serde(default)]
    pub(crate) mounted: Option<Mounted>,
    /// What the kernel had when the container was made.
    #[serde(default)]
    pub(crate) features: Features,
    /// Hooks that delete runs.
    pub(crate) poststop: Vec<Hook>,
    /// For the hooks' state.
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Record {
    /// Adds it to the file, a line that counts from when it is whole: a shim killed half-way leaves what was before.
    pub(crate) fn write(&self, bundle: &Path) -> Result<()> {
        let path = bundle.join(FILE);
        let mut line = serde_json::to_vec(self)
            .map_err(std::io::Error::from)
            .os("encode", path.display())?;
        line.push(b'\n');
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .os("open", path.display())?;
        file.write_all(&line).os("write", path.display())
    }

    /// Reads the last whole one; `None` where create did not get that far or delete is through.
    pub(crate) fn read(bundle: &Path) -> Result<Option<Record>> {
        let path = bundle.join(FILE);
        match std::fs::read(&path) {
            Ok(text) => last_whole(&text)
                .map_err(std::io::Error::from)
                .os("decode", path.display()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).os("read", path.display()),
        }
    }

    /// Removes it: nothing is left to undo.
    pub(crate) fn remove(bundle: &Path) -> Result<()> {
        let path = bundle.join(FILE);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).os("remove", path.display())
            }
            _ => Ok(()),
        }
    }
}

/// What is after the last end of a line was being written, unless it is all that an earlier release wrote.
fn last_whole(text: &[u8]) -> serde_json::Result<Option<Record>> {
    let mut lines = text.split(|byte| *byte == b'\n').rev();
    match lines.next().map(serde_json::from_slice) {
        Some(Ok(record)) => Ok(Some(record)),
        _ => lines.next().map(serde_json::from_slice).transpose(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(cgroup: &str) -> Record {
        Record {
            id: "c1".into(),
            cgroup: cgroup.into(),
            unit: None,
            state_dir: "/run/x".into(),
            upper: None,
            data_roots: Vec::new(),
            ids: None,
            mounted: None,
            features: Features::default(),
            poststop: Vec::new(),
            annotations: BTreeMap::from([("a".into(), "b\nc".into())]),
        }
    }

    #[test]
    fn the_last_whole_record_counts() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        let cut = |end| {
            let text = std::fs::read(&file).unwrap();
            std::fs::write(&file, &text[..text.len() - end]).unwrap();
        };
        assert_eq!(Record::read(dir.path()).unwrap(), None);
        record("one").write(dir.path()).unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), Some(record("one")));
        record("two").write(dir.path()).unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), Some(record("two")));
        cut(1);
        assert_eq!(Record::read(dir.path()).unwrap(), Some(record("two")));
        cut(1);
        assert_eq!(Record::read(dir.path()).unwrap(), Some(record("one")));
        Record::remove(dir.path()).unwrap();
        record("one").write(dir.path()).unwrap();
        cut(5);
        assert_eq!(Record::read(dir.path()).unwrap(), None, "nothing was made");
        std::fs::write(&file, "{}\n{}\n").unwrap();
        assert!(Record::read(dir.path()).is_err());
    }
}
