//! Single fields, each with what it becomes.

use crate::config::Config;
use crate::kernel::fs::FsOption;
use crate::plan::{
    CapabilityRule, DeviceKind, MountKind, NsSource, Plan, ProcessContext, Propagation,
    plan_process,
};
use serde_json::{Value, json};

use super::{plan, plan_by, put, spec};

/// The plan of the base with one change.
fn with(at: &str, value: Value) -> Plan {
    let mut spec = spec("ctr");
    put(&mut spec, at, value);
    plan(&spec).unwrap()
}

fn warned(plan: &Plan) -> Vec<&str> {
    plan.warnings.iter().map(|w| w.field.as_str()).collect()
}

fn mounts(list: Value) -> Plan {
    with("/mounts", list)
}

#[test]
fn time_offsets() {
    let plan = with(
        "/linux/timeOffsets",
        json!({"boottime": {"secs": -5, "nanosecs": 7}, "monotonic": {"secs": 9}}),
    );
    assert_eq!(plan.boottime_offset, Some((-5, 7)));
    assert_eq!(plan.monotonic_offset, Some((9, 0)));
    assert_eq!(with("/hostname", json!("h")).boottime_offset, None);
}

#[test]
fn namespaces_to_join() {
    let plan = with("/linux/namespaces/0/path", json!("/proc/42/ns/pid"));
    assert_eq!(
        plan.namespaces.pid,
        NsSource::Join("/proc/42/ns/pid".into())
    );
    // An empty path is a new one.
    let plan = with("/linux/namespaces/0/path", json!(""));
    assert_eq!(plan.namespaces.pid, NsSource::New);
}

#[test]
fn an_id_beyond_the_known_is_left_to_a_joined_namespace() {
    let mut spec = spec("ctr");
    put(&mut spec, "/process/user/uid", json!(3_000_000));
    let list = spec["linux"]["namespaces"].as_array_mut().unwrap();
    list.push(json!({"type": "user", "path": "/run/userns"}));
    let plan = plan(&spec).unwrap();
    assert_eq!(plan.process.uid, 3_000_000);
    assert_eq!(plan.idmap, None);
    assert_eq!(Config::default().ids.per_pod, 1 << 20);
}

#[test]
fn root_file_system() {
    for (word, propagation) in [
        ("", Propagation::Slave),
        ("rshared", Propagation::Shared),
        ("rslave", Propagation::Slave),
        ("rprivate", Propagation::Private),
        ("unbindable", Propagation::Unbindable),
    ] {
        let plan = with("/linux/rootfsPropagation", json!(word));
        assert_eq!(plan.rootfs.propagation, propagation, "{word}");
    }
    assert_eq!(
        with("/root/path", json!("./a/b")).rootfs.path,
        "/bundle/a/b"
    );
}

#[test]
fn places_that_are_the_runtimes_own() {
    let plan = mounts(json!([
        {"destination": "/sys", "type": "none", "source": "/sys", "options": ["rbind", "ro"]},
        {"destination": "/sys/fs/cgroup", "type": "bind", "source": "/sys/fs/cgroup", "options": ["rbind", "ro"]},
        {"destination": "/sys/fs/cgroup/systemd", "type": "tmpfs", "source": "tmpfs"},
        {"destination": "/sys/fs/cgroup", "type": "cgroup2", "options": ["nsdelegate"]},
        {"destination": "/dev/shm", "type": "tmpfs", "options": ["size=1g", "noexec"]}
    ]));
    assert_eq!(plan.mounts, []);
    assert_eq!(warned(&plan), ["mounts[0]", "mounts[1]", "mounts[2]"]);
    assert_eq!(
        plan.base.shm,
        Some(vec![FsOption {
            key: "size".into(),
            value: Some("1g".into())
        }])
    );
    // None given: as runc and Docker have it.
    let shm = mounts(json!([])).base.shm.unwrap();
    assert_eq!(shm.len(), 2);
    assert_eq!(shm[1].value.as_deref(), Some("65536k"));
}

