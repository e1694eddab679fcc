//! What tests of real cgroups share: a private mount and cgroup namespace with a fresh cgroup2 at /sys/fs/cgroup, one
//! uniquely named directory in it that must be gone in the end, and processes that die with the test.
#![allow(dead_code, unreachable_pub)] // each test binary uses its part
#![allow(clippy::print_stdout)] // a test says why it is skipped

use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::cgroup::{Cgroup, DeviceRule, Hierarchy};
use crate::config::CgroupConfig;
use crate::kernel::reap::{self, ExitStatus};
use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

/// Owner of delegated files: an id of no user.
pub const OWNER: (u32, u32) = (1_234_567_000, 1_234_567_001);

/// Prints why a test does not run; fails instead where it must.
pub fn skip(why: &str) {
    let required = ["CI", "REQUIRE_ROOT"]
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
    assert!(!required, "skipped: {why}, but CI or REQUIRE_ROOT is set");
    println!("skipped: {why}");
}

/// This thread's private view of the unified hierarchy.
pub struct Sandbox {
    pub hierarchy: Hierarchy,
    base: String,
}

impl Sandbox {
    /// Moves this thread, and those it starts, into it. `None`: this machine cannot, and the reason is printed.
    pub fn enter(test: &str) -> Option<Sandbox> {
        if let Err(why) = private_cgroup2() {
            skip(&why);
            return None;
        }
        Some(Sandbox {
            hierarchy: Hierarchy::find().unwrap(),
            base: format!("runtime-core-test-{}-{test}", std::process::id()),
        })
    }

    /// A path of the test's own.
    pub fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.base)
    }

    /// Its place on this machine.
    pub fn absolute(&self, name: &str) -> PathBuf {
        self.hierarchy.root().join(self.path(name))
    }

    /// A container's cgroup.
    pub fn create(&self, name: &str) -> Cgroup {
        Cgroup::create(
            &self.hierarchy,
            &self.path(name),
            OWNER,
            &CgroupConfig::default(),
            &DeviceRule::defaults(),
        )
        .unwrap()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let base = self.hierarchy.root().join(&self.base);
        if !base.exists() {
            return;
        }
        // Whatever the test left goes, so that the machine is as it was; that it was left fails the test.
        let left = Cgroup::open(&self.hierarchy, &self.base).unwrap();
        let _ = left.kill().and_then(|()| left.remove());
        if !std::thread::panicking() {
            panic!("left behind: {}", base.display());
        }
    }
}

fn private_cgroup2() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("needs root".into());
    }
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWCGROUP)
        .map_err(|e| format!("cannot unshare namespaces: {e}"))?;
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .map_err(|e| format!("cannot make / private: {e}"))?;
    mount(
        "none",
        "/sys/fs/cgroup",
        "cgroup2",
        MountFlags::empty(),
        None,
    )
    .map_err(|e| format!("cannot mount cgroup2: {e}"))
}

/// A process and its group, killed in the end.
pub struct Process {
    pub child: Child,
    pidfd: OwnedFd,
}

impl Process {
    /// Runs a shell script, which starts once it is in the cgroup of directory `cgroup` (with `uid` if given). Its output
    /// is a pipe.
    pub fn start(cgroup: &Path, uid: Option<u32>, script: &str) -> Process {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", &format!("read go; {script}")])
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if let Some(uid) = uid {
            command.uid(uid).gid(uid);
        }
        let mut child = command.spawn().unwrap();
        let pidfd = pidfd_open(pid(&child), PidfdFlags::empty()).unwrap();
        std::fs::write(cgroup.join("cgroup.procs"), child.id().to_string()).unwrap();
        std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"go\n").unwrap();
        Process { child, pidfd }
    }

    /// All it prints, and how it ended.
    pub fn finish(mut self) -> (String, ExitStatus) {
        drop(self.child.stdin.take());
        let mut text = String::new();
        let mut stdout = self.child.stdout.take().unwrap();
        std::io::Read::read_to_string(&mut stdout, &mut text).unwrap();
        (text, reap::reap_blocking(&self.pidfd).unwrap())
    }

    /// Whether it has exited; collects it.
    pub fn has_exited(&self) -> bool {
        reap::reap(&self.pidfd)
            .unwrap_or(Some(ExitStatus::Code(0)))
            .is_some()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if reap::reap(&self.pidfd).is_ok_and(|status| status.is_none()) {
            let _ = kill_process_group(pid(&self.child), Signal::KILL);
            let _ = reap::reap_blocking(&self.pidfd);
        }
    }
}

/// Runs a program to its end.
#[allow(clippy::zombie_processes)] // waited for by its pidfd
pub fn run(mut command: Command) -> ExitStatus {
    let child = command.spawn().unwrap();
    reap::reap_blocking(pidfd_open(pid(&child), PidfdFlags::empty()).unwrap()).unwrap()
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap()
}

/// Waits until `condition` holds; fails after 10 s.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
