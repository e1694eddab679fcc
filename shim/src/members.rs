//! The members of a pod, as bundles in a file of the shim's first bundle: containerd calls `delete` for each bundle whose
//! connection it held, which for later containers of a pod it does not (containerd #9727).

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use runtime_core::OsContext;

use crate::error::Result;

/// One absolute bundle a line, in the order of creation.
const FILE: &str = "members";

/// Notes a container's bundle, before anything is made for it. The first bundle need not name itself.
pub(crate) fn add(first: &Path, bundle: &Path) -> Result<()> {
    if first == bundle {
        return Ok(());
    }
    let path = first.join(FILE);
    let mut line = bundle.as_os_str().as_encoded_bytes().to_vec();
    line.push(b'\n');
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .open(&path)
        .os("open", path.display())?;
    Ok(file.write_all(&line).os("write", path.display())?)
}

/// Bundles noted in `first` that are still there, the latest first.
pub(crate) fn list(first: &Path) -> Result<Vec<PathBuf>> {
    let path = first.join(FILE);
    let text = match fs::read_to_string(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.os("read", path.display())?,
    };
    let bundles = text.lines().rev().map(PathBuf::from);
    Ok(bundles.filter(|bundle| bundle.is_dir()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_those_still_there() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = |name: &str| {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let (first, a, b, gone) = (bundle("pod"), bundle("a"), bundle("b"), bundle("gone"));
        assert!(list(&first).unwrap().is_empty());
        for member in [&first, &a, &gone, &b] {
            add(&first, member).unwrap();
        }
        fs::remove_dir(gone).unwrap();
        assert_eq!(list(&first).unwrap(), [b, a]);
    }
}