#[test]
fn kinds_of_mount() {
    let plan = mounts(json!([
        {"destination": "/tmp//x/", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "sync", "size=50%"]},
        {"destination": "/a", "type": "bind", "source": "data/x", "options": ["private"]},
        {"destination": "/b", "type": "overlay", "source": "overlay",
         "options": ["ro", "dirsync", "lazytime", "nolazytime", "mand", "nomand", "lowerdir=/l1:/l2"]},
        {"destination": "/c", "type": "proc", "source": "proc"},
        {"destination": "/proc/meminfo", "type": "bind", "source": "/lxcfs/meminfo", "options": ["bind"]},
        {"destination": "/dev/pts2", "type": "devpts", "options": ["newinstance", "ptmxmode=0666"]}
    ]));
    let kinds: Vec<&MountKind> = plan.mounts.iter().map(|m| &m.kind).collect();
    let flag = |key: &str| FsOption {
        key: key.into(),
        value: None,
    };
    let option = |key: &str, value: &str| FsOption {
        key: key.into(),
        value: Some(value.into()),
    };
    assert_eq!(
        kinds,
        [
            &MountKind::Tmpfs {
                options: vec![flag("sync"), option("size", "50%")],
                copy_up: true
            },
            &MountKind::Bind {
                source: "/bundle/data/x".into(),
                recursive: false
            },
            &MountKind::Other {
                fs_type: "overlay".into(),
                source: "overlay".into(),
                options: vec![flag("ro"), flag("dirsync"), option("lowerdir", "/l1:/l2")]
            },
            &MountKind::Proc,
            &MountKind::Bind {
                source: "/lxcfs/meminfo".into(),
                recursive: false
            },
            &MountKind::Devpts {
                options: vec![option("ptmxmode", "0666")]
            },
        ]
    );
    assert_eq!(plan.mounts[0].destination, "/tmp/x");
    assert_eq!(
        plan.mounts[1].propagation,
        Some((Propagation::Private, false))
    );
}

#[test]
fn a_mount_that_would_reach_the_host_is_a_warning() {
    for (word, fields) in [
        ("rshared", &["mounts[0].options"][..]),
        ("shared", &["mounts[0].options"]),
        ("rslave", &[]),
        ("rprivate", &[]),
    ] {
        let mount = json!({"destination": "/m", "source": "/s", "options": ["rbind", word]});
        assert_eq!(warned(&with("/mounts", json!([mount]))), fields, "{word}");
    }
}

#[test]
fn ids_of_a_mount() {
    let map = json!([{"containerID": 0, "hostID": 5000, "size": 10}]);
    let bind = |options: Value, mapped: bool| {
        let mut mount = json!({"destination": "/m", "source": "/s", "options": options});
        if mapped {
            mount["uidMappings"] = map.clone();
            mount["gidMappings"] = map.clone();
        }
        let mount = mounts(json!([mount])).mounts.remove(0);
        (
            mount.idmap.map(|m| m.uids[0].host),
            mount.idmap_recursive,
            mount.unmapped,
        )
    };
    // Without mappings of its own a mount has the container's, whole if it is recursive.
    assert_eq!(bind(json!(["rbind"]), false), (None, true, false));
    assert_eq!(bind(json!(["bind"]), false), (None, false, false));
    assert_eq!(bind(json!(["rbind", "idmap"]), false), (None, false, false));
    // With mappings only `ridmap` maps the tree (runtime spec, "idmap").
    assert_eq!(bind(json!(["rbind"]), true), (Some(5000), false, false));
    assert_eq!(
        bind(json!(["rbind", "ridmap"]), true),
        (Some(5000), true, false)
    );
}

#[test]
fn mounts_that_are_not_shifted() {
    let mut spec = spec("ctr");
    put(
        &mut spec,
        "/process/env",
        json!(["SYSBOX_SKIP_UID_SHIFT=/m,/nowhere"]),
    );
    put(
        &mut spec,
        "/mounts",
        json!([{"destination": "/m", "source": "/s", "options": ["bind"]},
               {"destination": "/n", "source": "/s", "options": ["bind"]}]),
    );
    let plan = plan(&spec).unwrap();
    let unmapped: Vec<bool> = plan.mounts.iter().map(|m| m.unmapped).collect();
    assert_eq!(unmapped, [true, false]);
    assert_eq!(warned(&plan), ["process.env.SYSBOX_SKIP_UID_SHIFT"; 2]);
    let [honoured, unused] = &plan.warnings[..] else {
        panic!("{:?}", plan.warnings)
    };
    assert!(
        honoured
            .text
            .starts_with("mounts at /m, /nowhere are not ID-mapped"),
        "{}",
        honoured.text
    );
    assert!(unused.text.starts_with("/nowhere has no effect"));
    // A mapping asked for in the same breath is a contradiction.
    put(&mut spec, "/mounts/0/options", json!(["bind", "idmap"]));
    let error = super::plan(&spec).unwrap_err().to_string();
    assert!(
        error.starts_with("mounts[0]: ids mapped on /m: "),
        "{error}"
    );
}

