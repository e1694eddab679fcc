//! What a spec can make us hold is bounded.

use serde_json::{Value, json};

use super::{case, check, linux_mapped};

/// `len` copies of `entry`.
fn many(len: usize, entry: Value) -> Value {
    json!(vec![entry; len])
}

/// A table of `len` keys.
fn table(len: usize, key: impl Fn(usize) -> String, value: Value) -> Value {
    let table: serde_json::Map<String, Value> = (0..len).map(|i| (key(i), value.clone())).collect();
    json!(table)
}

#[test]
fn lists() {
    let lines: Vec<[u32; 3]> = (0..341)
        .map(|i| [i * 1000, 100_000 + i * 1000, 1000])
        .collect();
    let rdma = json!({"hcaHandles": 1});
    let rule = json!({"names": ["read"], "action": "SCMP_ACT_LOG"});
    let device = json!({"path": "/dev/x", "type": "c"});
    let mount = json!({"destination": "/m", "source": "/s", "options": ["bind"]});
    let resources = "/linux/resources";
    check(&[
        case(
            "/linux",
            linux_mapped(&lines),
            ["linux.uidMappings", "341 entries", "340"],
        ),
        case(
            "/linux/namespaces",
            many(9, json!({"type": "pid"})),
            ["linux.namespaces", "9 entries", "8"],
        ),
        case(
            "/linux/devices",
            many(10_001, device),
            ["linux.devices", "10001 entries", "10000"],
        ),
        case(
            "/linux/maskedPaths",
            many(10_001, json!("/x")),
            ["linux.maskedPaths", "10001 entries", "10000"],
        ),
        case(
            "/linux/readonlyPaths",
            many(10_001, json!("/x")),
            ["linux.readonlyPaths", "10001 entries", "10000"],
        ),
        case(
            "/linux/sysctl",
            table(4097, |i| format!("net.x.{i}"), json!("1")),
            ["linux.sysctl", "4097 entries", "4096"],
        ),
        case(
            "/mounts",
            many(10_001, mount),
            ["mounts", "10001 entries", "10000"],
        ),
        case(
            "/mounts",
            json!([{"destination": "/m", "source": "/s", "options": many(4097, json!("bind"))}]),
            ["mounts[0].options", "4097 entries", "4096"],
        ),
        case(
            "/process/env",
            many(65_537, json!("A=1")),
            ["process.env", "65537 entries", "65536"],
        ),
        case(
            "/process/args",
            many(131_073, json!("a")),
            ["process.args", "131073 entries", "131072"],
        ),
        case(
            "/process/user/additionalGids",
            many(65_537, json!(0)),
            ["process.user.additionalGids", "65537 entries", "65536"],
        ),
        case(
            "/hooks",
            json!({"poststart": many(257, json!({"path": "/h"}))}),
            ["hooks.poststart", "257 entries", "256"],
        ),
        case(
            "/hooks",
            json!({"poststart": [{"path": "/h", "args": many(65_537, json!("a"))}]}),
            ["hooks.poststart[0].args", "65537 entries", "65536"],
        ),
        case(
            "/annotations",
            table(10_001, |i| i.to_string(), json!("")),
            ["annotations", "10001 entries", "10000"],
        ),
        case(
            resources,
            json!({"devices": many(10_001, json!({"allow": true}))}),
            ["linux.resources.devices", "10001 entries", "10000"],
        ),
        case(
            resources,
            json!({"unified": table(4097, |i| format!("memory.{i}"), json!("1"))}),
            ["linux.resources.unified", "4097 entries", "4096"],
        ),
        case(
            resources,
            json!({"rdma": table(4097, |i| i.to_string(), rdma)}),
            ["linux.resources.rdma", "4097 entries", "4096"],
        ),
        case(
            resources,
            json!({"hugepageLimits": many(4097, json!({"pageSize": "2MB", "limit": 1}))}),
            ["linux.resources.hugepageLimits", "4097 entries", "4096"],
        ),
        case(
            resources,
            json!({"blockIO": {"weightDevice": many(4097, json!({"major": 1, "minor": 1, "weight": 10}))}}),
            [
                "linux.resources.blockIO.weightDevice",
                "4097 entries",
                "4096",
            ],
        ),
        case(
            resources,
            json!({"blockIO": {"throttleWriteBpsDevice": many(4097, json!({"major": 1, "minor": 1, "rate": 1}))}}),
            [
                "linux.resources.blockIO.throttleWriteBpsDevice",
                "4097 entries",
                "4096",
            ],
        ),
        case(
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": many(4097, rule)}),
            ["linux.seccomp.syscalls", "4097 rules", "4096"],
        ),
        case(
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls":
                [{"names": many(16_385, json!("read")), "action": "SCMP_ACT_LOG"}]}),
            ["linux.seccomp.syscalls", "16385 names", "16384"],
        ),
        case(
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_LOG",
                "args": many(65, json!({"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}))}]}),
            ["linux.seccomp.syscalls[0].args", "65 entries", "64"],
        ),
    ]);
}

#[test]
fn strings() {
    let long = |len: usize| "x".repeat(len);
    check(&[
        case(
            "/process/cwd",
            json!(format!("/{}", long(4095))),
            ["process.cwd", "/xxx", "4095"],
        ),
        case(
            "/annotations",
            json!({"k": long((1 << 20) + 1)}),
            ["annotations.k", "xxx", "1048576"],
        ),
        case(
            "/annotations",
            json!({(long(4097)): ""}),
            ["annotations", "xxx", "4096"],
        ),
        case(
            "/annotations",
            json!({"k": "a\u{0}"}),
            ["annotations.k", "a\\0", "NUL"],
        ),
        case(
            "/linux/cgroupsPath",
            json!(format!("/{}", long(256))),
            ["linux.cgroupsPath", "xxx", "255"],
        ),
        case(
            "/linux/cgroupsPath",
            json!("/a\nb"),
            ["linux.cgroupsPath", "/a\\nb", "control characters"],
        ),
        case(
            "/linux/sysctl",
            json!({(format!("net.{}", long(252))): "1"}),
            ["linux.sysctl", "net.xxx", "sysctl.conf"],
        ),
        case(
            "/linux/sysctl",
            json!({"net.x.y": long(4097)}),
            ["linux.sysctl.net.x.y", "xxx", "4096"],
        ),
        case(
            "/linux/resources",
            json!({"unified": {"memory.high": long(4097)}}),
            ["linux.resources.unified", "memory.high=xxx", "4096"],
        ),
        case(
            "/hooks",
            json!({"prestart": [{"path": "/h", "args": ["a", "b\u{0}"]}]}),
            ["hooks.prestart[0].args[1]", "b\\0", "NUL"],
        ),
        case(
            "/mounts",
            json!([{"destination": "/m", "type": long(65)}]),
            ["mounts[0].type", "xxx", "64"],
        ),
    ]);
}
