//! Specs as engines write them become exactly the plans expected.

use super::{plan, spec};
use crate::kernel::fs::FsOption;
use crate::plan::{MountKind, NsSource, Propagation};

#[test]
fn ctr_default() {
    let plan = plan(&spec("ctr")).unwrap();
    assert_eq!(plan.warnings, []);
    assert_eq!(plan.namespaces.user, NsSource::New);
    assert_eq!(plan.namespaces.time, NsSource::New);
    assert_eq!(plan.rootfs.path, "/bundle/rootfs");
    assert_eq!(plan.cgroup_path, "default/c1");
    // All but /run is the runtime's own.
    assert_eq!(plan.mounts.len(), 1);
    let run = &plan.mounts[0];
    assert_eq!(run.destination, "/run");
    assert_eq!(
        run.kind,
        MountKind::Tmpfs {
            options: vec![option("mode", "755"), option("size", "65536k")],
            copy_up: false
        }
    );
    assert_eq!((run.set, run.clear), (0x2 | 0x20, 0x70));
    assert_eq!(
        plan.base.shm,
        Some(vec![option("mode", "1777"), option("size", "65536k")])
    );
    assert_eq!(
        plan.masked_paths,
        [
            "/proc/acpi",
            "/proc/asound",
            "/proc/keys",
            "/proc/latency_stats",
            "/proc/timer_list",
            "/proc/timer_stats",
            "/proc/sched_debug",
            "/sys/firmware",
            "/sys/devices/virtual/powercap",
            "/proc/scsi"
        ]
    );
    assert_eq!(
        plan.readonly_paths,
        ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sysrq-trigger"]
    );
    assert_eq!(plan.process.args, ["sh", "-c", "true"]);
    assert_eq!(plan.process.groups, [0, 10]);
    assert_eq!(plan.process.umask, 0o022);
    assert!(plan.process.no_new_privs);
    assert!(!plan.process.terminal);
    // All capabilities inside, whatever the spec's fourteen.
    assert_eq!(plan.process.capabilities.effective, 0x1ff_ffff_ffff);
    assert_eq!(plan.process.capabilities.inheritable, 0);
    assert_eq!(writes(&plan), [("cpu.weight", "100")]);
    assert_eq!(plan.data_roots.len(), 7);
}

#[test]
fn docker_with_a_volume() {
    let plan = plan(&spec("docker")).unwrap();
    let fields: Vec<&str> = plan.warnings.iter().map(|w| w.field.as_str()).collect();
    assert_eq!(fields, ["process.apparmorProfile"]);
    assert_eq!(plan.hostname.as_deref(), Some("4f2d7a"));
    assert_eq!(plan.rootfs.path, "/var/lib/docker/overlay2/0a1b/merged");
    assert_eq!(plan.rootfs.propagation, Propagation::Shared);
    assert_eq!(plan.cgroup_path, "system.slice/docker-4f2d7a.scope");
    assert!(plan.process.terminal);
    assert_eq!(plan.process.console_size, Some((120, 40)));
    assert_eq!(plan.process.oom_score_adj, Some(0));
    // The variable stays in the environment of the first process, as with Sysbox.
    assert!(plan.process.env.contains(&"SYSBOX_HONOR_CAPS=FALSE".into()));
    let destinations: Vec<&str> = plan.mounts.iter().map(|m| m.destination.as_str()).collect();
    assert_eq!(
        destinations,
        [
            "/var/lib/docker",
            "/etc/resolv.conf",
            "/etc/hostname",
            "/etc/hosts",
            "/srv"
        ]
    );
    let srv = &plan.mounts[4];
    assert_eq!(srv.set, 0x1);
    assert_eq!(srv.propagation, Some((Propagation::Slave, true)));
    assert!(srv.idmap_recursive);
    assert_eq!(
        srv.kind,
        MountKind::Bind {
            source: "/srv/data".into(),
            recursive: true
        }
    );
    // The user's volume takes the place of the data root.
    assert!(!plan.data_roots.contains(&"/var/lib/docker".to_string()));
    assert!(plan.data_roots.contains(&"/var/lib/containerd".to_string()));
    assert_eq!(plan.devices.len(), 1);
    assert_eq!(plan.devices[0].path, "/dev/kvm");
    assert_eq!(plan.devices[0].mode, 0o660);
    assert_eq!(plan.devices[0].gid, 106);
    assert_eq!(plan.hooks.prestart[0].args[0], "libnetwork-setkey");
    assert_eq!(
        writes(&plan),
        [
            ("pids.max", "2048"),
            ("memory.swap.max", "536870912"),
            ("memory.max", "536870912"),
            ("io.weight", "default 4950"),
            ("cpu.weight", "59"),
            ("cpu.max", "150000 100000"),
            ("cpuset.cpus", "0-1"),
        ]
    );
    let first = &plan.limits.devices[0];
    assert_eq!((first.allow, first.kind), (false, 'a'));
    assert!(
        plan.limits
            .devices
            .iter()
            .any(|d| d.allow && d.major == Some(10) && d.minor == Some(232))
    );
}

#[test]
fn cri_container_of_a_pod_with_user_namespace() {
    let plan = plan(&spec("cri")).unwrap();
    assert_eq!(
        plan.namespaces.user,
        NsSource::Join("/proc/4711/ns/user".into())
    );
    assert_eq!(
        plan.namespaces.net,
        NsSource::Join("/proc/4711/ns/net".into())
    );
    assert_eq!(plan.namespaces.pid, NsSource::New);
    let idmap = plan.idmap.as_ref().unwrap();
    assert_eq!(idmap.host_uid(0), Some(1_310_720));
    assert!(plan.rootfs.readonly);
    assert_eq!(
        plan.cgroup_path,
        "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podu_1.slice/cri-containerd-web.scope"
    );
    // The sandbox's /dev/shm is the user's mount: the runtime makes none.
    assert_eq!(plan.base.shm, None);
    let shm = plan
        .mounts
        .iter()
        .find(|m| m.destination == "/dev/shm")
        .unwrap();
    assert_eq!(shm.idmap, None);
    assert!(shm.idmap_recursive);
    let token = plan.mounts.last().unwrap();
    assert_eq!(token.set_recursive, 0x1);
    assert_eq!(token.idmap, plan.idmap);
    assert!(!token.idmap_recursive);
    assert_eq!(plan.process.uid, 1000);
    assert_eq!(plan.process.capabilities.permitted, 0);
    assert_eq!(plan.process.capabilities.bounding, 0x1ff_ffff_ffff);
    assert_eq!(plan.annotations["io.kubernetes.cri.sandbox-id"], "s");
    assert_eq!(
        writes(&plan),
        [
            ("memory.swap.max", "0"),
            ("memory.max", "134217728"),
            ("cpu.weight", "17"),
            ("cpu.max", "20000 100000"),
            ("memory.high", "120000000"),
            ("memory.oom.group", "1"),
        ]
    );
}

fn option(key: &str, value: &str) -> FsOption {
    FsOption {
        key: key.into(),
        value: Some(value.into()),
    }
}

fn writes(plan: &crate::plan::Plan) -> Vec<(&str, &str)> {
    plan.limits
        .writes
        .iter()
        .map(|w| (w.file.as_str(), w.value.as_str()))
        .collect()
}