#[test]
fn a_flag_of_the_superblock_on_a_bind_is_a_warning() {
    let plan = mounts(json!([{"destination": "/m", "source": "/s", "options": ["bind", "sync"]}]));
    assert_eq!(warned(&plan), ["mounts[0].options"]);
}

#[test]
fn data_roots_give_way_to_mounts_at_or_above_them() {
    let left = |destination: &str| {
        let plan =
            mounts(json!([{"destination": destination, "source": "/s", "options": ["rbind"]}]));
        plan.data_roots
    };
    let all = Config::default().data_roots;
    assert_eq!(left("/var/lib/docker/volumes"), all);
    assert_eq!(left("/var/library"), all);
    assert_eq!(left("/var/lib/docker").len(), all.len() - 1);
    assert_eq!(left("/var"), Vec::<String>::new());
}

#[test]
fn devices() {
    let plan = with(
        "/linux/devices",
        json!([
            {"path": "/dev/null", "type": "c", "major": 1, "minor": 3},
            {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 8630},
            {"path": "/dev/sda", "type": "b", "major": 8, "minor": 0, "fileMode": 25008, "uid": 1, "gid": 6},
            {"path": "/run/pipe", "type": "p", "major": -1}
        ]),
    );
    let devices: Vec<_> = plan
        .devices
        .iter()
        .map(|d| {
            (
                d.path.as_str(),
                d.kind,
                d.major,
                d.minor,
                d.mode,
                d.uid,
                d.gid,
            )
        })
        .collect();
    assert_eq!(
        devices,
        [
            ("/dev/sda", DeviceKind::Block, 8, 0, 0o660, 1, 6),
            ("/run/pipe", DeviceKind::Fifo, 0, 0, 0o666, 0, 0),
        ]
    );
}

#[test]
fn where_everything_is_allowed_only_named_devices_are_made() {
    let mut spec = spec("ctr");
    put(
        &mut spec,
        "/linux/devices",
        json!([
            {"path": "/dev/sda", "type": "b", "major": 8, "minor": 0},
            {"path": "/dev/sdb", "type": "b", "major": 8, "minor": 16},
            {"path": "/dev/ttyS0", "type": "c", "major": 4, "minor": 64},
            {"path": "/dev/kvm", "type": "c", "major": 10, "minor": 232},
            {"path": "/dev/null", "type": "c", "major": 1, "minor": 3}
        ]),
    );
    let mut planned = |rules: Value| {
        put(&mut spec, "/linux/resources/devices", rules);
        let plan = plan(&spec).unwrap();
        let paths: Vec<String> = plan.devices.iter().map(|d| d.path.clone()).collect();
        let warned = plan
            .warnings
            .iter()
            .any(|w| w.field == "linux.resources.devices");
        (paths.join(" "), warned)
    };
    // As --privileged has it, in the engines' spellings.
    for everything in [
        json!({"allow": true, "access": "rwm"}),
        json!({"allow": true, "type": "a", "major": -1, "minor": -1, "access": "rwm"}),
    ] {
        assert_eq!(planned(json!([everything])), (String::new(), true));
        let kvm = json!({"allow": true, "type": "c", "major": 10, "minor": 232, "access": "r"});
        let sda = json!({"allow": true, "type": "b", "major": 8, "minor": 0, "access": "w"});
        let node = json!({"allow": true, "type": "b", "major": 8, "minor": 16, "access": "m"});
        assert_eq!(
            planned(json!([everything, kvm, sda, node])),
            ("/dev/sda /dev/kvm".into(), true)
        );
    }
    // A node without a rule is made as asked, and does not open.
    assert_eq!(
        planned(json!([{"allow": false, "access": "rwm"}])),
        ("/dev/sda /dev/sdb /dev/ttyS0 /dev/kvm".into(), false)
    );
}

