//! A container's cgroup on a real kernel: made, delegated, limited, frozen, killed, removed.
#![allow(clippy::unwrap_used, clippy::print_stderr)] // clippy knows no helpers of tests

mod common;

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{OWNER, Process, Sandbox, eventually};
use runtime_core::Error;
use runtime_core::cgroup::limits::{Limits, Write};
use runtime_core::cgroup::{Cgroup, Hierarchy, LEAF};
use runtime_core::config::CgroupConfig;
use runtime_core::reap::ExitStatus;
use rustix::fs::{Mode, OFlags, mkdirat, openat};
use rustix::mount::{MountFlags, mount};

fn owner(path: impl AsRef<Path>) -> (u32, u32) {
    let stat = std::fs::symlink_metadata(path).unwrap();
    (stat.uid(), stat.gid())
}

fn text(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap()
}

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
    let cgroup = Cgroup::create(&sandbox.hierarchy, &sandbox.path("c"), OWNER, &caps).unwrap();
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
        Cgroup::create(&sandbox.hierarchy, &path, OWNER, &CgroupConfig::default())
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
        let made = Cgroup::create(&sandbox.hierarchy, path, OWNER, &CgroupConfig::default());
        assert!(matches!(made.unwrap_err(), Error::Invalid { .. }), "{path}");
    }
    let missing = Cgroup::open(&sandbox.hierarchy, &sandbox.path("none"));
    assert!(matches!(missing.unwrap_err(), Error::NotFound(_)));
}

#[test]
fn frozen_processes_do_not_run_until_thawed() {
    let Some(sandbox) = Sandbox::enter("freeze") else {
        return;
    };
    let cgroup = sandbox.create("c");
    let _process = Process::start(&cgroup.dir().join(LEAF), None, "while :; do :; done");
    let used = || cgroup.stats().unwrap().cpu.unwrap().usage_usec;
    eventually("it runs", || used() > 0);
    cgroup.freeze().unwrap();
    let at_freeze = used();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(used(), at_freeze);
    cgroup.thaw().unwrap();
    eventually("it runs again", || used() > at_freeze);
    cgroup.freeze().unwrap();
    // A frozen one dies, too.
    cgroup.kill().unwrap();
}

#[test]
fn kill_waits_for_the_last_process_of_the_whole_tree() {
    let Some(sandbox) = Sandbox::enter("kill") else {
        return;
    };
    let cgroup = sandbox.create("c");
    let inner = cgroup.dir().join("inner");
    std::fs::create_dir(&inner).unwrap();
    let forks = "trap '' TERM; while :; do sleep 600 & done";
    let fork_bomb = Process::start(&cgroup.dir().join(LEAF), None, forks);
    let nested = Process::start(&inner, None, "sleep 600");
    eventually("many processes", || cgroup.pids().unwrap().len() > 50);
    assert!(cgroup.populated().unwrap());
    cgroup.kill().unwrap();
    assert!(!cgroup.populated().unwrap());
    assert!(cgroup.pids().unwrap().is_empty());
    assert!(fork_bomb.has_exited() && nested.has_exited());
    cgroup.kill().unwrap();
}

