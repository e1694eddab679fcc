//! `linux.resources` becomes exactly these writes, in this order.

use crate::cgroup::limits::Limits;
use serde_json::{Value, json};

/// Files and values, and the fields of warnings.
fn convert(resources: &Value) -> (Vec<(String, String)>, Vec<String>) {
    let resources = serde_json::from_value(resources.clone()).unwrap();
    let (limits, warnings) = Limits::new(Some(&resources), true).unwrap();
    for write in &limits.writes {
        assert!(write.file.starts_with(&format!("{}.", write.controller)));
        assert!(write.field.starts_with("linux.resources."));
    }
    (
        limits
            .writes
            .into_iter()
            .map(|w| (w.file, w.value))
            .collect(),
        warnings.into_iter().map(|w| w.field).collect(),
    )
}

#[test]
fn each_field_has_its_file() {
    let table: &[(Value, &[(&str, &str)])] = &[
        (json!({}), &[]),
        (json!({"pids": {"limit": 100}}), &[("pids.max", "100")]),
        (json!({"pids": {"limit": -1}}), &[("pids.max", "max")]),
        (json!({"pids": {"limit": 0}}), &[("pids.max", "max")]),
        (
            json!({"memory": {"limit": 4096}}),
            &[("memory.max", "4096")],
        ),
        // Unlimited memory means unlimited swap, unless swap is given.
        (
            json!({"memory": {"limit": -1}}),
            &[("memory.swap.max", "max"), ("memory.max", "max")],
        ),
        (
            json!({"memory": {"swap": -1}}),
            &[("memory.swap.max", "max")],
        ),
        // Docker's --memory-swap counts both; equal means none.
        (
            json!({"memory": {"limit": 100, "swap": 300}}),
            &[("memory.swap.max", "200"), ("memory.max", "100")],
        ),
        (
            json!({"memory": {"limit": 100, "swap": 100}}),
            &[("memory.swap.max", "0"), ("memory.max", "100")],
        ),
        (
            json!({"memory": {"limit": 0, "swap": 0, "reservation": 0}}),
            &[],
        ),
        (
            json!({"memory": {"reservation": 8192}}),
            &[("memory.low", "8192")],
        ),
        (
            json!({"blockIO": {"weight": 10}}),
            &[("io.weight", "default 1")],
        ),
        (
            json!({"blockIO": {"weight": 1000}}),
            &[("io.weight", "default 10000")],
        ),
        (
            json!({"blockIO": {"weightDevice": [{"major": 8, "minor": 16, "weight": 100}]}}),
            &[("io.weight", "8:16 910")],
        ),
        (
            json!({"blockIO": {
                "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}],
                "throttleWriteBpsDevice": [{"major": 8, "minor": 0, "rate": 0}],
                "throttleReadIOPSDevice": [{"major": 8, "minor": 1, "rate": 7}],
                "throttleWriteIOPSDevice": [{"major": 8, "minor": 1, "rate": 9}]}}),
            &[
                ("io.max", "8:0 rbps=1000"),
                ("io.max", "8:0 wbps=max"),
                ("io.max", "8:1 riops=7"),
                ("io.max", "8:1 wiops=9"),
            ],
        ),
        // Smallest, default and largest of shares are smallest, default and largest of weight.
        (json!({"cpu": {"shares": 2}}), &[("cpu.weight", "1")]),
        (json!({"cpu": {"shares": 1024}}), &[("cpu.weight", "100")]),
        (
            json!({"cpu": {"shares": 262_144}}),
            &[("cpu.weight", "10000")],
        ),
        (
            json!({"cpu": {"shares": u64::MAX}}),
            &[("cpu.weight", "10000")],
        ),
        (json!({"cpu": {"shares": 1}}), &[("cpu.weight", "1")]),
        (json!({"cpu": {"shares": 0}}), &[]),
        // The kernel refuses a weight beside idle.
        (
            json!({"cpu": {"shares": 1024, "idle": 1}}),
            &[("cpu.idle", "1")],
        ),
        (
            json!({"cpu": {"quota": 50000}}),
            &[("cpu.max", "50000 100000")],
        ),
        (
            json!({"cpu": {"quota": -1, "period": 50000}}),
            &[("cpu.max", "max 50000")],
        ),
        (
            json!({"cpu": {"period": 50000}}),
            &[("cpu.max", "max 50000")],
        ),
        (
            json!({"cpu": {"quota": 5000, "burst": 5000}}),
            &[("cpu.max", "5000 100000"), ("cpu.max.burst", "5000")],
        ),
        (
            json!({"cpu": {"cpus": "0-3,8", "mems": "0"}}),
            &[("cpuset.cpus", "0-3,8"), ("cpuset.mems", "0")],
        ),
        (json!({"cpu": {"cpus": "", "realtimeRuntime": 0}}), &[]),
        (
            json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}]}),
            &[
                ("hugetlb.2MB.max", "4194304"),
                ("hugetlb.2MB.rsvd.max", "4194304"),
            ],
        ),
        (
            json!({"rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 4}, "a": {"hcaObjects": 1}}}),
            &[
                ("rdma.max", "a hca_object=1"),
                ("rdma.max", "mlx5_1 hca_handle=3 hca_object=4"),
            ],
        ),
        // By the file's own name, after everything else; one write a line.
        (
            json!({"unified": {"memory.max": "5", "io.max": "8:0 rbps=1\n8:1 rbps=2\n"}, "memory": {"limit": 9}}),
            &[
                ("memory.max", "9"),
                ("io.max", "8:0 rbps=1"),
                ("io.max", "8:1 rbps=2"),
                ("memory.max", "5"),
            ],
        ),
        (json!({"network": {"classID": 0, "priorities": []}}), &[]),
    ];
    for (resources, expected) in table {
        let (writes, warnings) = convert(resources);
        let expected: Vec<(String, String)> = expected
            .iter()
            .map(|(file, value)| (file.to_string(), value.to_string()))
            .collect();
        assert_eq!(writes, expected, "{resources}");
        assert!(warnings.is_empty(), "{resources}: {warnings:?}");
    }
}

