//! `process`.

use serde_json::json;

use super::super::{plan, put, spec};
use super::{case, check, long};

#[test]
fn process() {
    check(&[
        case(
            "/process/args",
            json!([]),
            ["process.args", "[]", "entry point"],
        ),
        case(
            "/process/args",
            json!([""]),
            ["process.args", "[\"\"]", "name the program"],
        ),
        case(
            "/process/args",
            json!(["a", "b\u{0}"]),
            ["process.args[1]", "b\\0", "NUL"],
        ),
        case(
            "/process/args",
            json!([long(131_072)]),
            ["process.args[0]", "xxx", "131071"],
        ),
        case(
            "/process/commandLine",
            json!("a b"),
            ["process.commandLine", "a b", "process.args"],
        ),
        case(
            "/process/env",
            json!(["A=1", "B"]),
            ["process.env[1]", "B", "NAME=VALUE"],
        ),
        case(
            "/process/env",
            json!(["=1"]),
            ["process.env[0]", "=1", "NAME=VALUE"],
        ),
        case(
            "/process/env",
            json!(["A=\u{0}"]),
            ["process.env[0]", "A=\\0", "NUL"],
        ),
        case(
            "/process/cwd",
            json!("/proc/self/cwd"),
            ["process.cwd", "/proc/self/cwd", "directory itself"],
        ),
        case(
            "/process/cwd",
            json!("/proc/9/task/9/root"),
            ["process.cwd", "task/9/root", "directory itself"],
        ),
        case(
            "/process/cwd",
            json!("/proc/9/map_files"),
            ["process.cwd", "map_files", "directory itself"],
        ),
        case(
            "/process/cwd",
            json!("tmp"),
            ["process.cwd", "tmp", "absolute"],
        ),
        case("/process/cwd", json!(""), ["process.cwd", "", "absolute"]),
        case(
            "/process/cwd",
            json!("/proc/self/fd/7"),
            ["process.cwd", "/proc/self/fd/7", "directory itself"],
        ),
        case(
            "/process/cwd",
            json!("/proc/1/root"),
            ["process.cwd", "/proc/1/root", "directory itself"],
        ),
        case(
            "/process/cwd",
            json!("/a/../b"),
            ["process.cwd", "/a/../b", "`..`"],
        ),
        case(
            "/process/user/username",
            json!("root"),
            ["process.user.username", "root", "process.user.uid"],
        ),
        case(
            "/process/user/umask",
            json!(512),
            ["process.user.umask", "01000", "0777"],
        ),
        case(
            "/process/selinuxLabel",
            json!("s0:c1"),
            ["process.selinuxLabel", "s0:c1", "label=disable"],
        ),
        case(
            "/process/apparmorProfile",
            json!("mine"),
            ["process.apparmorProfile", "mine", "unconfined"],
        ),
        case(
            "/process/scheduler",
            json!({"policy": "SCHED_FIFO", "priority": 10}),
            ["process.scheduler", "SCHED_FIFO", "chrt"],
        ),
        case(
            "/process/execCPUAffinity",
            json!({"initial": "0"}),
            ["process.execCPUAffinity", "0", "cpu.cpus"],
        ),
        case(
            "/process/oomScoreAdj",
            json!(1001),
            ["process.oomScoreAdj", "1001", "-1000 to 1000"],
        ),
        case(
            "/process/ioPriority",
            json!({"class": "IOPRIO_CLASS_BE", "priority": 8}),
            ["process.ioPriority.priority", "8", "0 (highest) to 7"],
        ),
        case(
            "/process/rlimits",
            json!([{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}]),
            [
                "process.rlimits[0].soft",
                "2 of RLIMIT_CORE",
                "hard limit, 1",
            ],
        ),
        case(
            "/process/rlimits",
            json!([{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}, {"type": "RLIMIT_CPU", "soft": 2, "hard": 2}]),
            ["process.rlimits[1].type", "RLIMIT_CPU", "once"],
        ),
    ]);
    let mut spec = spec("ctr");
    put(&mut spec, "/process/terminal", json!(true));
    put(
        &mut spec,
        "/process/consoleSize",
        json!({"width": 80, "height": 70000}),
    );
    let error = plan(&spec).unwrap_err().to_string();
    assert!(
        error.starts_with("process.consoleSize.height: 70000: "),
        "{error}"
    );
}

#[test]
fn sysbox_variables_and_capabilities() {
    let env = |variable: &str| json!(["PATH=/bin", variable]);
    check(&[
        case(
            "/process/env",
            env("SYSBOX_HONOUR_CAPS=TRUE"),
            [
                "process.env",
                "SYSBOX_HONOUR_CAPS=TRUE",
                "SYSBOX_HONOR_CAPS",
            ],
        ),
        case(
            "/process/env",
            env("SYSBOX_HONOR_CAPS=true"),
            ["process.env.SYSBOX_HONOR_CAPS", "true", "TRUE or FALSE"],
        ),
        case(
            "/process/env",
            env("SYSBOX_SYSCONT_MODE=FALSE"),
            ["process.env.SYSBOX_SYSCONT_MODE", "FALSE", "use runc"],
        ),
        case(
            "/process/env",
            env("SYSBOX_IGNORE_SYSFS_CHOWN=yes"),
            [
                "process.env.SYSBOX_IGNORE_SYSFS_CHOWN",
                "yes",
                "TRUE or FALSE",
            ],
        ),
        case(
            "/process/env",
            env("SYSBOX_ALLOW_TRUSTED_XATTR=TRUE"),
            [
                "process.env.SYSBOX_ALLOW_TRUSTED_XATTR",
                "TRUE",
                "user.overlay",
            ],
        ),
        case(
            "/process/env",
            env("SYSBOX_SKIP_UID_SHIFT=/a,b"),
            ["process.env.SYSBOX_SKIP_UID_SHIFT", "b", "absolute"],
        ),
        case(
            "/process/env",
            env("SYSBOX_SKIP_UID_SHIFT=/a, /b"),
            ["process.env.SYSBOX_SKIP_UID_SHIFT", "/a, /b", "white space"],
        ),
        case(
            "/process/env",
            env("SYSBOX_SKIP_UID_SHIFT="),
            ["process.env.SYSBOX_SKIP_UID_SHIFT", "", "absolute paths"],
        ),
    ]);
    for (capabilities, want) in [
        (
            json!({"permitted": [], "effective": ["CAP_CHOWN"]}),
            [
                "process.capabilities.effective",
                "CAP_CHOWN",
                "process.capabilities.permitted",
            ],
        ),
        (
            json!({"permitted": [], "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]}),
            [
                "process.capabilities.ambient",
                "CAP_KILL",
                "process.capabilities.permitted",
            ],
        ),
        (
            json!({"permitted": ["CAP_KILL"], "ambient": ["CAP_KILL"]}),
            [
                "process.capabilities.ambient",
                "CAP_KILL",
                "process.capabilities.inheritable",
            ],
        ),
    ] {
        let mut spec = spec("ctr");
        put(&mut spec, "/process/env", env("SYSBOX_HONOR_CAPS=TRUE"));
        put(&mut spec, "/process/capabilities", capabilities);
        let error = plan(&spec).unwrap_err().to_string();
        assert!(want.iter().all(|part| error.contains(part)), "{error}");
    }
}