#[test]
fn pids_are_those_of_all_cgroups_once_each() {
    let Some(sandbox) = Sandbox::enter("pids") else {
        return;
    };
    let cgroup = sandbox.create("c");
    let dir = cgroup.dir();
    std::fs::create_dir_all(dir.join("a/b")).unwrap();
    let mut expected = Vec::new();
    let processes: Vec<_> = [LEAF, "a/b", "a/b"]
        .iter()
        .map(|name| Process::start(&dir.join(name), None, "exec sleep 600"))
        .collect();
    expected.extend(processes.iter().map(|process| process.child.id()));
    // A threaded cgroup cannot list processes; its domain does.
    std::fs::create_dir(dir.join("a/b/threaded")).unwrap();
    std::fs::write(dir.join("a/b/threaded/cgroup.type"), "threaded").unwrap();
    std::fs::write(
        dir.join("a/b/threaded/cgroup.threads"),
        expected[1].to_string(),
    )
    .unwrap();
    assert!(std::fs::read(dir.join("a/b/threaded/cgroup.procs")).is_err());
    expected.sort_unstable();
    assert_eq!(cgroup.pids().unwrap(), expected);
    cgroup.kill().unwrap();
    drop(processes);
}

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
    let cgroup = Cgroup::create(&sandbox.hierarchy, &sandbox.path("c"), OWNER, &caps).unwrap();
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
                    match Cgroup::create(&sandbox.hierarchy, &path, OWNER, &caps) {
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

/// The shim inherits whatever umask its caller has; a process of its own, because threads share it.
#[test]
fn the_umask_does_not_matter() {
    const CHILD: &str = "CGROUP_UMASK_CHILD";
    if std::env::var_os(CHILD).is_none() {
        let me = std::env::current_exe().unwrap();
        let script = "umask 077; exec \"$0\" --exact the_umask_does_not_matter";
        let mut child = std::process::Command::new("/bin/sh");
        child
            .args(["-c", script])
            .arg(me)
            .env(CHILD, "1")
            .stdout(std::process::Stdio::null());
        assert_eq!(common::run(child), ExitStatus::Code(0));
        return;
    }
    let Some(sandbox) = Sandbox::enter("umask") else {
        return;
    };
    let cgroup = sandbox.create("c");
    for path in [cgroup.dir().to_owned(), cgroup.dir().join(LEAF)] {
        assert_eq!(std::fs::metadata(path).unwrap().mode() & 0o777, 0o755);
    }
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

fn write(controller: &str, file: &str, value: &str) -> Limits {
    Limits {
        writes: vec![Write {
            controller: controller.into(),
            file: file.into(),
            value: value.into(),
            field: format!("linux.resources.{file}"),
        }],
        ..Limits::default()
    }
}

#[test]
fn limits_are_written_where_the_host_has_the_controller() {
    let Some(sandbox) = Sandbox::enter("limits") else {
        return;
    };
    let cgroup = sandbox.create("a/b/c");
    let has = |controller: &str| {
        let list = text(sandbox.hierarchy.root().join("cgroup.controllers"));
        list.split_ascii_whitespace().any(|name| name == controller)
    };
    let mut tried = 0;
    for (controller, file, value) in [
        ("hugetlb", "hugetlb.2MB.max", "4194304"),
        ("pids", "pids.max", "77"),
        ("memory", "memory.max", "134217728"),
    ] {
        if !has(controller) {
            continue;
        }
        tried += 1;
        assert_eq!(cgroup.apply(&write(controller, file, value)).unwrap(), []);
        assert_eq!(text(cgroup.dir().join(file)).trim(), value);
        assert_eq!(owner(cgroup.dir().join(file)), (0, 0));
        let error = cgroup.apply(&write(controller, file, "many")).unwrap_err();
        let Error::Invalid { field, value, .. } = error else {
            panic!("{}", error.chain())
        };
        assert_eq!(
            (field, value),
            (format!("linux.resources.{file}"), "many".to_owned())
        );
    }
    assert!(
        tried > 0,
        "this machine's cgroup2 has no controller to test with"
    );

    let stats = cgroup.stats().unwrap();
    assert_eq!(stats.memory.is_some(), has("memory"));
    assert_eq!(stats.memory_events.is_some(), has("memory"));
    assert_eq!(cgroup.oom_kills(), has("memory").then_some(0));
    assert_eq!(stats.pids.map(|pids| pids.limit), has("pids").then_some(77));
    if has("hugetlb") {
        let huge = stats
            .hugetlb
            .iter()
            .find(|huge| huge.pagesize == "2MB")
            .unwrap();
        assert_eq!((huge.current, huge.max, huge.failcnt), (0, 4_194_304, 0));
    }
}

#[test]
fn limits_that_cannot_be_done_are_warnings_and_wrong_ones_errors() {
    let Some(sandbox) = Sandbox::enter("warnings") else {
        return;
    };
    let cgroup = sandbox.create("c");
    let warnings = cgroup.apply(&write("nosuch", "nosuch.max", "5")).unwrap();
    assert_eq!(warnings[0].field, "linux.resources.nosuch.max");
    let said = &warnings[0].text;
    assert!(
        said.contains("nosuch.max \"5\"") && said.contains("does not list"),
        "{said}"
    );
    let warnings = cgroup.apply(&write("", "cgroup.nosuch", "5")).unwrap();
    assert!(
        warnings[0].text.contains("no cgroup.nosuch"),
        "{}",
        warnings[0].text
    );
    assert!(matches!(
        cgroup.apply(&write("", "cgroup.max.depth", "deep")).unwrap_err(),
        Error::Invalid { field, .. } if field == "linux.resources.cgroup.max.depth"
    ));
    assert!(matches!(
        cgroup
            .apply(&write("", "../cgroup.max.depth", "1"))
            .unwrap_err(),
        Error::Invalid { .. }
    ));
}

#[test]
fn an_ancestor_with_processes_is_named_in_the_warning() {
    let Some(sandbox) = Sandbox::enter("refused") else {
        return;
    };
    let Some(controller) = sandbox.hierarchy.controllers().unwrap().pop() else {
        return common::skip("cgroup2 has no controller");
    };
    let busy = sandbox.absolute("busy");
    std::fs::create_dir_all(&busy).unwrap();
    let process = Process::start(&busy, None, "exec sleep 600");
    let cgroup = sandbox.create("busy/c");
    let file = format!("{controller}.max");
    let warnings = cgroup.apply(&write(&controller, &file, "1")).unwrap();
    let said = &warnings[0].text;
    assert!(said.contains("an ancestor does not enable"), "{said}");
    drop(process);
    drop(cgroup);
    eventually("removed", || std::fs::remove_dir(&busy).is_ok());
    std::fs::remove_dir(busy.parent().unwrap()).unwrap();
}

#[test]
fn counters_last_until_the_cgroup_is_removed() {
    let Some(sandbox) = Sandbox::enter("stats") else {
        return;
    };
    let cgroup = sandbox.create("c");
    let script = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done";
    let (_, status) = Process::start(&cgroup.dir().join(LEAF), None, script).finish();
    assert_eq!(status, ExitStatus::Code(0));
    let cpu = cgroup.stats().unwrap().cpu.unwrap();
    assert!(cpu.usage_usec > 0 && cpu.user_usec > 0, "{cpu:?}");
    let accounted = std::fs::read(cgroup.dir().join("cpu.pressure")).is_ok();
    assert_eq!(cpu.psi.is_some_and(|psi| psi.some.is_some()), accounted);
    cgroup.remove().unwrap();
    assert!(matches!(cgroup.stats().unwrap_err(), Error::NotFound(_)));
    assert_eq!(cgroup.oom_kills(), None);
    assert!(cgroup.pids().unwrap().is_empty());
    cgroup.kill().unwrap();
}

/// True where this machine's cgroup2 has the controller; says so where not. Which ones there are is up to the machine, so
/// that one is missing fails nowhere.
fn controller(sandbox: &Sandbox, name: &str) -> bool {
    let has = sandbox
        .hierarchy
        .controllers()
        .unwrap()
        .contains(&name.to_owned());
    if !has {
        eprintln!("skipped: cgroup2 has no {name} controller here");
    }
    has
}

#[test]
fn want_of_memory_is_counted() {
    let Some(sandbox) = Sandbox::enter("oom") else {
        return;
    };
    if !controller(&sandbox, "memory") {
        return;
    }
    let cgroup = sandbox.create("a/c");
    assert_eq!(cgroup.oom_kills(), Some(0));
    for (file, value) in [("memory.swap.max", "0"), ("memory.max", "16777216")] {
        cgroup.apply(&write("memory", file, value)).unwrap();
    }
    let greedy = "x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done";
    let (_, status) = Process::start(&cgroup.dir().join(LEAF), None, greedy).finish();
    assert_eq!(status, ExitStatus::Signal(9));
    assert_eq!(cgroup.oom_kills(), Some(1));
    let stats = cgroup.stats().unwrap();
    let (memory, events) = (stats.memory.unwrap(), stats.memory_events.unwrap());
    assert_eq!(
        (events.oom_kill, events.oom > 0, events.max > 0),
        (1, true, true)
    );
    assert_eq!(memory.usage_limit, 16_777_216);
    assert_eq!(memory.swap_limit, 0);
    assert!(
        memory.pgfault > 0 && memory.max_usage > 8 << 20,
        "{memory:?}"
    );
    assert!(memory.usage < memory.max_usage);
}

#[test]
fn processes_and_processor_time_are_limited_and_counted() {
    let Some(sandbox) = Sandbox::enter("pids-cpu") else {
        return;
    };
    let cgroup = sandbox.create("a/c");
    let leaf = cgroup.dir().join(LEAF);
    if controller(&sandbox, "pids") {
        cgroup.apply(&write("pids", "pids.max", "3")).unwrap();
        let process = Process::start(&leaf, None, "sleep 600 & sleep 600 & sleep 600 & wait");
        eventually("three of four", || cgroup.pids().unwrap().len() >= 3);
        let pids = cgroup.stats().unwrap().pids.unwrap();
        assert_eq!((pids.current, pids.limit), (3, 3));
        cgroup.kill().unwrap();
        drop(process);
        cgroup.apply(&write("pids", "pids.max", "max")).unwrap();
        assert_eq!(cgroup.stats().unwrap().pids.unwrap().limit, u64::MAX);
    }
    if controller(&sandbox, "cpu") {
        cgroup
            .apply(&write("cpu", "cpu.max", "10000 100000"))
            .unwrap();
        let _process = Process::start(&leaf, None, "while :; do :; done");
        eventually("throttled", || {
            let cpu = cgroup.stats().unwrap().cpu.unwrap();
            cpu.nr_throttled > 0 && cpu.throttled_usec > 0 && cpu.nr_periods > 0
        });
        cgroup.kill().unwrap();
    }
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
