//! Runs a command in a running node.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

use crate::process;

/// `node-init enter PID WORDS…`: joins the cgroup and all namespaces of the node whose PID 1 is `pid`, runs `words`, and
/// returns their exit code.
///
/// # Errors
/// If the node is gone or the command cannot be started.
pub fn enter(pid: &str, words: &[String]) -> Result<i32> {
    let proc = Path::new("/proc").join(pid);
    let cgroup = proc.join("root/sys/fs/cgroup/engine/cgroup.procs");
    fs::write(&cgroup, "0")
        .with_context(|| format!("join the node's cgroup by {}", cgroup.display()))?;
    let kinds = [
        ("cgroup", CloneFlags::CLONE_NEWCGROUP),
        ("ipc", CloneFlags::CLONE_NEWIPC),
        ("uts", CloneFlags::CLONE_NEWUTS),
        ("net", CloneFlags::CLONE_NEWNET),
        ("pid", CloneFlags::CLONE_NEWPID),
        // The last one: it takes /proc away.
        ("mnt", CloneFlags::CLONE_NEWNS),
    ];
    let spaces = kinds
        .map(|(name, kind)| File::open(proc.join("ns").join(name)).map(|file| (name, kind, file)));
    for space in spaces {
        let (name, kind, file) = space.context("open the node's namespaces")?;
        setns(file, kind).with_context(|| format!("enter the node's {name} namespace"))?;
    }
    let (program, args) = words.split_first().context("no command")?;
    let status = Command::new(program)
        .args(args)
        .status()
        .with_context(|| format!("start {program}"))?;
    Ok(process::code(status))
}
