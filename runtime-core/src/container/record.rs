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
    /// Writes it, replacing an earlier one in one step: a shim killed half-way leaves one or the
    /// other.
    pub(crate) fn write(&self, bundle: &Path) -> Result<()> {
        let (path, new) = (bundle.join(FILE), bundle.join(format!("{FILE}.new")));
        let json = serde_json::to_vec(self)
            .map_err(std::io::Error::from)
            .os("encode", path.display())?;
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&new)
            .os("create", new.display())?;
        file.write_all(&json).os("write", new.display())?;
        std::fs::rename(&new, &path).os("rename", path.display())
    }

    /// Reads it; `None` where create did not get that far or delete is through.
    pub(crate) fn read(bundle: &Path) -> Result<Option<Record>> {
        let path = bundle.join(FILE);
        match std::fs::read(&path) {
            Ok(json) => serde_json::from_slice(&json)
                .map(Some)
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
