//! What a test left behind: the state of a node, or of the host, before and after.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::node::Node;
use crate::process;

/// How long containerd's garbage collection and the kernel may take to finish what a delete began.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the kernel may keep what has ended. A socket keeps the device programs of the cgroup that it was made in
/// (kernel/cgroup/cgroup.c, cgroup_sk_alloc()): one that its owner closed lives on until its peer has answered, or for two minutes
/// where that is gone (tcp(7), tcp_orphan_retries: 101 to 121 s were seen); the kernel's own of a network namespace, until that is gone.
const KERNEL_PATIENCE: Duration = Duration::from_secs(150);

/// No user of the host's has an id from here on.
const FIRST_OF_PODS: u64 = 65536;

/// Directories that engines make for their first container and keep for the next one. They count only with content.
const KEPT: [&str; 11] = [
    "/default",
    "/run/containerd/fifo",
    "/run/containerd-shim-sysbox",
    "/run/containerd-shim-sysbox/ranges",
    "/run/containerd/s",
    "/run/containerd/runc",
    "/run/containerd/runc/default",
    "/run/containerd/io.containerd.runtime.v2.task/default",
    "/var/lib/containerd/io.containerd.runtime.v2.task/default",
    "/var/lib/containerd/tmpmounts",
    // mount(8)'s own, when a test mounts something in the node.
    "/run/mount",
];

/// Facts that a test must not change, one text each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot(BTreeSet<String>);

impl Snapshot {
    /// Everything of a node that a container may leave: mounts, cgroups, processes with their descriptors, network
    /// interfaces, files below `/run` and `/tmp`, bundles, snapshots and what lies beside their `fs` and `work`.
    #[must_use]
    pub fn of_node(node: &Node) -> Self {
        let mut facts = BTreeSet::new();
        let proc = Path::new("/proc").join(node.pid().to_string());
        mounts(&proc, &mut facts);
        processes(&node.path("/sys/fs/cgroup"), &mut facts);
        interfaces(&proc, &mut facts);
        for dir in ["/run", "/tmp", "/srv"] {
            tree(
                "file",
                &node.path(dir),
                Path::new(dir),
                usize::MAX,
                &mut facts,
            );
        }
        for (dir, depth) in [
            ("io.containerd.runtime.v2.task", 2),
            ("io.containerd.snapshotter.v1.overlayfs/snapshots", 2),
            ("docker/containers", 1),
            ("docker/overlay2", 2),
            ("docker/rootfs/overlayfs", 1),
            ("docker/volumes", 1),
        ] {
            let dir = Path::new("/var/lib/containerd").join(dir);
            tree("state", &node.path(&dir), &dir, depth, &mut facts);
        }
        // A snapshot that a containerd was making when it was killed; no runtime has seen it.
        facts.retain(|fact| !fact.contains(".overlayfs/snapshots/new-"));
        // Compiled filters, for the next container with the same profile.
        facts.retain(|fact| !fact.starts_with("file /run/containerd-shim-sysbox/seccomp/"));
        // dockerd's own socket has another name after each start, and stays when dockerd is killed.
        facts.retain(|fact| !fact.starts_with("file /run/docker/libnetwork/"));
        // What network namespaces were mounted on stays for up to a minute in dockerd 26; the mounts are facts, too.
        facts.retain(|fact| !fact.starts_with("file /run/docker/netns/"));
        facts.retain(|fact| {
            !KEPT
                .iter()
                .any(|kept| fact.split_once(' ').is_some_and(|(_, path)| path == *kept))
        });
        Self(facts)
    }

    /// What of the host a node or a shim in it must not touch or leave behind: mounts, named network namespaces, the shim's
    /// run directory, FUSE connections that are mounted nowhere, keys of pods that are gone; and the kernel's device programs,
    /// where nobody else's tests run beside these ([`crate::host::strict`]).
    #[must_use]
    pub fn of_host() -> Self {
        let mut facts = BTreeSet::new();
        if crate::host::strict() {
            device_programs(&mut facts);
        }
        mounts(Path::new("/proc/self"), &mut facts);
        for dir in ["/run/netns", "/run/containerd-shim-sysbox"] {
            tree(
                "file",
                Path::new(dir),
                Path::new(dir),
                usize::MAX,
                &mut facts,
            );
        }
        connections(&mut facts);
        keys(&mut facts);
        Self(facts)
    }

    /// What `later` has and lacks, one line each; empty if both are the same.
    #[must_use]
    pub fn difference(&self, later: &Self) -> Vec<String> {
        let left = later
            .0
            .difference(&self.0)
            .map(|fact| format!("left: {fact}"));
        let lost = self
            .0
            .difference(&later.0)
            .map(|fact| format!("lost: {fact}"));
        left.chain(lost).collect()
    }
}

/// Waits up to five seconds until a node is as it was.
///
/// # Errors
/// If it still differs after that time: with every difference.
pub fn settled(node: &Node, before: &Snapshot) -> Result<()> {
    settled_within(node, before, PATIENCE)
}

