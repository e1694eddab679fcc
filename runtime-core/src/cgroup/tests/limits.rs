//! Limits and counters.

use crate::Error;
use crate::cgroup::LEAF;
use crate::cgroup::limits::{Limits, Write};
use crate::kernel::reap::ExitStatus;

use super::sandbox::{self, Process, Sandbox, eventually};
use super::{owner, text};

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
        return sandbox::skip("cgroup2 has no controller");
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
