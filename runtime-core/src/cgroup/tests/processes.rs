//! Processes frozen, thawed, killed, listed.

use std::time::Duration;

use crate::cgroup::LEAF;

use super::sandbox::{Process, Sandbox, eventually};

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