#[test]
fn what_cgroup_v2_does_not_have_is_a_warning() {
    let (writes, warnings) = convert(&json!({"memory": {
        "kernel": 100, "kernelTCP": 100, "swappiness": 60, "disableOOMKiller": true, "useHierarchy": true}}));
    assert_eq!(writes, []);
    assert_eq!(
        warnings,
        [
            "linux.resources.memory.kernel",
            "linux.resources.memory.kernelTCP",
            "linux.resources.memory.swappiness",
            "linux.resources.memory.disableOOMKiller"
        ]
    );
}

#[test]
fn devices_start_from_nothing_and_end_with_what_every_container_has() {
    // The first of these names nothing and allows nothing: see below.
    let devices = |json: Value| {
        let resources = serde_json::from_value(json!({"devices": json})).unwrap();
        Limits::new(Some(&resources), true).unwrap().0.devices
    };
    let none = Limits::new(None, true).unwrap().0;
    assert_eq!(none.writes, []);
    assert_eq!(none.devices, devices(json!([])));
    let rules: Vec<String> = devices(json!([
        {"allow": true},
        {"allow": false, "type": "u", "major": 4, "minor": -1, "access": "w"},
        {"allow": true, "type": "b", "major": 8, "minor": 0, "access": "rm"}
    ]))
    .iter()
    .map(|r| {
        let number = |n: Option<u32>| n.map_or("*".into(), |n| n.to_string());
        let verb = if r.allow { "allow" } else { "deny" };
        format!(
            "{verb} {} {}:{} {}",
            r.kind,
            number(r.major),
            number(r.minor),
            r.access
        )
    })
    .collect();
    assert_eq!(
        rules,
        [
            "deny a *:* rwm",
            "deny c 4:* w",
            "allow b 8:0 rm",
            "allow c *:* m",
            "allow b *:* m",
            "allow c 1:3 rwm",
            "allow c 1:5 rwm",
            "allow c 1:7 rwm",
            "allow c 1:8 rwm",
            "allow c 1:9 rwm",
            "allow c 5:0 rwm",
            "allow c 5:2 rwm",
            "allow c 136:* rwm",
            "allow c 10:200 rwm",
            "allow c 10:229 rwm",
            "deny c 1:11 rwm",
            "deny c 5:1 rwm",
        ]
    );
}