#[test]
fn sysctls_of_namespaces_and_of_names() {
    let given = json!({
        "net.ipv4.ip_forward": "1", "net/core/somaxconn": "9", "fs.mqueue.msg_max": "10",
        "kernel.shm_rmid_forced": "1", "kernel.sem": "250 32000 100 128",
        "kernel.hostname": "h", "kernel.domainname": "d"
    });
    let plan = with("/linux/sysctl", given);
    let keys: Vec<&str> = plan.sysctl.keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "fs.mqueue.msg_max",
            "kernel.sem",
            "kernel.shm_rmid_forced",
            "net.ipv4.ip_forward",
            "net/core/somaxconn"
        ]
    );
    assert_eq!(plan.hostname.as_deref(), Some("h"));
    assert_eq!(plan.domainname.as_deref(), Some("d"));
}

#[test]
fn process_fields() {
    let process = |at: &str, value: Value| with(at, value).process;
    // Of several variables with one name the last counts.
    let env = json!(["A=1", "B=2", "A=3"]);
    assert_eq!(process("/process/env", env).env, ["B=2", "A=3"]);
    let io = json!({"class": "IOPRIO_CLASS_IDLE", "priority": 2});
    assert_eq!(
        process("/process/ioPriority", io).io_priority,
        Some(3 << 13 | 2)
    );
    assert_eq!(process("/process/user/umask", json!(0o77)).umask, 0o77);
    let limits = json!([{"type": "RLIMIT_NOFILE", "soft": 5, "hard": u64::MAX}]);
    let limits = process("/process/rlimits", limits).rlimits;
    assert_eq!(
        (limits[0].resource, limits[0].soft, limits[0].hard),
        (7, 5, u64::MAX)
    );
    // A size without a terminal is no size.
    let size = json!({"width": 80, "height": 24});
    assert_eq!(process("/process/consoleSize", size).console_size, None);
    let plan = with("/process/oomScoreAdj", json!(-1000));
    assert_eq!(plan.process.oom_score_adj, Some(-999));
    assert_eq!(warned(&plan), ["process.oomScoreAdj"]);
    for profile in ["", "unconfined"] {
        let plan = with("/process/apparmorProfile", json!(profile));
        assert_eq!(warned(&plan), [""; 0]);
    }
    for profile in ["nerdctl-default", "buildkit-default"] {
        let plan = with("/process/apparmorProfile", json!(profile));
        assert_eq!(warned(&plan), ["process.apparmorProfile"]);
    }
}

#[test]
fn capabilities_of_the_spec_are_honoured_on_demand() {
    let plan = with("/process/env", json!(["SYSBOX_HONOR_CAPS=TRUE"]));
    assert_eq!(plan.capability_rule, CapabilityRule::Spec);
    // The fourteen of ctr's default.
    assert_eq!(plan.process.capabilities.effective, 0xa804_25fb);
    assert_eq!(plan.process.capabilities.bounding, 0xa804_25fb);
    assert_eq!(plan.process.capabilities.inheritable, 0);
}

#[test]
fn variables_of_sysbox_hold_or_not_as_the_administrator_says() {
    let mut spec = spec("ctr");
    put(
        &mut spec,
        "/process/env",
        json!(["SYSBOX_HONOR_CAPS=TRUE", "SYSBOX_SKIP_UID_SHIFT=/m"]),
    );
    put(
        &mut spec,
        "/mounts",
        json!([{"destination": "/m", "source": "/s", "options": ["bind"]}]),
    );
    let honoured = plan(&spec).unwrap();
    assert_eq!(
        warned(&honoured),
        [
            "process.env.SYSBOX_HONOR_CAPS",
            "process.env.SYSBOX_SKIP_UID_SHIFT"
        ]
    );
    let ignore = Config::from_toml_str("environment = 'ignore'").unwrap();
    let ignored = plan_by(&spec, &ignore).unwrap();
    assert_eq!(ignored.capability_rule, CapabilityRule::All);
    assert!(!ignored.mounts[0].unmapped);
    assert_eq!(warned(&ignored), ["process.env"]);
    let text = &ignored.warnings[0].text;
    assert!(
        text.starts_with("SYSBOX_HONOR_CAPS, SYSBOX_SKIP_UID_SHIFT left to"),
        "{text}"
    );
    // What they are is no matter then, and a log line has an end.
    let many: Vec<String> = (0..1000).map(|i| format!("SYSBOX_\n{i}=x")).collect();
    put(&mut spec, "/process/env", json!(many));
    let ignored = plan_by(&spec, &ignore).unwrap();
    assert_eq!(ignored.process.env, many);
    let text = &ignored.warnings[0].text;
    assert!(
        text.starts_with("SYSBOX_\\n0, ") && text.len() < 500,
        "{text}"
    );
    assert!(text.contains("…"), "{text}");
}

