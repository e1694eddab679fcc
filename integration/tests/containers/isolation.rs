//! Root inside is nobody outside.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, bail, ensure};
use integration::image::Image;
use nix::sys::stat::{major, minor};
use serde_json::Value;

use crate::bed::{ANY, Bed, Case, Container, LINGER, OURS, Runtime};

pub(crate) const CASES: &[Case] = &[
    Case::new("facts", ANY, facts),
    Case::new("namespaces_are_its_own", OURS, namespaces),
    Case::new("ranges_are_disjoint", OURS, ranges),
    Case::new("devices", OURS, devices),
    Case::new("attacks_are_refused", OURS, attacks),
    Case::new("no_write_through_proc", OURS, proc_writes),
    Case::new("no_write_through_sys", OURS, sys_writes),
    Case::new("time_starts_with_the_container", OURS, time),
];

/// What the probe prints as JSON for `words`.
pub(crate) fn ask(container: &Container<'_>, words: &[&str]) -> Result<Value> {
    let script = format!("/probe {}; {LINGER}", words.join(" "));
    let output = container.exec(&["/bin/sh", "-c", &script])?.ok()?;
    serde_json::from_str(output.text())
        .with_context(|| format!("not JSON: {}{}", output.stdout, output.stderr))
}

/// What the probe sees as init of a new container.
fn facts_of_init(bed: &Bed<'_>, options: &[&str]) -> Result<Value> {
    let output = bed.run(options, &["/probe", "facts"])?.ok()?;
    serde_json::from_str(output.text()).with_context(|| format!("not JSON: {output:?}"))
}

fn facts(bed: &Bed<'_>) -> Result<()> {
    let options = ["--env", "A=B", "--cwd", "/tmp", "--hostname", "inner"];
    let facts = facts_of_init(bed, &options)?;
    ensure!(
        facts["env"]["A"] == "B"
            && facts["cwd"] == "/tmp"
            && facts["hostname"] == "inner"
            && facts["pid"] == 1,
        "{facts}"
    );
    ensure!(facts["umask"] == "0022", "umask {}", facts["umask"]);
    if bed.runtime == Runtime::Sysbox {
        let all = last_capability()?;
        let capabilities = &facts["capabilities"];
        for set in ["permitted", "effective", "bounding"] {
            ensure!(
                hex(&capabilities[set])? == all,
                "{set} is {}, all would be {all:x}",
                capabilities[set]
            );
        }
        ensure!(
            hex(&capabilities["inheritable"])? == 0,
            "inheritable is {}",
            capabilities["inheritable"]
        );
    }
    Ok(())
}

/// The set of all capabilities that this kernel has.
fn last_capability() -> Result<u64> {
    let last: u32 = fs::read_to_string("/proc/sys/kernel/cap_last_cap")?
        .trim()
        .parse()?;
    Ok((1 << (last + 1)) - 1)
}

fn hex(value: &Value) -> Result<u64> {
    u64::from_str_radix(value.as_str().context("no capability set")?, 16)
        .context("no hexadecimal set")
}

fn namespaces(bed: &Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    let inner = ask(&container, &["facts"])?;
    for kind in ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"] {
        let node = bed
            .node
            .exec(&["readlink", &format!("/proc/self/ns/{kind}")])?
            .ok()?;
        let own = inner["namespaces"][kind].as_str().unwrap_or_default();
        ensure!(
            own.starts_with(kind) && own != node.text(),
            "the {kind} namespace {own} is the node's"
        );
    }
    ensure!(
        inner["cgroup"] == serde_json::json!(["0::/init.scope"])
            || inner["cgroup"].to_string().contains("0::/"),
        "{}",
        inner["cgroup"]
    );
    container.remove()
}

