//! Made, delegated, capped; one at a path.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::Error;
use crate::cgroup::{Cgroup, DeviceRule, Hierarchy, LEAF};
use crate::config::CgroupConfig;
use crate::kernel::reap::ExitStatus;
use rustix::mount::{MountFlags, mount};

use super::sandbox::{self, OWNER, Process, Sandbox, eventually};
use super::{owner, text};

#[test]
fn the_container_owns_its_tree_and_none_of_its_limits() {
    let Some(sandbox) = Sandbox::enter("delegate") else {
        return;
    };
    let cgroup = sandbox.create("pod/container");
    let dir = cgroup.dir();
    assert_eq!(dir, sandbox.absolute("pod/container"));
    for directory in [dir.to_owned(), dir.join(LEAF)] {
        assert_eq!(owner(&directory), OWNER);
        for file in ["cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
            assert_eq!(owner(directory.join(file)), OWNER, "{file}");
        }
        for entry in std::fs::read_dir(&directory).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let delegated = text("/sys/kernel/cgroup/delegate");
            if name != LEAF && !delegated.lines().any(|line| line == name) {
                assert_eq!(owner(directory.join(&name)), (0, 0), "{name}");
            }
        }
    }
    assert_eq!(owner(dir.parent().unwrap()), (0, 0));

    let script = format!(
        "cd {}; mkdir a && echo $$ > a/cgroup.procs && echo moved
         for f in cgroup.max.depth cgroup.max.descendants cgroup.freeze cgroup.kill; do
             echo 1 2>/dev/null > $f && echo \"wrote $f\"
         done
         echo $$ 2>/dev/null > ../cgroup.procs && echo escaped",
        dir.display()
    );
    let (said, _) = Process::start(&dir.join(LEAF), Some(OWNER.0), &script).finish();
    assert_eq!(said, "moved\n");
}

#[test]
fn what_the_container_makes_is_capped() {
    let Some(sandbox) = Sandbox::enter("caps") else {
        return;
    };
    let caps = CgroupConfig {
        max_descendants: 3,
        max_depth: 2,
    };
    let cgroup = Cgroup::create(
        &sandbox.hierarchy,
        &sandbox.path("c"),
        OWNER,
        &caps,
        &DeviceRule::defaults(),
    )
    .unwrap();
    let script = format!(
        "cd {}; for d in a a/b a/b/c d e; do mkdir $d 2>/dev/null && echo $d; done",
        cgroup.dir().display()
    );
    let (said, _) = Process::start(&cgroup.dir().join(LEAF), Some(OWNER.0), &script).finish();
    // The leaf is the first of three descendants; a/b/c is too deep, d too many.
    assert_eq!(said, "a\na/b\n");
}

#[test]
fn a_cgroup_in_use_is_refused_and_a_left_over_replaced() {
    let Some(sandbox) = Sandbox::enter("existing") else {
        return;
    };
    let create = || {
        let path = sandbox.path("c");
        Cgroup::create(
            &sandbox.hierarchy,
            &path,
            OWNER,
            &CgroupConfig::default(),
            &DeviceRule::defaults(),
        )
    };
    let cgroup = create().unwrap();
    // Empty, but another shim's.
    assert!(matches!(create().unwrap_err(), Error::AlreadyExists(_)));
    let dir = cgroup.dir().to_owned();
    let process = Process::start(&dir.join(LEAF), None, "sleep 600");
    cgroup.keep();
    // Nobody's, but populated.
    assert!(matches!(create().unwrap_err(), Error::AlreadyExists(_)));
    drop(process);
    eventually("unpopulated", || {
        text(dir.join("cgroup.events")).contains("populated 0")
    });
    std::fs::create_dir(dir.join("of the last owner")).unwrap();
    std::fs::write(dir.join("cgroup.freeze"), "1").unwrap();
    let old = std::fs::metadata(&dir).unwrap().ino();
    let cgroup = create().unwrap();
    assert_ne!(std::fs::metadata(&dir).unwrap().ino(), old);
    assert!(!dir.join("of the last owner").exists());
    assert_eq!(text(dir.join("cgroup.freeze")), "0\n");
    cgroup.remove().unwrap();
}

#[test]
fn paths_outside_are_refused() {
    let Some(sandbox) = Sandbox::enter("paths") else {
        return;
    };
    for path in ["", "/", "..", "a/../../b"] {
        let made = Cgroup::create(
            &sandbox.hierarchy,
            path,
            OWNER,
            &CgroupConfig::default(),
            &DeviceRule::defaults(),
        );
        assert!(matches!(made.unwrap_err(), Error::Invalid { .. }), "{path}");
    }
    let missing = Cgroup::open(&sandbox.hierarchy, &sandbox.path("none"));
    assert!(matches!(missing.unwrap_err(), Error::NotFound(_)));
}

