//! The rest of `linux`, and `hooks`.

use serde_json::{Value, json};

use super::super::{plan, put, spec};
use super::{case, check};

#[test]
fn paths_devices_sysctls_and_hooks() {
    let device = |path: &str, kind: &str, major: i64, minor: i64| json!([{"path": path, "type": kind, "major": major, "minor": minor}]);
    check(&[
        case(
            "/linux/maskedPaths",
            json!(["/a", "b"]),
            ["linux.maskedPaths[1]", "b", "absolute"],
        ),
        case(
            "/linux/readonlyPaths",
            json!(["/../etc"]),
            ["linux.readonlyPaths[0]", "/../etc", "`..`"],
        ),
        case(
            "/linux/devices",
            device("/dev", "c", 1, 5),
            ["linux.devices[0].path", "/dev", "its own entry"],
        ),
        case(
            "/linux/devices",
            device("/", "c", 1, 5),
            ["linux.devices[0].path", "/", "its own entry"],
        ),
        case(
            "/linux/devices",
            json!([{"path": "/dev/x", "type": "c"}, {"path": "/dev//x", "type": "c"}]),
            ["linux.devices[1].path", "/dev/x", "once"],
        ),
        case(
            "/linux/devices",
            device("/dev/null", "c", 1, 5),
            ["linux.devices[0].path", "/dev/null", "its own device"],
        ),
        case(
            "/linux/devices",
            device("/dev/shm/x", "c", 1, 5),
            ["linux.devices[0].path", "/dev/shm/x", "its own entry"],
        ),
        case(
            "/linux/devices",
            device("/proc/x", "c", 1, 5),
            ["linux.devices[0].path", "/proc/x", "outside /proc"],
        ),
        case(
            "/linux/devices",
            device("sda", "b", 8, 0),
            ["linux.devices[0].path", "sda", "absolute"],
        ),
        case(
            "/linux/devices",
            device("/dev/x", "a", 1, 5),
            ["linux.devices[0].type", "a", "c, b, u or p"],
        ),
        case(
            "/linux/devices",
            device("/dev/x", "c", 4096, 5),
            ["linux.devices[0].major", "4096", "4095"],
        ),
        case(
            "/linux/devices",
            device("/dev/x", "c", 1, -1),
            ["linux.devices[0].minor", "-1", "1048575"],
        ),
        case(
            "/linux/devices",
            json!([{"path": "/dev/x", "type": "c", "fileMode": 0x0020_0000}]),
            ["linux.devices[0].fileMode", "2097152", "07777"],
        ),
        case(
            "/linux/sysctl",
            json!({"kernel.core_pattern": "|/x"}),
            ["linux.sysctl.kernel.core_pattern", "|/x", "on the host"],
        ),
        case(
            "/linux/sysctl",
            json!({"vm.swappiness": "1"}),
            ["linux.sysctl.vm.swappiness", "1", "namespace"],
        ),
        case(
            "/linux/sysctl",
            json!({"net/../kernel/x": "1"}),
            ["linux.sysctl", "net/../kernel/x", "sysctl.conf"],
        ),
        case(
            "/linux/sysctl",
            json!({"net.ipv4.ip_forward": "1\nkernel.core_pattern=x"}),
            [
                "linux.sysctl.net.ipv4.ip_forward",
                "1\\nkernel",
                "line breaks",
            ],
        ),
        case(
            "/hooks",
            json!({"createRuntime": [{"path": "hook"}]}),
            ["hooks.createRuntime[0].path", "hook", "absolute"],
        ),
        case(
            "/hooks",
            json!({"poststop": [{"path": "/h", "timeout": 0}]}),
            ["hooks.poststop[0].timeout", "0", "at least 1"],
        ),
        case(
            "/hooks",
            json!({"prestart": [{"path": "/h", "env": ["A=1", "B"]}]}),
            ["hooks.prestart[0].env[1]", "B", "NAME=VALUE"],
        ),
        case(
            "/linux/cgroupsPath",
            json!("/a/../b"),
            ["linux.cgroupsPath", "/a/../b", "`..`"],
        ),
        case(
            "/linux/cgroupsPath",
            json!("a:b"),
            ["linux.cgroupsPath", "a:b", "slice:prefix:name"],
        ),
        case(
            "/linux/cgroupsPath",
            json!("/"),
            ["linux.cgroupsPath", "/", "below the root"],
        ),
        case(
            "/linux/mountLabel",
            json!("s0"),
            ["linux.mountLabel", "s0", "label=disable"],
        ),
        case(
            "/linux/intelRdt",
            json!({"closID": "x"}),
            ["linux.intelRdt", "x", "resctrl"],
        ),
        case(
            "/linux/memoryPolicy",
            json!({"mode": "MPOL_BIND"}),
            ["linux.memoryPolicy", "Bind", "cpu.mems"],
        ),
        case(
            "/linux/netDevices",
            json!({"eth1": {}}),
            ["linux.netDevices", "eth1", "CNI"],
        ),
        case(
            "/linux/personality",
            json!({"domain": "LINUX32"}),
            ["linux.personality", "LINUX32", "setarch"],
        ),
    ]);
    let mut spec = spec("ctr");
    put(&mut spec, "/hostname", json!("a"));
    put(&mut spec, "/linux/sysctl", json!({"kernel.hostname": "b"}));
    let error = plan(&spec).unwrap_err().to_string();
    assert!(
        error.starts_with("linux.sysctl.kernel.hostname: b: "),
        "{error}"
    );
}

#[test]
fn seccomp() {
    let s = "/linux/seccomp";
    let rule = |rule: Value| json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule]});
    check(&[
        case(
            s,
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/l"}),
            ["linux.seccomp.listenerPath", "/run/l", "the runtime's"],
        ),
        case(
            s,
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "m"}),
            ["linux.seccomp.listenerMetadata", "m", "no listener"],
        ),
        case(
            s,
            json!({"defaultAction": "SCMP_ACT_NOTIFY"}),
            [
                "linux.seccomp.defaultAction",
                "SCMP_ACT_NOTIFY",
                "another action",
            ],
        ),
        case(
            s,
            json!({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}),
            ["linux.seccomp.defaultErrnoRet", "1", "no error number"],
        ),
        case(
            s,
            rule(json!({"names": ["swapon"], "action": "SCMP_ACT_NOTIFY"})),
            [
                "linux.seccomp.syscalls[0].action",
                "SCMP_ACT_NOTIFY",
                "another action",
            ],
        ),
        case(
            s,
            rule(json!({"names": [], "action": "SCMP_ACT_ALLOW"})),
            ["linux.seccomp.syscalls[0].names", "none", "at least one"],
        ),
        case(
            s,
            rule(json!({"names": ["swapon"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5000})),
            ["linux.seccomp.syscalls[0].errnoRet", "5000", "4095"],
        ),
        case(
            s,
            rule(json!({"names": ["swapon"], "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]})),
            ["linux.seccomp.syscalls[0].args[0].index", "6", "0 to 5"],
        ),
        case(
            s,
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["listns"], "action": "SCMP_ACT_ERRNO",
                "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]}]}),
            [
                "linux.seccomp.syscalls",
                "arguments of listns",
                "remove args",
            ],
        ),
    ]);
}
