//! Data between the layer and the directory beside it, wherever somebody is killed.

use std::os::unix::fs::{FileTypeExt, MetadataExt};

use rustix::fs::{FileType, mknodat};

use super::*;

#[test]
fn names_are_unique_and_flat() {
    assert_eq!(name("/var/lib/docker"), "var-lib-docker");
    assert_ne!(name("/var/lib/a-b"), name("/var/lib/a/b"));
    // Names with a single dash in front are ours.
    assert_eq!(name("/-captured.json"), "--captured.json");
}

/// A snapshot with two data roots that have a whiteout each.
struct Snapshot {
    dir: tempfile::TempDir,
    roots: Vec<DataRoot>,
}

impl Snapshot {
    /// `None`: this machine has no attributes that are root's.
    fn new() -> Option<Snapshot> {
        let snapshot = Snapshot {
            dir: tempfile::tempdir().unwrap(),
            roots: ["docker", "containers"].map(root).into(),
        };
        for root in &snapshot.roots {
            std::fs::create_dir_all(snapshot.beside(root)).unwrap();
            std::fs::create_dir_all(snapshot.inside(root)).unwrap();
            std::fs::write(snapshot.beside(root).join("data"), "data").unwrap();
            let (kind, mode) = (FileType::CharacterDevice, Mode::empty());
            mknodat(CWD, snapshot.beside(root).join("gone"), kind, mode, 0).unwrap();
        }
        match fsetxattr(snapshot.open().0, FILLED, b"y", XattrFlags::empty()) {
            Ok(()) => Some(snapshot),
            Err(errno) => {
                let required = ["CI", "REQUIRE_ROOT"]
                    .iter()
                    .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
                assert!(!required, "skipped: trusted attributes: {errno}");
                None
            }
        }
    }

    fn upper(&self) -> PathBuf {
        self.dir.path().join("fs")
    }

    fn beside(&self, root: &DataRoot) -> PathBuf {
        self.dir.path().join(DIR).join(&root.name)
    }

    fn inside(&self, root: &DataRoot) -> PathBuf {
        self.upper().join(&root.inside)
    }

    fn open(&self) -> (OwnedFd, OwnedFd) {
        open(&self.upper()).unwrap().unwrap()
    }

    /// What capture does, one act after the other, but for the first.
    fn acts(&self) -> Vec<Box<dyn Fn() + '_>> {
        let mut acts: Vec<Box<dyn Fn()>> = Vec::new();
        acts.push(Box::new(|| {
            write_manifest(&self.open().1, &self.roots).unwrap()
        }));
        for root in &self.roots {
            let data = || open_dir(&self.open().1, &root.name).unwrap();
            acts.push(Box::new(move || {
                whiteouts::hide(&self.open().1, &root.name, &data(), &AtomicBool::new(false))
                    .unwrap();
            }));
            for mark in [OPAQUE, CAPTURED] {
                acts.push(Box::new(move || {
                    fsetxattr(data(), mark, b"y", XattrFlags::empty()).unwrap();
                }));
            }
            acts.push(Box::new(|| {
                let (upper, dir) = self.open();
                exchange(&upper, &dir, root).unwrap();
            }));
        }
        acts
    }

    fn assert_restored(&self, when: usize) {
        for root in &self.roots {
            let data = self.beside(root);
            let text = std::fs::read_to_string(data.join("data"));
            assert_eq!(text.unwrap(), "data", "after {when} acts");
            let gone = std::fs::symlink_metadata(data.join("gone")).unwrap();
            assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
            assert_eq!(entries(&data), 2);
            assert_eq!(entries(&self.inside(root)), 0);
            for mark in [OPAQUE, CAPTURED] {
                let (_, dir) = self.open();
                assert!(!has_mark(open_dir(&dir, &root.name).unwrap(), mark).unwrap());
            }
        }
        assert_eq!(entries(&self.dir.path().join(DIR)), self.roots.len());
        assert_eq!(captured(&self.upper()).unwrap(), []);
    }

    fn assert_captured(&self, when: usize) {
        for root in &self.roots {
            let data = self.inside(root);
            let text = std::fs::read_to_string(data.join("data"));
            assert_eq!(text.unwrap(), "data", "after {when} acts");
            assert!(!data.join("gone").exists());
            assert!(data.join(marks::FILE).exists());
            assert_eq!(entries(&self.beside(root)), 0);
        }
        assert_eq!(captured(&self.upper()).unwrap(), self.roots);
    }
}

fn root(name: &str) -> DataRoot {
    DataRoot {
        inside: format!("var/lib/{name}"),
        name: format!("var-lib-{name}"),
        made: vec![format!("var/lib/{name}")],
    }
}

fn entries(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

#[test]
fn a_capture_that_was_killed_is_completed_or_undone() {
    let Some(snapshot) = Snapshot::new() else {
        return;
    };
    let (upper, roots) = (snapshot.upper(), &snapshot.roots);
    for killed in 0..=snapshot.acts().len() {
        let kill = || {
            for act in &snapshot.acts()[..killed] {
                act();
            }
        };
        kill();
        restore(&upper).unwrap();
        snapshot.assert_restored(killed);
        kill();
        for _ in 0..2 {
            capture(&upper, roots, &AtomicBool::new(false)).unwrap();
            snapshot.assert_captured(killed);
        }
        for _ in 0..2 {
            restore(&upper).unwrap();
            snapshot.assert_restored(killed);
        }
    }
}

#[test]
fn a_restore_that_was_killed_goes_on() {
    let Some(snapshot) = Snapshot::new() else {
        return;
    };
    let (upper, roots) = (snapshot.upper(), &snapshot.roots);
    for killed in 0..=2 {
        capture(&upper, roots, &AtomicBool::new(false)).unwrap();
        for root in &roots[..killed] {
            let (upper, dir) = snapshot.open();
            exchange(&upper, &dir, root).unwrap();
            let data = open_dir(&dir, &root.name).unwrap();
            whiteouts::show(&dir, &root.name, &data).unwrap();
        }
        restore(&upper).unwrap();
        snapshot.assert_restored(killed);
    }
}

#[test]
fn half_of_an_image_is_never_taken_for_all() {
    let dir = tempfile::tempdir().unwrap();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let snapshot = openat(CWD, dir.path(), flags, Mode::empty()).unwrap();
    let name = "var-lib-docker";
    let beside = prepare(&snapshot).unwrap();
    drop(prepare_one(&beside, name).unwrap());
    let new = dir.path().join(DIR).join(new_name(name));
    drop(to_fill(&beside, name).unwrap());
    std::fs::create_dir(new.join("half")).unwrap();
    drop(to_fill(&beside, name).unwrap());
    assert_eq!(entries(&new), 0, "of the one that was killed");
    let data = dir.path().join(DIR).join(name);
    assert_eq!(entries(&data), 0);
}