#[test]
fn a_variable_that_does_nothing_here_is_named() {
    let plan = with("/process/env", json!(["SYSBOX_IGNORE_SYSFS_CHOWN=TRUE"]));
    assert_eq!(warned(&plan), ["process.env.SYSBOX_IGNORE_SYSFS_CHOWN"]);
}

#[test]
fn dropped_capabilities_stay_with_a_warning_or_go_as_configured() {
    assert_eq!(warned(&with("/hostname", json!("h"))), [""; 0]);
    let bounding = "/process/capabilities/bounding";
    let mut spec = spec("ctr");
    let left = spec.pointer_mut(bounding).unwrap().as_array_mut().unwrap();
    left.retain(|name| name != "CAP_NET_RAW" && name != "CAP_MKNOD");
    let kept = plan(&spec).unwrap();
    assert_eq!(kept.process.capabilities.bounding, 0x1ff_ffff_ffff);
    assert_eq!(warned(&kept), ["process.capabilities"]);
    let text = &kept.warnings[0].text;
    assert!(text.contains("CAP_NET_RAW, CAP_MKNOD;"), "{text}");
    // Who is not root and cannot become it has none.
    put(&mut spec, "/process/user/uid", json!(1000));
    put(&mut spec, "/process/noNewPrivileges", json!(false));
    assert_eq!(warned(&plan(&spec).unwrap()), ["process.capabilities"]);
    put(&mut spec, "/process/noNewPrivileges", json!(true));
    assert_eq!(warned(&plan(&spec).unwrap()), [""; 0]);
    put(&mut spec, "/process/user/uid", json!(0));
    let config = Config::from_toml_str("dropped-capabilities = 'drop'").unwrap();
    let gone = plan_by(&spec, &config).unwrap();
    assert_eq!(gone.capability_rule, CapabilityRule::LessDropped);
    assert_eq!(gone.process.capabilities.bounding, 0x1ff_f7ff_dfff);
    assert_eq!(warned(&gone), [""; 0]);
}

#[test]
fn a_seccomp_profile_is_compiled_for_the_first_process_and_none_stays_none() {
    let plan = with("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ERRNO"}));
    let program = plan.process.seccomp.unwrap();
    assert_eq!(program.filter.len() % 8, 0);
    assert!(program.filter.len() > 8 * 100);
    assert_eq!(with("/hostname", json!("h")).process.seccomp, None);
}

#[test]
fn exec_ignores_sysbox_variables_and_takes_the_rest_from_its_container() {
    let container = with("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ERRNO"}));
    let mut given = spec("ctr")["process"].clone();
    given["env"] = json!([
        "A=1",
        "SYSBOX_HONOR_CAPS=TRUE",
        "SYSBOX_NONSENSE=x",
        "SYSBOX=y"
    ]);
    given["oomScoreAdj"] = json!(-1000);
    let process: oci_spec::runtime::Process = serde_json::from_value(given).unwrap();
    let context = |capability_rule| ProcessContext {
        terminal: Some(true),
        last_cap: 40,
        capability_rule,
        ids: Some(65536),
        idmap: None,
        unbarred: &container.process.unbarred,
        seccomp: container.process.seccomp.as_ref(),
    };
    let (plain, warnings) = plan_process(&process, context(CapabilityRule::All)).unwrap();
    assert_eq!(plain.env, ["A=1", "SYSBOX=y"]);
    // The request's word counts, not the spec's.
    assert_eq!(process.terminal(), None);
    assert!(plain.terminal);
    let without = ProcessContext {
        terminal: Some(false),
        ..context(CapabilityRule::All)
    };
    let mut asks = process.clone();
    asks.set_terminal(Some(true));
    assert!(!plan_process(&asks, without).unwrap().0.terminal);
    assert_eq!(plain.capabilities.effective, 0x1ff_ffff_ffff);
    assert_eq!(plain.seccomp, container.process.seccomp);
    assert_eq!(plain.unbarred, container.process.unbarred);
    assert_eq!(warnings[0].field, "process.oomScoreAdj");
    let (honoured, _) = plan_process(&process, context(CapabilityRule::Spec)).unwrap();
    assert_eq!(honoured.capabilities.effective, 0xa804_25fb);
}
