//! Programs that libseccomp has compiled before.
//!
//! It takes some ten milliseconds for an engine's default profile, more than all else of a create together, and the
//! containers of a node share one or two profiles. Each entry is a file named by the digest of all that libseccomp was
//! given, so it cannot become stale. A cache that cannot be read or written costs time and nothing else.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use libseccomp::{ScmpArch, ScmpVersion};
use sha2::{Digest, Sha256};

use super::MAX_INSTRUCTIONS;
use super::profile::Profile;

/// To be raised when the same input is to give another program.
const FORMAT: u32 = 1;

/// Most entries; more are not kept. A program has some ten kilobytes.
const MAX_ENTRIES: usize = 256;

/// One profile's place in the cache.
#[derive(Debug)]
pub(super) struct Entry {
    dir: PathBuf,
    name: String,
}

impl Entry {
    /// The entry of a profile below `dir`, which is made; `None` where others than we could write to it.
    pub(super) fn new(dir: &Path, profile: &Profile, architectures: &[ScmpArch]) -> Option<Entry> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        let found = fs::symlink_metadata(dir).ok()?;
        let us = rustix::process::geteuid().as_raw();
        let private = found.is_dir() && found.uid() == us && found.mode() & 0o077 == 0;
        let library = ScmpVersion::current().ok()?;
        let input = format!(
            "{FORMAT} {library:?} {:?} {:?} {architectures:?}",
            profile.default, profile.rules
        );
        let name = Sha256::digest(input)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        (made.is_ok() && private).then(|| Entry {
            dir: dir.to_path_buf(),
            name,
        })
    }

    /// The program, if it is there and whole.
    pub(super) fn read(&self) -> Option<Vec<u8>> {
        let bytes = fs::read(self.dir.join(&self.name)).ok()?;
        let whole =
            bytes.len().is_multiple_of(8) && (1..=MAX_INSTRUCTIONS).contains(&(bytes.len() / 8));
        whole.then_some(bytes)
    }

    /// Keeps the program. Readers see all of it or nothing.
    pub(super) fn write(&self, program: &[u8]) {
        let full = fs::read_dir(&self.dir).map_or(true, |entries| entries.count() >= MAX_ENTRIES);
        if full {
            return;
        }
        let new = self
            .dir
            .join(format!("{}.{}", self.name, std::process::id()));
        // Another thread that writes the same entry has the file already.
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| file.write_all(program))
            .and_then(|()| fs::rename(&new, self.dir.join(&self.name)));
        if let Err(error) = written
            && error.kind() != std::io::ErrorKind::AlreadyExists
        {
            // Nothing to do about a file that cannot be removed either.
            let _ = fs::remove_file(&new);
        }
    }
}