#[test]
fn neighbours_come_and_go_at_the_same_time() {
    let Some(sandbox) = Sandbox::enter("neighbours") else {
        return;
    };
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let sandbox = &sandbox;
            scope.spawn(move || {
                for round in 0..100 {
                    let cgroup = sandbox.create(&format!("a/b/c/d/{worker}-{round}"));
                    assert!(cgroup.open_leaf().is_ok());
                    cgroup.remove().unwrap();
                }
            });
        }
    });
}

#[test]
fn one_of_many_gets_the_same_path() {
    let Some(sandbox) = Sandbox::enter("same") else {
        return;
    };
    let barrier = std::sync::Barrier::new(4);
    for round in 0..100 {
        let made = std::sync::Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    barrier.wait();
                    let path = sandbox.path("c");
                    let caps = CgroupConfig::default();
                    match Cgroup::create(
                        &sandbox.hierarchy,
                        &path,
                        OWNER,
                        &caps,
                        &DeviceRule::defaults(),
                    ) {
                        Ok(cgroup) => made.lock().unwrap().push(cgroup),
                        Err(Error::AlreadyExists(_)) => {}
                        Err(error) => panic!("round {round}: {}", error.chain()),
                    }
                });
            }
        });
        let made = made.into_inner().unwrap();
        assert_eq!(made.len(), 1, "round {round}");
        assert!(made[0].dir().join(LEAF).exists());
    }
}

/// The shim inherits whatever umask its caller has; a process of its own, because threads share it.
#[test]
fn the_umask_does_not_matter() {
    const CHILD: &str = "CGROUP_UMASK_CHILD";
    // Neither is what a test that was not found ends with.
    const DONE: i32 = 42;
    const SKIPPED: i32 = 43;
    if std::env::var_os(CHILD).is_none() {
        let script = "umask 077; exec \"$0\" --exact cgroup::tests::create::the_umask_does_not_matter --nocapture";
        let mut child = std::process::Command::new("/bin/sh");
        child
            .args(["-c", script])
            .arg(std::env::current_exe().unwrap())
            .env(CHILD, "1")
            .stdout(std::process::Stdio::null());
        match sandbox::run(child) {
            ExitStatus::Code(SKIPPED) => sandbox::skip("its child was"),
            status => assert_eq!(status, ExitStatus::Code(DONE)),
        }
        return;
    }
    let Some(sandbox) = Sandbox::enter("umask") else {
        std::process::exit(SKIPPED);
    };
    let cgroup = sandbox.create("c");
    for path in [cgroup.dir().to_owned(), cgroup.dir().join(LEAF)] {
        assert_eq!(std::fs::metadata(path).unwrap().mode() & 0o777, 0o755);
    }
    drop((cgroup, sandbox));
    std::process::exit(DONE);
}

#[test]
fn the_leaf_is_made_again_where_the_container_removed_it() {
    let Some(sandbox) = Sandbox::enter("leaf") else {
        return;
    };
    let cgroup = sandbox.create("c");
    let leaf = cgroup.dir().join(LEAF);
    std::fs::remove_dir(&leaf).unwrap();
    let fd = cgroup.open_leaf().unwrap();
    assert_eq!(
        rustix::fs::fstat(&fd).unwrap().st_ino,
        std::fs::metadata(&leaf).unwrap().ino()
    );
    assert_eq!(owner(leaf.join("cgroup.procs")), OWNER);
}

#[test]
fn the_hierarchy_is_found_wherever_it_is_mounted() {
    let Some(sandbox) = Sandbox::enter("find") else {
        return;
    };
    assert_eq!(sandbox.hierarchy.root(), Path::new("/sys/fs/cgroup"));
    let elsewhere = tempfile::tempdir().unwrap();
    mount("none", "/sys/fs/cgroup", "tmpfs", MountFlags::empty(), None).unwrap();
    let error = Hierarchy::find().unwrap_err();
    assert!(error.to_string().contains("mount -t cgroup2"), "{error}");
    mount(
        "none",
        elsewhere.path(),
        "cgroup2",
        MountFlags::empty(),
        None,
    )
    .unwrap();
    assert_eq!(Hierarchy::find().unwrap().root(), elsewhere.path());
    std::fs::create_dir("/sys/fs/cgroup/unified").unwrap();
    mount(
        "none",
        "/sys/fs/cgroup/unified",
        "cgroup2",
        MountFlags::empty(),
        None,
    )
    .unwrap();
    assert_eq!(
        Hierarchy::find().unwrap().root(),
        Path::new("/sys/fs/cgroup/unified")
    );
    rustix::mount::unmount(elsewhere.path(), rustix::mount::UnmountFlags::empty()).unwrap();
}