/// The same with another patience: a kubelet's collector has its own time.
///
/// # Errors
/// As [`settled`].
pub fn settled_within(node: &Node, before: &Snapshot, patience: Duration) -> Result<()> {
    let begin = Instant::now();
    let mut collected = false;
    loop {
        let difference = before.difference(&Snapshot::of_node(node));
        if difference.is_empty() {
            return Ok(());
        }
        if begin.elapsed() > patience / 2 && !collected {
            // containerd removes a snapshot when its collector runs next; this runs it now.
            node.ctr(&["content", "prune", "references"])?.ok()?;
            collected = true;
        }
        if begin.elapsed() > patience {
            bail!(
                "the node is not as it was before the test:\n  {}",
                difference.join("\n  ")
            );
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What an earlier suite may have left to the kernel to free, which does so in its own time.
const FREED: [&str; 3] = [
    "lost: device program ",
    "lost: FUSE connection ",
    "lost: keys of uid ",
];

/// What of the host differs from `before`, one line each, once the kernel has had its time to free what has ended.
#[must_use]
pub fn of_host_since(before: &Snapshot) -> Vec<String> {
    let begin = Instant::now();
    loop {
        let mut difference = before.difference(&Snapshot::of_host());
        difference.retain(|line| !FREED.iter().any(|freed| line.starts_with(freed)));
        if difference.is_empty() {
            return difference;
        }
        if begin.elapsed() > KERNEL_PATIENCE {
            difference.extend(kept_by());
            return difference;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What keeps a cgroup's device programs when nobody is in it any more: sockets without an owner, of all network namespaces, and
/// the cgroups that are kept.
fn kept_by() -> impl Iterator<Item = String> {
    let sockets = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let orphans = sockets.lines().find_map(|line| {
        line.strip_prefix("TCP: ")
            .map(|line| format!("TCP sockets: {line}"))
    });
    let cgroups = of_processes("mountinfo", |line| {
        line.contains(" - cgroup2 ").then(|| {
            line.split(' ')
                .nth(4)
                .map(|dir| format!("{dir}/cgroup.stat"))
        })?
    });
    let dying = cgroups.into_iter().filter_map(|file| {
        let stat = fs::read_to_string(&file).ok()?;
        let line = stat
            .lines()
            .find(|line| line.starts_with("nr_dying_descendants"))?;
        Some(format!("{file}: {line}"))
    });
    orphans.into_iter().chain(dying)
}

/// The device programs of our containers that the kernel has, by the names that it gives their compiled code, numbered. Ids
/// would need bpf(2). None is seen where net.core.bpf_jit_kallsyms is 0.
fn device_programs(facts: &mut BTreeSet<String>) {
    let table = fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    let ours = table
        .lines()
        .filter(|line| line.contains("_sysbox_devices"));
    facts.extend((1..).zip(ours).map(|(n, _)| format!("device program {n}")));
}

/// The open descriptors of a process, as `/proc/<pid>/fd` names them, numbers left out.
#[must_use]
pub fn descriptors(pid: i32) -> Vec<String> {
    let dir = Path::new("/proc").join(pid.to_string()).join("fd");
    let mut open: Vec<_> = entries(&dir)
        .iter()
        .filter_map(|path| fs::read_link(path).ok())
        .map(|target| target.to_string_lossy().into_owned())
        .collect();
    open.sort();
    open
}

/// How many watches of inotify(7) a process has, by `/proc/<pid>/fdinfo`.
#[must_use]
pub fn watches(pid: i32) -> usize {
    let dir = Path::new("/proc").join(pid.to_string()).join("fdinfo");
    let of = |path: PathBuf| {
        let info = fs::read_to_string(path).unwrap_or_default();
        info.lines()
            .filter(|line| line.starts_with("inotify "))
            .count()
    };
    entries(&dir).into_iter().map(of).sum()
}

/// Each FUSE connection that is mounted nowhere any more, by its number. The file system that lists them is mounted in
/// private, for it need not be mounted here; without root there is none.
fn connections(facts: &mut BTreeSet<String>) {
    const LIST: &str = "cd /sys/fs/fuse && mount -t fusectl none connections && ls connections";
    let mut list = Command::new("unshare");
    list.args(["--mount", "sh", "-c", LIST]);
    let Ok(list) = process::run(&mut list, b"", PATIENCE) else {
        return;
    };
    // A connection's number is its file system's minor one.
    let mounted: BTreeSet<String> = of_processes("mountinfo", |line| {
        line.split(' ')
            .nth(2)?
            .strip_prefix("0:")
            .map(str::to_owned)
    });
    let numbers = list.stdout.split_whitespace();
    facts.extend(
        numbers
            .filter(|number| !mounted.contains(*number))
            .map(|number| format!("FUSE connection {number}, mounted nowhere")),
    );
}

/// The keys of each id that only pods have, and none that lives (proc_key-users(5)).
fn keys(facts: &mut BTreeSet<String>) {
    let ranges: BTreeSet<(u64, u64)> = of_processes("uid_map", |line| {
        let mut words = line.split_whitespace().skip(1).map(str::parse);
        Some((words.next()?.ok()?, words.next()?.ok()?))
    });
    let lives = |user: u64| {
        ranges
            .iter()
            // That of the host's own namespace has everybody.
            .any(|(first, count)| *first > 0 && (*first..first + count).contains(&user))
    };
    let table = fs::read_to_string("/proc/key-users").unwrap_or_default();
    facts.extend(table.lines().filter_map(|line| {
        let (user, rest) = line.split_once(':')?;
        let user = user.trim().parse().ok()?;
        let keys = rest.split_whitespace().nth(1)?.split('/').next()?;
        let left = user >= FIRST_OF_PODS && keys != "0" && !lives(user);
        left.then(|| format!("keys of uid {user}"))
    }));
}

/// What `take` finds in the lines of a file that each process has in /proc.
fn of_processes<T: Ord>(file: &str, take: impl Fn(&str) -> Option<T>) -> BTreeSet<T> {
    let mut found = BTreeSet::new();
    for process in entries(Path::new("/proc")) {
        // A process that is gone has none.
        let text = fs::read_to_string(process.join(file)).unwrap_or_default();
        found.extend(text.lines().filter_map(&take));
    }
    found
}

fn mounts(proc: &Path, facts: &mut BTreeSet<String>) {
    let table = fs::read_to_string(proc.join("mountinfo")).unwrap_or_default();
    // Without ids, which differ for the same mount made twice.
    facts.extend(table.lines().map(|line| {
        let fields: Vec<_> = line.split(' ').collect();
        format!(
            "mount {} {}",
            fields.get(4).unwrap_or(&""),
            line.split_once(" - ").map_or("", |(_, right)| right)
        )
    }));
}

/// Each cgroup below `dir`, and each process in them.
fn processes(top: &Path, facts: &mut BTreeSet<String>) {
    let mut rest = vec![top.to_owned()];
    while let Some(dir) = rest.pop() {
        let name = Path::new("/").join(dir.strip_prefix(top).unwrap_or(&dir));
        facts.insert(format!("cgroup {}", name.display()));
        for pid in fs::read_to_string(dir.join("cgroup.procs"))
            .unwrap_or_default()
            .lines()
        {
            facts
                .extend(describe(pid).map(|what| format!("process in {}: {what}", name.display())));
        }
        rest.extend(entries(&dir).into_iter().filter(|path| path.is_dir()));
    }
}

/// A process in words; none if it is gone.
fn describe(pid: &str) -> Option<String> {
    let proc = Path::new("/proc").join(pid);
    let line = fs::read(proc.join("cmdline")).ok()?;
    let line = String::from_utf8_lossy(&line).replace('\0', " ");
    let name = fs::read_to_string(proc.join("comm")).ok()?;
    match name.trim() {
        // It opens and closes files as it likes; its number changes with a restart.
        "containerd" | "dockerd" | "node-init" | "etcd" | "kube-apiserver" | "kubelet" => {
            Some(name.trim().to_owned())
        }
        name => Some(format!(
            "{pid} {name} {line}, {} inotify watches, open: {}",
            watches(pid.parse().ok()?),
            descriptors(pid.parse().ok()?).join(" ")
        )),
    }
}

fn interfaces(proc: &Path, facts: &mut BTreeSet<String>) {
    let table = fs::read_to_string(proc.join("net/dev")).unwrap_or_default();
    facts.extend(
        table
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, _)| format!("network interface {}", name.trim())),
    );
}

fn tree(kind: &str, dir: &Path, name: &Path, depth: usize, facts: &mut BTreeSet<String>) {
    for path in entries(dir) {
        let name = name.join(path.file_name().unwrap_or_default());
        facts.insert(format!("{kind} {}", name.display()));
        if depth > 1 && path.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
            tree(kind, &path, &name, depth - 1, facts);
        }
    }
}

/// The paths in a directory; none if it cannot be read, for then it is gone.
fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_names_what_is_left_and_what_is_lost() {
        let before = Snapshot(["a", "b"].map(str::to_owned).into());
        let after = Snapshot(["b", "c"].map(str::to_owned).into());
        assert_eq!(before.difference(&after), ["left: c", "lost: a"]);
        assert!(before.difference(&before).is_empty());
    }

    #[test]
    fn a_watch_is_counted() {
        let pid = i32::try_from(std::process::id()).expect("a pid");
        let before = watches(pid);
        let instance = rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC)
            .expect("an instance");
        rustix::fs::inotify::add_watch(&instance, "/", rustix::fs::inotify::WatchFlags::CREATE)
            .expect("a watch");
        assert!(watches(pid) > before);
    }

    #[test]
    fn an_open_file_is_among_the_descriptors() {
        let file = fs::File::open("/dev/null").expect("open /dev/null");
        let pid = i32::try_from(std::process::id()).expect("a pid");
        assert!(descriptors(pid).contains(&"/dev/null".to_owned()));
        drop(file);
    }
}
