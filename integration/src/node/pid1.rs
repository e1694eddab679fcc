//! PID 1 of a node: builds its root, then reaps until the test process is gone.

use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;
use nix::sys::stat::{Mode, SFlag, makedev, mknod, umask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, chdir, pivot_root, sethostname};

use super::Launch;

/// `node-init pid1`: never returns before standard input ends.
///
/// # Errors
/// If a step fails; the message names it.
pub fn pid1(launch: &Launch) -> Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).context("die with the supervisor")?;
    // The supervisor keeps its own, in which the host's paths stay.
    unshare(CloneFlags::CLONE_NEWNS).context("unshare the mount namespace")?;
    umask(Mode::empty());
    // The host's pid: /proc is still the host's here, and its magic link resolves in that procfs.
    let pid = fs::read_link("/proc/self").context("read the host's pid")?;
    sethostname(&launch.name).context("set the host name")?;
    mounts(launch)?;
    let root = launch.state.join("root");
    chdir(&root).context("enter the root")?;
    pivot_root(".", ".").context("pivot into the root")?;
    umount2(".", MntFlags::MNT_DETACH).context("let go of the host's root")?;
    chdir("/").context("enter /")?;
    // As systemd leaves it on a real host; CRI's mount propagation rests on it.
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_SHARED,
        None::<&str>,
    )
    .context("make / shared")?;
    for leaf in ["init", "engine"] {
        fs::create_dir(Path::new("/sys/fs/cgroup").join(leaf))
            .with_context(|| format!("create cgroup {leaf}"))?;
    }
    // Out of the inner root, so that controllers can be delegated (cgroup v2: no internal processes).
    fs::write("/sys/fs/cgroup/init/cgroup.procs", "0").context("move to cgroup init")?;
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    let up = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status()
        .context("start ip")?;
    anyhow::ensure!(up.success(), "ip link set lo up: {up}");
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("forward packets")?;
    println!("{}", pid.display());
    std::io::stdout()
        .flush()
        .context("say that the node is up")?;
    reap()
}

fn mounts(launch: &Launch) -> Result<()> {
    let state = &launch.state;
    let root = state.join("root");
    let layers = format!(
        "lowerdir={},upperdir={},workdir={}",
        launch.lower.display(),
        state.join("upper").display(),
        state.join("work").display()
    );
    mount(
        Some("overlay"),
        &root,
        Some("overlay"),
        MsFlags::empty(),
        Some(layers.as_str()),
    )
    .context("mount the root")?;
    let guarded = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    file_system(&root, "proc", "proc", guarded, "")?;
    file_system(&root, "sysfs", "sys", guarded, "")?;
    file_system(&root, "cgroup2", "sys/fs/cgroup", guarded, "")?;
    file_system(&root, "tmpfs", "dev", MsFlags::MS_NOSUID, "mode=755")?;
    file_system(
        &root,
        "tmpfs",
        "run",
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        "mode=755",
    )?;
    file_system(
        &root,
        "tmpfs",
        "tmp",
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        "mode=1777",
    )?;
    devices(&root.join("dev"))?;
    // What a host has and a container must not reach. A kernel without one of them has nothing to protect there.
    for (kind, target) in [
        ("debugfs", "sys/kernel/debug"),
        ("tracefs", "sys/kernel/tracing"),
        ("securityfs", "sys/kernel/security"),
        ("bpf", "sys/fs/bpf"),
    ] {
        if root.join(target).is_dir() && file_system(&root, kind, target, guarded, "").is_err() {
            eprintln!("{kind} cannot be mounted here");
        }
    }
    // containerd's snapshots must not lie on the overlay that is the node's root.
    bind(&state.join("containerd"), &root.join("var/lib/containerd"))?;
    bind(&state.join("srv"), &root.join("srv"))?;
    let modules = Path::new("/lib/modules");
    if modules.is_dir() {
        bind(modules, &root.join("usr/lib/modules"))?;
    }
    Ok(())
}

fn devices(dev: &Path) -> Result<()> {
    fs::create_dir_all(dev.join("net")).context("create /dev/net")?;
    // Numbers: Documentation/admin-guide/devices.txt. Modes: what udev gives them.
    let nodes = [
        ("null", 1, 3, 0o666),
        ("zero", 1, 5, 0o666),
        ("full", 1, 7, 0o666),
        ("random", 1, 8, 0o666),
        ("urandom", 1, 9, 0o666),
        ("kmsg", 1, 11, 0o640),
        ("tty", 5, 0, 0o666),
        ("fuse", 10, 229, 0o666),
        ("net/tun", 10, 200, 0o666),
        ("loop-control", 10, 237, 0o600),
    ];
    for (name, major, minor, mode) in nodes {
        mknod(
            &dev.join(name),
            SFlag::S_IFCHR,
            Mode::from_bits_truncate(mode),
            makedev(major, minor),
        )
        .with_context(|| format!("make /dev/{name}"))?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        symlink(target, dev.join(name)).with_context(|| format!("link /dev/{name}"))?;
    }
    file_system(
        dev,
        "devpts",
        "pts",
        MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
        "newinstance,ptmxmode=0666,mode=0620,gid=5",
    )?;
    file_system(
        dev,
        "tmpfs",
        "shm",
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        "mode=1777",
    )?;
    file_system(
        dev,
        "mqueue",
        "mqueue",
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        "",
    )
}

fn file_system(root: &Path, kind: &str, target: &str, flags: MsFlags, options: &str) -> Result<()> {
    let target = root.join(target);
    if !target.is_dir() {
        fs::create_dir_all(&target).with_context(|| format!("create {}", target.display()))?;
        fs::set_permissions(&target, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("chmod {}", target.display()))?;
    }
    mount(Some(kind), &target, Some(kind), flags, Some(options))
        .with_context(|| format!("mount {kind} on {}", target.display()))
}

fn bind(source: &Path, target: &Path) -> Result<()> {
    fs::create_dir_all(target).with_context(|| format!("create {}", target.display()))?;
    mount(
        Some(source),
        target,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .with_context(|| format!("bind {} on {}", source.display(), target.display()))
}

/// Collects orphans, which is PID 1's duty, until the other end of standard input is closed.
fn reap() -> Result<()> {
    let mut wanted = SigSet::empty();
    wanted.add(Signal::SIGCHLD);
    wanted.thread_block().context("block SIGCHLD")?;
    let children = SignalFd::new(&wanted).context("open a signalfd")?;
    let stdin = std::io::stdin();
    loop {
        while !matches!(
            waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)),
            Err(_) | Ok(WaitStatus::StillAlive)
        ) {}
        let mut polled = [
            PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
            PollFd::new(children.as_fd(), PollFlags::POLLIN),
        ];
        poll(&mut polled, PollTimeout::NONE).context("wait for an end")?;
        if polled[0].revents().is_some_and(|events| !events.is_empty()) {
            return Ok(());
        }
        if polled[1].revents().is_some_and(|events| !events.is_empty()) {
            children.read_signal().context("read the signalfd")?;
        }
    }
}