fn ranges(bed: &Bed<'_>) -> Result<()> {
    let mut taken: Vec<(u64, u64)> = Vec::new();
    let mut containers = Vec::new();
    for _ in 0..3 {
        let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
        let facts = ask(&container, &["facts"])?;
        ensure!(
            facts["uid_map"] == facts["gid_map"] && facts["setgroups"] == "allow",
            "{facts}"
        );
        let map: Vec<u64> = serde_json::from_value(facts["uid_map"].clone())?;
        let [0, base, size] = map[..] else {
            bail!("a map of another form: {map:?}")
        };
        ensure!(
            base >= 65536 && size >= 65536,
            "{base}+{size} holds ids of the host"
        );
        ensure!(
            taken
                .iter()
                .all(|(other, length)| base + size <= *other || other + length <= base),
            "{base}+{size} overlaps {taken:?}"
        );
        taken.push((base, size));
        containers.push(container);
    }
    containers.into_iter().try_for_each(Container::remove)
}

fn devices(bed: &Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    let facts = ask(&container, &["facts"])?;
    let dev = facts["dev"].as_object().context("no /dev")?;
    let expected = [
        ("null", "1:3"),
        ("zero", "1:5"),
        ("full", "1:7"),
        ("random", "1:8"),
        ("urandom", "1:9"),
        ("tty", "5:0"),
        ("fuse", "10:229"),
        ("net/tun", "10:200"),
    ];
    for (name, device) in expected {
        let node = dev
            .get(&format!("/dev/{name}"))
            .with_context(|| format!("/dev/{name} is missing"))?;
        ensure!(
            node["type"] == "char" && node["device"] == device && node["mode"] == "666",
            "/dev/{name}: {node}"
        );
    }
    let known: BTreeSet<&str> = expected
        .iter()
        .map(|(name, _)| *name)
        .chain([
            "ptmx", "pts", "pts/ptmx", "shm", "mqueue", "fd", "stdin", "stdout", "stderr", "core",
            "console", "kmsg", "net",
        ])
        .collect();
    for (path, node) in dev {
        let name = path.trim_start_matches("/dev/");
        ensure!(known.contains(name), "{path} is not expected: {node}");
        ensure!(node["type"] != "block", "{path} is a block device");
    }
    // Root's, as on a machine (nestybox/sysbox#850).
    for (name, _) in expected {
        let node = &dev[&format!("/dev/{name}")];
        ensure!(
            node["uid"] == 0 && node["gid"] == 0,
            "/dev/{name} has another owner: {node}"
        );
    }
    let owners = container.shell(
        "cd /dev; stat -c %u:%g . pts pts/ptmx shm mqueue net | sort -u; stat -c %a:%F pts/ptmx",
    )?;
    ensure!(
        owners == "0:0\n666:character special file",
        "owners in /dev: {owners}"
    );
    for (name, target) in [
        ("core", "/proc/kcore"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        let link = dev.get(&format!("/dev/{name}")).map(|node| &node["link"]);
        ensure!(
            link.is_some_and(|link| link == target),
            "/dev/{name} leads to {link:?}"
        );
    }
    // They work, which a node alone does not show: device policy and owner must allow it, too.
    container.shell("head -c 4 /dev/urandom | wc -c; echo x >/dev/null; head -c 1 /dev/zero >/dev/null; : <>/dev/fuse; : <>/dev/net/tun")?;
    container.remove()
}

pub(crate) fn attacks(bed: &Bed<'_>) -> Result<()> {
    let device = fs::metadata("/").context("stat /")?.dev();
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    let outcomes = ask(
        &container,
        &["attack", &format!("{}:{}", major(device), minor(device))],
    )?;
    let outcomes = outcomes.as_object().context("no outcomes")?;
    let passed: Vec<_> = outcomes
        .iter()
        .filter(|(_, outcome)| *outcome == "ok")
        .map(|(attempt, _)| attempt.as_str())
        .collect();
    ensure!(passed.is_empty(), "passed: {passed:?}");
    ensure!(
        outcomes
            .get("mknod the host's disk")
            .is_some_and(|outcome| outcome == "EPERM"),
        "{outcomes:?}"
    );
    container.remove()
}

/// Files below `/proc` that belong to a namespace of the container or to the process itself.
const NAMESPACED: [&str; 13] = [
    "/proc/sys/net/",
    "/proc/sys/user/",
    "/proc/sys/fs/mqueue/",
    "/proc/sys/kernel/shm",
    "/proc/sys/kernel/msg",
    "/proc/sys/kernel/sem",
    "/proc/sys/kernel/auto_msgmni",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/kernel/pid_max",
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/domainname",
    "/proc/net/",
    // Open to everybody on a host, too: a write makes a trigger that lives as long as its descriptor (psi.rst).
    "/proc/pressure/",
];

fn proc_writes(bed: &Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    let pids =
        container.shell("cd /proc; for p in [0-9]* self thread-self; do echo /proc/$p; done")?;
    let skip: Vec<&str> = pids.split_whitespace().collect();
    let found = ask(
        &container,
        &[&["writable", "/proc"], skip.as_slice()].concat(),
    )?;
    let strange = outside(&found, |path| {
        NAMESPACED.iter().any(|own| path.starts_with(own))
            || path
                .split('/')
                .nth(2)
                .is_some_and(|pid| pid.parse::<u32>().is_ok())
    });
    ensure!(
        strange.is_empty(),
        "opens for writing, and is the host's: {strange:?}"
    );
    for (path, value) in [
        ("/proc/sysrq-trigger", "h"),
        ("/proc/sys/kernel/core_pattern", "core"),
        ("/proc/sys/kernel/modprobe", "/sbin/modprobe"),
        ("/proc/sys/vm/drop_caches", "1"),
        ("/proc/sys/kernel/sysrq", "1"),
        ("/proc/irq/default_smp_affinity", "3"),
    ] {
        ensure!(
            container.shell(&format!("/probe write {path} {value}"))? != "ok",
            "{path} was written"
        );
    }
    container.remove()
}

fn sys_writes(bed: &Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    let found = ask(&container, &["writable", "/sys", "/sys/fs/cgroup"])?;
    // Its own network interfaces, wherever the kernel's tree shows them.
    let strange = outside(&found, |path| {
        path.contains("/net/lo/") || path.contains("/net/eth0/")
    });
    ensure!(
        strange.is_empty(),
        "opens for writing, and is the host's: {strange:?}"
    );
    for (path, value) in [
        ("/sys/kernel/uevent_helper", "/x"),
        ("/sys/kernel/mm/ksm/run", "0"),
        ("/sys/power/state", "mem"),
        ("/sys/module/overlay/parameters/index", "N"),
    ] {
        ensure!(
            container.shell(&format!("/probe write {path} {value}"))? != "ok",
            "{path} was written"
        );
    }
    // Its own cgroup's limits are its owner's; what it makes below is its own.
    let cgroup = container.shell("cat /sys/fs/cgroup/cgroup.max.descendants; /probe write /sys/fs/cgroup/cgroup.max.descendants max; mkdir /sys/fs/cgroup/inner && rmdir /sys/fs/cgroup/inner && echo made")?;
    ensure!(
        !cgroup.lines().any(|line| line == "ok" || line == "max") && cgroup.ends_with("made"),
        "{cgroup}"
    );
    container.remove()
}

fn outside(found: &Value, own: impl Fn(&str) -> bool) -> Vec<String> {
    found
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .filter(|path| !own(path))
        .map(str::to_owned)
        .collect()
}

fn time(bed: &Bed<'_>) -> Result<()> {
    let facts = facts_of_init(bed, &[])?;
    for clock in ["uptime", "sysinfo_uptime"] {
        ensure!(
            facts[clock].as_u64().is_some_and(|seconds| seconds < 30),
            "{clock} is {}",
            facts[clock]
        );
    }
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)?
        .as_secs();
    ensure!(
        facts["btime"]
            .as_u64()
            .is_some_and(|btime| btime + 60 > now),
        "btime is {}, now {now}",
        facts["btime"]
    );
    Ok(())
}
