//! `linux.resources`.

use serde_json::json;

use super::{case, check};

#[test]
fn resources() {
    let r = "/linux/resources";
    check(&[
        case(
            r,
            json!({"memory": {"limit": -2}}),
            ["linux.resources.memory.limit", "-2", "-1 for no limit"],
        ),
        case(
            r,
            json!({"memory": {"swap": 100}}),
            ["linux.resources.memory.swap", "100", "memory.limit"],
        ),
        case(
            r,
            json!({"memory": {"limit": 200, "swap": 100}}),
            [
                "linux.resources.memory.swap",
                "100",
                "at least memory.limit (200)",
            ],
        ),
        case(
            r,
            json!({"memory": {"limit": 1, "checkBeforeUpdate": true}}),
            [
                "linux.resources.memory.checkBeforeUpdate",
                "true",
                "remove it",
            ],
        ),
        case(
            r,
            json!({"cpu": {"quota": 999}}),
            ["linux.resources.cpu.quota", "999", "1000"],
        ),
        case(
            r,
            json!({"cpu": {"period": 10}}),
            ["linux.resources.cpu.period", "10", "1000000"],
        ),
        case(
            r,
            json!({"cpu": {"quota": 5000, "burst": 6000}}),
            ["linux.resources.cpu.burst", "6000", "cpu.quota (5000)"],
        ),
        case(
            r,
            json!({"cpu": {"idle": 2}}),
            ["linux.resources.cpu.idle", "2", "0 or 1"],
        ),
        case(
            r,
            json!({"cpu": {"realtimeRuntime": 5}}),
            ["linux.resources.cpu.realtimeRuntime", "given", "realtime"],
        ),
        case(
            r,
            json!({"cpu": {"cpus": "0-"}}),
            ["linux.resources.cpu.cpus", "0-", "0-3,8"],
        ),
        case(
            r,
            json!({"cpu": {"mems": "3-1"}}),
            ["linux.resources.cpu.mems", "3-1", "0-3,8"],
        ),
        case(
            r,
            json!({"blockIO": {"weight": 5}}),
            ["linux.resources.blockIO.weight", "5", "10 to 1000"],
        ),
        case(
            r,
            json!({"blockIO": {"leafWeight": 5}}),
            ["linux.resources.blockIO.leafWeight", "5", "cgroup v2"],
        ),
        case(
            r,
            json!({"blockIO": {"throttleReadBpsDevice": [{"major": -1, "minor": 0, "rate": 1}]}}),
            [
                "linux.resources.blockIO.throttleReadBpsDevice[0].major",
                "-1",
                "4095",
            ],
        ),
        case(
            r,
            json!({"hugepageLimits": [{"pageSize": "2MB", "limit": -2}]}),
            [
                "linux.resources.hugepageLimits[0].limit",
                "-2",
                "-1 for no limit",
            ],
        ),
        case(
            r,
            json!({"hugepageLimits": [{"pageSize": "2M", "limit": 1}]}),
            ["linux.resources.hugepageLimits[0].pageSize", "2M", "2MB"],
        ),
        case(
            r,
            json!({"hugepageLimits": [{"pageSize": "../2MB", "limit": 1}]}),
            [
                "linux.resources.hugepageLimits[0].pageSize",
                "../2MB",
                "2MB",
            ],
        ),
        case(
            r,
            json!({"network": {"classID": 7}}),
            ["linux.resources.network.classID", "7", "nft"],
        ),
        case(
            r,
            json!({"network": {"priorities": [{"name": "eth0", "priority": 1}]}}),
            ["linux.resources.network.priorities", "eth0=1", "nft"],
        ),
        case(
            r,
            json!({"rdma": {"a b": {"hcaHandles": 1}}}),
            ["linux.resources.rdma", "a b", "/sys/class/infiniband"],
        ),
        case(
            r,
            json!({"unified": {"freezer.state": "1"}}),
            ["linux.resources.unified", "freezer.state", "memory.high"],
        ),
        case(
            r,
            json!({"unified": {(format!("memory.{}", "x".repeat(249))): "1"}}),
            ["linux.resources.unified", "memory.xxx", "memory.high"],
        ),
        case(
            r,
            json!({"rdma": {("x".repeat(65)): {"hcaHandles": 1}}}),
            ["linux.resources.rdma", "xxx", "/sys/class/infiniband"],
        ),
        case(
            r,
            json!({"devices": [{"allow": true, "access": "rwmr"}]}),
            ["linux.resources.devices[0].access", "rwmr", "r, w and m"],
        ),
        case(
            r,
            json!({"blockIO": {"weightDevice": [{"major": 8, "minor": 1_048_576, "weight": 10}]}}),
            [
                "linux.resources.blockIO.weightDevice[0].minor",
                "1048576",
                "1048575",
            ],
        ),
        case(
            r,
            json!({"unified": {"cgroup.procs": "1"}}),
            ["linux.resources.unified", "cgroup.procs=1", "the runtime's"],
        ),
        case(
            r,
            json!({"unified": {"../memory.max": "1"}}),
            ["linux.resources.unified", "../memory.max", "memory.high"],
        ),
        case(
            r,
            json!({"unified": {"memory.": "1"}}),
            ["linux.resources.unified", "memory.=1", "memory.high"],
        ),
        case(
            r,
            json!({"unified": {"memory.high": "1\u{0}"}}),
            ["linux.resources.unified", "memory.high=1", "text"],
        ),
        case(
            r,
            json!({"devices": [{"allow": true, "type": "p"}]}),
            ["linux.resources.devices[0].type", "p", "a, b or c"],
        ),
        case(
            r,
            json!({"devices": [{"allow": true, "access": "rx"}]}),
            ["linux.resources.devices[0].access", "rx", "r, w and m"],
        ),
        case(
            r,
            json!({"devices": [{"allow": true, "type": "c", "major": -2, "access": "r"}]}),
            ["linux.resources.devices[0].major", "-2", "-1 for all"],
        ),
    ]);
}
