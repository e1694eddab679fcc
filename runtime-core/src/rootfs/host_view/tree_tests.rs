//! What a hostile tree can make of the operations: nothing outside it, and nothing that waits.

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;

use super::*;

struct Bed {
    dir: tempfile::TempDir,
    tree: Tree,
}

/// `root` is served, `outside` must stay as it is.
fn bed() -> Bed {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    std::fs::create_dir(&root).unwrap();
    std::fs::create_dir(dir.path().join("outside")).unwrap();
    std::fs::write(dir.path().join("outside/secret"), "secret").unwrap();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(&root, flags, Mode::empty()).unwrap();
    let tree = Tree::new(fd, ROOT).unwrap();
    Bed { dir, tree }
}

impl Bed {
    fn root(&self, path: &str) -> PathBuf {
        self.dir.path().join("root").join(path)
    }

    fn find(&self, name: &str) -> u64 {
        self.tree.lookup(ROOT, OsStr::new(name)).unwrap().0
    }
}

#[test]
fn links_are_shown_and_never_followed() {
    let bed = bed();
    for (name, target) in [
        ("absolute", "/etc"),
        ("up", "../outside"),
        ("magic", "/proc/self/cwd"),
    ] {
        symlink(target, bed.root(name)).unwrap();
        let node = bed.find(name);
        assert_eq!(bed.tree.readlink(node).unwrap(), target.as_bytes());
        assert!(
            bed.tree.lookup(node, OsStr::new("secret")).is_err(),
            "{name}"
        );
        assert!(bed.tree.open_directory(node).is_err(), "{name}");
        assert!(bed.tree.open_file(node, libc::O_RDONLY).is_err(), "{name}");
        assert!(
            bed.tree.mkdir(node, OsStr::new("new"), 0o755).is_err(),
            "{name}"
        );
    }
    let node = bed.find("up");
    bed.tree
        .change(
            node,
            None,
            Change {
                mode: Some(0),
                ..Change::default()
            },
        )
        .unwrap_err();
    let outside = bed.dir.path().join("outside").metadata().unwrap();
    assert_ne!(outside.mode() & 0o777, 0);
}

#[test]
fn a_directory_replaced_by_a_link_leads_nowhere() {
    let bed = bed();
    std::fs::create_dir(bed.root("dir")).unwrap();
    let dir = bed.find("dir");
    std::fs::rename(bed.root("dir"), bed.root("moved")).unwrap();
    symlink("../outside", bed.root("dir")).unwrap();
    assert!(bed.tree.lookup(dir, OsStr::new("secret")).is_err());
    assert!(
        bed.tree
            .create(dir, OsStr::new("evil"), 0o644, libc::O_WRONLY)
            .is_err()
    );
    assert!(
        bed.tree
            .unlink(dir, OsStr::new("secret"), AtFlags::empty())
            .is_err()
    );
    assert!(bed.dir.path().join("outside/secret").exists());
    // Found again under its new name it is the same.
    assert_eq!(bed.find("moved"), dir);
    bed.tree
        .create(dir, OsStr::new("fine"), 0o644, libc::O_WRONLY)
        .unwrap();
}

#[test]
fn another_file_at_the_same_path_is_stale() {
    let bed = bed();
    std::fs::write(bed.root("f"), "1").unwrap();
    let node = bed.find("f");
    std::fs::write(bed.root("g"), "2").unwrap();
    std::fs::rename(bed.root("g"), bed.root("f")).unwrap();
    assert_eq!(bed.tree.open_file(node, libc::O_RDONLY), Err(Errno::STALE));
    assert_ne!(bed.find("f"), node);
}

#[test]
fn names_are_single_components() {
    let bed = bed();
    for name in ["", ".", "..", "../outside", "a/b"] {
        let name = OsStr::new(name);
        assert!(bed.tree.lookup(ROOT, name).is_err(), "{name:?}");
        assert!(bed.tree.mkdir(ROOT, name, 0o755).is_err(), "{name:?}");
        assert!(bed.tree.create(ROOT, name, 0o644, 0).is_err(), "{name:?}");
    }
}

#[test]
fn pipes_are_not_opened_and_devices_not_made() {
    let bed = bed();
    mknodat(CWD, bed.root("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let pipe = bed.find("pipe");
    // Opening it for reading without O_NONBLOCK would wait for a writer.
    assert_eq!(bed.tree.open_file(pipe, libc::O_RDONLY), Err(Errno::INVAL));
    assert_eq!(
        bed.tree
            .create(ROOT, OsStr::new("pipe"), 0o644, libc::O_WRONLY)
            .unwrap_err(),
        Errno::INVAL
    );
    for kind in [libc::S_IFCHR, libc::S_IFBLK] {
        let made = bed.tree.mknod(ROOT, OsStr::new("device"), kind | 0o666);
        assert_eq!(made.unwrap_err(), Errno::PERM);
    }
    let from = (ROOT, OsStr::new("pipe"));
    let whiteout = RenameFlags::WHITEOUT.bits();
    assert_eq!(
        bed.tree.rename(from, (ROOT, OsStr::new("p")), whiteout),
        Err(Errno::INVAL)
    );
}

#[test]
fn an_open_file_outlives_its_name() {
    let bed = bed();
    let name = OsStr::new("f");
    let (node, _, handle) = bed.tree.create(ROOT, name, 0o600, libc::O_RDWR).unwrap();
    assert_eq!(bed.tree.write(handle, 3, b"abc"), Ok(3));
    bed.tree.unlink(ROOT, name, AtFlags::empty()).unwrap();
    assert_eq!(bed.tree.read(handle, 0, 100).unwrap(), b"\0\0\0abc");
    assert_eq!(bed.tree.stat(node, None).unwrap().st_size, 6);
    bed.tree.release(handle);
    assert!(bed.tree.stat(node, None).is_err());
    assert_eq!(bed.tree.read(handle, 0, 1), Err(Errno::BADF));
}

#[test]
fn attributes_of_overlayfs_are_out_of_reach() {
    let bed = bed();
    std::fs::write(bed.root("f"), "").unwrap();
    let node = bed.find("f");
    let name = OsStr::new("trusted.overlay.opaque");
    assert_eq!(
        bed.tree.set_xattr(node, name, b"y", 0),
        Err(Errno::OPNOTSUPP)
    );
    assert_eq!(bed.tree.xattr(node, name), Err(Errno::OPNOTSUPP));
    assert_eq!(bed.tree.remove_xattr(node, name), Err(Errno::OPNOTSUPP));
}

#[test]
fn a_directory_is_read_on_from_any_entry() {
    let bed = bed();
    let names: Vec<_> = (0..50).map(|n| format!("file-{n}")).collect();
    for name in &names {
        std::fs::write(bed.root(name), "").unwrap();
    }
    let handle = bed.tree.open_directory(ROOT).unwrap();
    let (mut seen, mut at) = (Vec::new(), 0);
    loop {
        let entries = bed.tree.read_directory(handle, at).unwrap();
        let Some(Entry { name, next, .. }) = entries.into_iter().next() else {
            break;
        };
        let name = name.into_string().unwrap();
        at = next;
        seen.push(name);
    }
    seen.retain(|name| name.starts_with("file-"));
    seen.sort();
    let mut names = names;
    names.sort();
    assert_eq!(seen, names);
}
