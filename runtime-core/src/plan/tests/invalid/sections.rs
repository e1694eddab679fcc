//! Sections, namespaces and mappings.

use serde_json::json;

use super::super::{plan, put, spec};
use super::{case, check, linux_mapped, long, mappings, namespaces_and, without};

#[test]
fn sections() {
    check(&[
        case(
            "/ociVersion",
            json!("2.0.0"),
            ["ociVersion", "2.0.0", "version 1"],
        ),
        case("/ociVersion", json!(""), ["ociVersion", "", "version 1"]),
        case(
            "/vm",
            json!({"kernel": {"path": "/k"}}),
            ["vm", "given", "remove the section"],
        ),
        case(
            "/solaris",
            json!({}),
            ["solaris", "given", "remove the section"],
        ),
        case(
            "/windows",
            json!({"layerFolders": []}),
            ["windows", "given", "remove the section"],
        ),
        case(
            "/uidMappings",
            mappings(&[[0, 1, 1]]),
            ["uidMappings", "given", "linux.uidMappings"],
        ),
        case("/linux", json!(null), ["linux", "none", "namespaces"]),
        case("/process", json!(null), ["process", "none", "program"]),
        case("/root", json!(null), ["root", "none", "root file system"]),
        case("/root/path", json!(""), ["root.path", "empty", "directory"]),
        case("/root/path", json!("/"), ["root.path", "/", "host's root"]),
        case("/root/path", json!("../x"), ["root.path", "../x", "`..`"]),
        case("/hostname", json!(long(65)), ["hostname", "xxx", "64"]),
        case(
            "/hostname",
            json!("a\nb"),
            ["hostname", "a\\nb", "control characters"],
        ),
        case(
            "/domainname",
            json!("a\u{0}b"),
            ["domainname", "a\\0b", "NUL"],
        ),
        case(
            "/annotations",
            json!({"": "x"}),
            ["annotations", "empty key", "name it"],
        ),
    ]);
}

#[test]
fn namespaces() {
    let no = |kind: &str| without(kind);
    check(&[
        case(
            "/linux/namespaces",
            no("pid"),
            ["linux.namespaces", "pid", "hostPID"],
        ),
        case(
            "/linux/namespaces",
            no("network"),
            ["linux.namespaces", "network", "--net"],
        ),
        case(
            "/linux/namespaces",
            no("ipc"),
            ["linux.namespaces", "ipc", "hostIPC"],
        ),
        case(
            "/linux/namespaces",
            no("uts"),
            ["linux.namespaces", "uts", "--uts=host"],
        ),
        case(
            "/linux/namespaces",
            no("mount"),
            ["linux.namespaces", "mount", "{\"type\": \"mount\"}"],
        ),
        case(
            "/linux/namespaces",
            namespaces_and(json!({"type": "pid"})),
            ["linux.namespaces[5].type", "pid", "once"],
        ),
        case(
            "/linux/namespaces/3/path",
            json!("/proc/7/ns/mnt"),
            ["linux.namespaces[3].path", "/proc/7/ns/mnt", "always new"],
        ),
        case(
            "/linux/namespaces/4/path",
            json!("/proc/1/ns/net"),
            ["linux.namespaces[4].path", "/proc/1/ns/net", "hostNetwork"],
        ),
        case(
            "/linux/namespaces/0/path",
            json!("/proc/thread-self/ns/pid"),
            ["linux.namespaces[0].path", "thread-self", "hostPID"],
        ),
        case(
            "/linux/namespaces/0/path",
            json!("ns/pid"),
            ["linux.namespaces[0].path", "ns/pid", "absolute"],
        ),
        case(
            "/linux/timeOffsets",
            json!({"realtime": {"secs": 1}}),
            ["linux.timeOffsets", "realtime", "monotonic"],
        ),
        case(
            "/linux/timeOffsets",
            json!({"boottime": {"secs": 1, "nanosecs": 1_000_000_000}}),
            [
                "linux.timeOffsets.boottime.nanosecs",
                "1000000000",
                "999999999",
            ],
        ),
        case(
            "/linux/timeOffsets",
            json!({"monotonic": {"secs": -5_000_000_000_i64}}),
            [
                "linux.timeOffsets.monotonic.secs",
                "-5000000000",
                "146 years",
            ],
        ),
    ]);
    let mut spec = spec("ctr");
    let time = json!({"type": "time", "path": "/proc/9/ns/time"});
    put(&mut spec, "/linux/namespaces", namespaces_and(time));
    put(
        &mut spec,
        "/linux/timeOffsets",
        json!({"boottime": {"secs": 1}}),
    );
    let error = plan(&spec).unwrap_err().to_string();
    assert!(
        error.starts_with("linux.timeOffsets: /proc/9/ns/time: "),
        "{error}"
    );
}

#[test]
fn id_mappings() {
    check(&[
        case(
            "/linux/uidMappings",
            mappings(&[[0, 100_000, 65536]]),
            ["linux.gidMappings", "none", "linux.uidMappings is given"],
        ),
        case(
            "/linux/gidMappings",
            mappings(&[[0, 100_000, 65536]]),
            ["linux.uidMappings", "none", "linux.gidMappings is given"],
        ),
        case(
            "/linux",
            linux_mapped(&[[0, 100_000, 1000]]),
            ["linux.uidMappings", "1000 ids", "65535"],
        ),
        case(
            "/linux",
            linux_mapped(&[[1, 100_000, 65536]]),
            ["linux.uidMappings", "1:100000:65536", "containerID 0"],
        ),
        case(
            "/linux",
            linux_mapped(&[[0, 0, 65536]]),
            ["linux.uidMappings[0].hostID", "0:0:65536", "above 0"],
        ),
        case(
            "/linux",
            linux_mapped(&[[0, 100_000, 0]]),
            ["linux.uidMappings[0].size", "0", "at least one"],
        ),
        case(
            "/linux",
            linux_mapped(&[[0, 4_294_900_000, 131_072]]),
            [
                "linux.uidMappings[0].hostID",
                "4294900000",
                "below 4294967295",
            ],
        ),
        case(
            "/linux",
            linux_mapped(&[[0, 100_000, 65536], [65535, 300_000, 10]]),
            [
                "linux.uidMappings[1].containerID",
                "65535:300000:10",
                "overlap with line 0",
            ],
        ),
        case(
            "/linux",
            linux_mapped(&[[0, 100_000, 65536], [65536, 165_535, 10]]),
            [
                "linux.uidMappings[1].hostID",
                "65536:165535:10",
                "overlap with line 0",
            ],
        ),
        case(
            "/linux",
            linux_mapped(&[[0, 100_000, 60000], [60001, 200_000, 65536]]),
            ["linux.uidMappings", "60000 ids", "65535"],
        ),
        case(
            "/process/user/uid",
            json!(1_048_576),
            ["process.user.uid", "1048576", "ids.per-pod"],
        ),
        case(
            "/process/user/gid",
            json!(4_294_967_295_u32),
            ["process.user.gid", "4294967295", "mapped"],
        ),
        case(
            "/process/user/additionalGids",
            json!([0, 2_000_000]),
            ["process.user.additionalGids[1]", "2000000", "mapped"],
        ),
    ]);
}
