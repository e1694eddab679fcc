# Every limit that systemd has a property for, by containerd's own client.
mkdir rootfs
tar -xf /root/bb.tar -C rootfs
cat >spec.py <<E
import json, sys
spec = json.load(sys.stdin)
spec["process"].update(args=["sleep", "1000"], terminal=False)
spec["root"]["path"] = "$PWD/rootfs"
spec["linux"]["cgroupsPath"] = "ci.slice:ctr:l1"
spec["linux"]["resources"].update({
    "memory": {"limit": 64 << 20, "swap": 96 << 20, "reservation": 32 << 20},
    "cpu": {"shares": 512, "quota": 33300, "period": 50000, "cpus": "0-1", "mems": "0"},
    "pids": {"limit": 222},
    "blockIO": {"weight": 300, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1048576}],
                "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 50}]},
    "unified": {"memory.high": "48M", "memory.oom.group": "1"},
})
json.dump(spec, sys.stdout)
E
ctr oci spec | python3 spec.py >spec.json
t "a container with all limits" ctr run -d --runtime io.containerd.sysbox.v2 --config spec.json l1
u=ctr-l1.scope
export u
limit() { t "$1=$2" bash -c 'same "$(value $u '"$1"')" "$0"' "$2"; }
limit Slice ci.slice
limit MemoryMax $((64 << 20))
limit MemorySwapMax $((32 << 20))
limit MemoryLow $((32 << 20))
limit MemoryHigh $((48 << 20))
limit OOMPolicy kill
limit CPUQuotaPeriodUSec 50ms
limit CPUQuotaPerSecUSec 670ms
limit CPUWeight 59
limit AllowedCPUs 0-1
limit AllowedMemoryNodes 0
limit TasksMax 222
limit IOWeight 2930
limit IOReadBandwidthMax "/dev/block/8:0 1048576"
limit IOWriteIOPSMax "/dev/block/8:0 50"
t "they survive a reload" bash -ec 'systemctl daemon-reload; systemctl daemon-reexec; same "$(value $u MemoryMax) $(value $u CPUQuotaPerSecUSec) $(value $u TasksMax)" "$((64 << 20)) 670ms 222"'
ctr task rm -f l1 >/dev/null; ctr container rm l1
t "nothing is left" bash -ec 'gone $u'
