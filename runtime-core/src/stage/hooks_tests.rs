//! Hooks as processes.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::plan::Hook;
use crate::stage::hooks::{HookState, Status, run, run_all};

fn shell(script: &str) -> Hook {
    Hook {
        path: "/bin/sh".into(),
        args: ["sh", "-c", script].map(String::from).into(),
        env: vec!["PATH=/usr/bin:/bin".into()],
        timeout: Some(20),
    }
}

fn state() -> HookState {
    HookState {
        oci_version: "1.2.0".into(),
        id: "c1".into(),
        status: Status::Creating,
        pid: Some(42),
        bundle: "/b".into(),
        annotations: BTreeMap::from([("a".into(), "b".into())]),
    }
}

fn fails(hook: Hook, cwd: &Path) -> String {
    run("createRuntime", &[hook], &state(), cwd)
        .unwrap_err()
        .chain()
}

#[test]
fn a_hook_gets_its_state_arguments_environment_and_directory() {
    let dir = tempfile::tempdir().unwrap();
    let hook = Hook {
        path: "/bin/sh".into(),
        args: [
            "a name",
            "-c",
            "cat >state; echo \"$0\" >name; /usr/bin/env >env; pwd >cwd",
        ]
        .map(String::from)
        .into(),
        env: vec!["A=1".into(), "B=x=y".into(), "C=".into()],
        timeout: None,
    };
    run("prestart", &[hook], &state(), dir.path()).unwrap();
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&read("state")).unwrap(),
        serde_json::json!({
            "ociVersion": "1.2.0", "id": "c1", "status": "creating", "pid": 42, "bundle": "/b", "annotations": {"a": "b"}
        })
    );
    assert_eq!(read("name"), "a name\n");
    assert_eq!(
        read("cwd").trim(),
        dir.path().canonicalize().unwrap().to_str().unwrap()
    );
    let env = read("env");
    let mut env: Vec<_> = env
        .lines()
        .filter(|line| !line.starts_with("PWD=") && !line.starts_with("_="))
        .collect();
    env.sort_unstable();
    assert_eq!(env, ["A=1", "B=x=y", "C="]);
}

#[test]
fn no_arguments_means_the_path_alone() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("hook");
    std::fs::write(&script, "#!/bin/sh\necho \"$#\" >count\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let hook = Hook {
        path: script.to_str().unwrap().into(),
        args: vec![],
        env: vec![],
        timeout: None,
    };
    run("prestart", &[hook], &state(), dir.path()).unwrap();
    assert_eq!(
        std::fs::read_to_string(dir.path().join("count")).unwrap(),
        "0\n"
    );
}

#[test]
fn the_first_failure_stops_and_is_told_whole() {
    let dir = tempfile::tempdir().unwrap();
    let hooks = [
        shell("true"),
        shell("echo said; echo complained >&2; exit 7"),
        shell("touch ran"),
    ];
    let error = run("createRuntime", &hooks, &state(), dir.path())
        .unwrap_err()
        .chain();
    assert_eq!(
        error,
        "run hook hooks.createRuntime[1] /bin/sh: exit status 7: said\ncomplained"
    );
    assert!(!dir.path().join("ran").exists());

    let warnings = run_all("poststop", &hooks, &state(), dir.path());
    assert_eq!(warnings.len(), 1);
    assert_eq!(warnings[0].field, "hooks.poststop[1]");
    assert!(
        warnings[0].text.contains("exit status 7: said"),
        "{}",
        warnings[0].text
    );
    assert!(dir.path().join("ran").exists());
}

#[test]
fn signals_and_missing_programs_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let error = fails(shell("kill -9 $$"), dir.path());
    assert!(error.ends_with("killed by signal 9"), "{error}");
    let missing = Hook {
        path: "/no/such".into(),
        ..shell("")
    };
    let error = fails(missing, dir.path());
    assert!(
        error.contains("hooks.createRuntime[0] /no/such: No such file"),
        "{error}"
    );
}

