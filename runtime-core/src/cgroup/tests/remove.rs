//! Removal of any tree, and of nothing else.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::cgroup::{Cgroup, DeviceRule, LEAF};
use crate::config::CgroupConfig;
use rustix::fs::{Mode, OFlags, mkdirat, openat};

use super::sandbox::{OWNER, Process, Sandbox};

/// A directory of a name and depth that no path reaches.
fn chain(top: &Path, name: &[u8], depth: usize) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut dir: OwnedFd = std::fs::File::open(top).unwrap().into();
    for _ in 0..depth {
        mkdirat(
            dir.as_fd(),
            OsStr::from_bytes(name),
            Mode::from_raw_mode(0o755),
        )
        .unwrap();
        dir = openat(dir.as_fd(), OsStr::from_bytes(name), flags, Mode::empty()).unwrap();
    }
}

#[test]
fn any_tree_is_removed() {
    let Some(sandbox) = Sandbox::enter("remove") else {
        return;
    };
    let caps = CgroupConfig {
        max_descendants: 20_000,
        max_depth: 1_500,
    };
    let cgroup = Cgroup::create(
        &sandbox.hierarchy,
        &sandbox.path("c"),
        OWNER,
        &caps,
        &DeviceRule::defaults(),
    )
    .unwrap();
    let dir = cgroup.dir();
    // 1100 deep is more than a process may open files by default, and 220 kB of path.
    chain(dir, &[b'x'; 200], 1_100);
    chain(dir, b"\xff\xfe not UTF-8 \x01", 3);
    for i in 0..1000 {
        std::fs::create_dir(dir.join(format!("-rf {i}"))).unwrap();
    }
    std::fs::create_dir_all(dir.join("domain/threaded")).unwrap();
    std::fs::write(dir.join("domain/threaded/cgroup.type"), "threaded").unwrap();
    assert!(cgroup.pids().unwrap().is_empty());
    cgroup.remove().unwrap();
    assert!(!dir.exists());
    cgroup.remove().unwrap();
}

#[test]
fn a_tree_that_changes_meanwhile_is_listed_and_removed() {
    let Some(sandbox) = Sandbox::enter("race") else {
        return;
    };
    let cgroup = sandbox.create("c");
    let process = Process::start(&cgroup.dir().join(LEAF), None, "exec sleep 600");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for worker in 0..2 {
            let (dir, stop) = (cgroup.dir().join(format!("w{worker}")), &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    for below in ["", "a", "a/b", "a/b/c", "a/b/c/d"] {
                        let _ = std::fs::create_dir(dir.join(below));
                    }
                    for below in ["a/b/c/d", "a/b/c", "a/b", "a", ""] {
                        let _ = std::fs::remove_dir(dir.join(below));
                    }
                }
            });
        }
        for _ in 0..300 {
            assert_eq!(cgroup.pids().unwrap(), [process.child.id()]);
        }
        cgroup.kill().unwrap();
        let dir = cgroup.dir().to_owned();
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(200));
            stop.store(true, Ordering::Relaxed);
        });
        cgroup.remove().unwrap();
        assert!(!dir.exists());
    });
}

#[test]
fn a_populated_cgroup_is_not_removed() {
    let Some(sandbox) = Sandbox::enter("busy") else {
        return;
    };
    let cgroup = sandbox.create("c");
    let _process = Process::start(&cgroup.dir().join(LEAF), None, "exec sleep 600");
    assert_eq!(cgroup.remove().unwrap_err().errno(), Some(libc::EBUSY));
    assert!(cgroup.dir().join(LEAF).exists());
}

#[test]
fn dropping_kills_and_removes_unless_kept() {
    let Some(sandbox) = Sandbox::enter("drop") else {
        return;
    };
    let cgroup = sandbox.create("a/b/c");
    let dir = cgroup.dir().to_owned();
    let process = Process::start(&dir.join(LEAF), None, "exec sleep 600");
    cgroup.keep();
    assert!(dir.exists() && !process.has_exited());
    // The shim is dead: `delete` finds it by its path, and the ancestors by their marks.
    let found = Cgroup::open(&sandbox.hierarchy, &sandbox.path("a/b/c")).unwrap();
    found.kill().unwrap();
    drop(found);
    assert!(dir.exists());
    Cgroup::open(&sandbox.hierarchy, &sandbox.path("a/b/c"))
        .unwrap()
        .remove()
        .unwrap();
    assert!(!sandbox.absolute("a").exists());

    let cgroup = sandbox.create("a/b/c");
    let process = Process::start(&dir.join(LEAF), None, "exec sleep 600");
    drop(cgroup);
    assert!(process.has_exited());
    assert!(!sandbox.absolute("a").exists());
}

#[test]
fn only_ancestors_that_we_made_and_that_are_empty_go() {
    let Some(sandbox) = Sandbox::enter("ancestors") else {
        return;
    };
    let theirs = sandbox.absolute("theirs");
    std::fs::create_dir_all(&theirs).unwrap();
    let one = sandbox.create("theirs/ours/one");
    let two = sandbox.create("theirs/ours/two");
    one.remove().unwrap();
    assert!(two.dir().exists());
    // The one that made it is gone; the last one removes it.
    two.remove().unwrap();
    assert!(theirs.exists() && !theirs.join("ours").exists());
    std::fs::remove_dir(&theirs).unwrap();
    std::fs::remove_dir(theirs.parent().unwrap()).unwrap();
}

#[test]
fn what_was_removed_is_not_removed_again() {
    let Some(sandbox) = Sandbox::enter("again") else {
        return;
    };
    let _neighbour = sandbox.create("neighbour");
    let old = sandbox.create("p/c");
    old.remove().unwrap();
    let new = sandbox.create("p/c");
    old.remove().unwrap();
    assert!(new.dir().join(LEAF).exists());
    new.remove().unwrap();
    // Somebody else's by now.
    let parent = sandbox.absolute("p");
    std::fs::create_dir_all(&parent).unwrap();
    old.remove().unwrap();
    drop((old, new));
    assert!(parent.exists());
    std::fs::remove_dir(&parent).unwrap();
}