#[test]
fn time_is_limited_and_the_whole_group_killed() {
    let dir = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let mut hook = shell("sleep 600 & echo $! >child; echo waiting; wait");
    hook.timeout = Some(1);
    let error = fails(hook, dir.path());
    assert!(
        error.ends_with("killed after its timeout of 1 s: waiting"),
        "{error}"
    );
    assert!(start.elapsed() < Duration::from_secs(10));
    let child = std::fs::read_to_string(dir.path().join("child")).unwrap();
    let gone = || {
        // A zombie until its new parent reaps it.
        std::fs::read_to_string(format!("/proc/{}/stat", child.trim()))
            .map_or(true, |stat| stat.contains(") Z "))
    };
    while !gone() {
        assert!(start.elapsed() < Duration::from_secs(10), "{child} lives");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn much_output_and_state_unread_or_large_do_not_block() {
    let dir = tempfile::tempdir().unwrap();
    let error = fails(
        shell("exec 0<&-; i=0; while [ $i -lt 40000 ]; do echo line $i; i=$((i+1)); done; exit 1"),
        dir.path(),
    );
    assert!(error.ends_with("line 39999"), "{error}");
    assert!(error.len() < 5000, "{}", error.len());

    let mut big = state();
    big.annotations.insert("big".into(), "x".repeat(1 << 20));
    let count = shell("sleep 0.1; wc -c >size");
    run("prestart", &[count], &big, dir.path()).unwrap();
    let size = std::fs::read_to_string(dir.path().join("size")).unwrap();
    assert_eq!(
        size.trim().parse::<usize>().unwrap(),
        serde_json::to_vec(&big).unwrap().len()
    );
}

#[test]
fn time_is_limited_though_the_state_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut big = state();
    big.annotations.insert("big".into(), "x".repeat(1 << 20));
    let mut hook = shell("exec sleep 600");
    hook.timeout = Some(1);
    let error = run("prestart", &[hook], &big, dir.path())
        .unwrap_err()
        .chain();
    assert!(
        error.ends_with("killed after its timeout of 1 s"),
        "{error}"
    );
}

#[test]
fn a_daemon_that_a_hook_leaves_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let start = Instant::now();
    run(
        "prestart",
        &[shell("sleep 600 & echo $! >child")],
        &state(),
        dir.path(),
    )
    .unwrap();
    assert!(start.elapsed() < Duration::from_secs(10));
    let child = std::fs::read_to_string(dir.path().join("child")).unwrap();
    let child = rustix::process::Pid::from_raw(child.trim().parse().unwrap()).unwrap();
    // It still runs: only a hook that overruns its time takes its children with it.
    rustix::process::kill_process(child, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn nothing_is_left_open() {
    let dir = tempfile::tempdir().unwrap();
    // In a process of its own: other tests open descriptors meanwhile.
    if std::env::var_os("HOOKS_FD_CHILD").is_none() {
        let me = std::env::current_exe().unwrap();
        let hook = Hook {
            path: me.to_str().unwrap().into(),
            args: [
                "hooks",
                "--exact",
                "stage::hooks_tests::nothing_is_left_open",
            ]
            .map(String::from)
            .into(),
            env: vec!["HOOKS_FD_CHILD=1".into(), "PATH=/usr/bin:/bin".into()],
            timeout: None,
        };
        run("prestart", &[hook], &state(), dir.path()).unwrap();
        assert!(dir.path().join("done").exists());
        return;
    }
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    for _ in 0..3 {
        run("prestart", &[shell("true")], &state(), dir.path()).unwrap();
        run("prestart", &[shell("false")], &state(), dir.path()).unwrap_err();
        let missing = Hook {
            path: "/no/such".into(),
            ..shell("")
        };
        run("prestart", &[missing], &state(), dir.path()).unwrap_err();
    }
    assert_eq!(open(), before);
    assert_eq!(std::fs::read_dir("/proc/self/task").unwrap().count(), 2); // the harness and this test
    std::fs::write("done", "").unwrap();
}
