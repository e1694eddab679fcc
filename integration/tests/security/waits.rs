//! Who touches what a container serves, holds or has stopped, waits for it; nothing of ours does without a bound.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use integration::bed::{ctr, docker};
use integration::hostile::{Rescue, meet};
use integration::image::Image;
use integration::process;

use crate::case::Case;

pub(crate) const CASES: &[Case] = &[
    Case::ctr("kill_of_a_locked_up_process", killed).differs(NOTHING_ENDS_IT),
    Case::ctr("kill_of_one_whose_file_system_is_unmounted", unmounted).ours(NOTHING_ENDS_IT),
    Case::ctr("removal_by_force", removed).ours(NOTHING_ENDS_IT),
    Case::ctr("clean_up_after_a_dead_shim", cleaned_up).ours(NOTHING_ENDS_IT),
    Case::ctr("kill_where_no_connection_can_be_aborted", not_aborted).ours(NOTHING_ENDS_IT),
    Case::ctr("exec_in_a_directory_that_never_answers", working_directory).ours(NOTHING_ENDS_IT),
    Case::ctr("exec_of_a_program_that_never_answers", program).ours(NOTHING_ENDS_IT),
    Case::ctr("exec_whose_stage_is_stopped", stopped).ours(NOTHING_ENDS_IT),
    Case::ctr("exec_into_a_frozen_leaf", frozen).ours("its containers have no cgroup of their own"),
    Case::ctr("deadline_of_an_exec", deadline).ours(NOTHING_ENDS_IT),
    Case::docker("docker_rm_of_a_locked_up_process", docker_removed).ours(NOTHING_ENDS_IT),
    Case::docker("docker_while_the_root_is_held", root_held)
        .ours("its engine touches the container's files itself, and hangs"),
];

const NOTHING_ENDS_IT: &str = "nothing ends what waits for a FUSE";

/// More than any bound of ours, and than a kill with all that it needs.
const BOUND: Duration = Duration::from_secs(20);

/// Starts `words` of the probe in the container and waits until it says by its name that all is as it should be.
fn hostile<'a>(
    bed: &ctr::Bed<'a>,
    container: &ctr::Container<'_>,
    words: &[&str],
) -> Result<Rescue<'a>> {
    container.shell(&in_background(words))?;
    meet(bed.node, container.pid()?.cast_unsigned(), "ready")
}

pub(crate) fn in_background(words: &[&str]) -> String {
    format!("/probe {} </dev/null >/dev/null 2>&1 &", words.join(" "))
}

/// Runs a command that must end in time, well or not.
fn ends(mut command: Command) -> Result<process::Output> {
    process::run(&mut command, b"", BOUND)
}

fn killed(bed: &ctr::Bed<'_>) -> Result<()> {
    let options: &[&str] = match bed.runtime {
        // Else it mounts nothing.
        ctr::Runtime::Runc => &["--privileged"],
        ctr::Runtime::Sysbox => &[],
    };
    let container = bed.detached(options, Image::Busybox, &["/probe", "sleep"])?;
    let _rescue = hostile(bed, &container, &["fuse-locked", "/f"])?;
    bed.ctr(&["task", "kill", "--signal", "SIGKILL", &container.id])?;
    stops(&container)?;
    container.delete_task()?;
    container.delete_container()
}

fn stops(container: &ctr::Container<'_>) -> Result<()> {
    let begin = Instant::now();
    while container.status()?.as_deref() != Some("STOPPED") {
        ensure!(begin.elapsed() < BOUND, "{} does not die", container.id);
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn unmounted(bed: &ctr::Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    let _rescue = hostile(bed, &container, &["fuse-locked", "/f"])?;
    container.shell("umount -l /f")?;
    bed.ctr(&["task", "kill", "--signal", "SIGKILL", &container.id])?;
    stops(&container)?;
    container.delete_task()?;
    container.delete_container()
}

/// The kill fails in time, and the log says why.
fn not_aborted(bed: &ctr::Bed<'_>) -> Result<()> {
    let config = "pretend-missing = ['fuse-control']";
    let options = [];
    let run = || bed.detached(&options, Image::Busybox, &["/probe", "sleep"]);
    let container = bed.node.with_config(config, run)?;
    let rescue = hostile(bed, &container, &["fuse-locked", "/f"])?;
    let logged = || -> Result<usize> {
        let log = fs::read_to_string(bed.node.containerd_log())?;
        Ok(log
            .matches("aborting them needs the kernel's fusectl")
            .count())
    };
    let before = logged()?;
    let kill = [
        "ctr",
        "task",
        "kill",
        "--all",
        "--signal",
        "SIGKILL",
        &container.id,
    ];
    let refused = ends(bed.node.command(&kill))?;
    ensure!(refused.code != 0, "it is killed: {refused:?}");
    ensure!(logged()? > before, "nobody is told why");
    drop(rescue);
    stops(&container)?;
    container.delete_task()?;
    container.delete_container()
}

fn removed(bed: &ctr::Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    let _rescue = hostile(bed, &container, &["fuse-locked", "/f"])?;
    let rm = ["ctr", "task", "rm", "--force", &container.id];
    ends(bed.node.command(&rm))?.ok()?;
    container.delete_container()
}

/// The shim is killed, and containerd has `delete` clean up.
fn cleaned_up(bed: &ctr::Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    let _rescue = hostile(bed, &container, &["fuse-locked", "/f"])?;
    let shim = format!(
        "kill -9 $(sed -n 's/^PPid:\\t//p' /proc/{}/status)",
        container.pid()?
    );
    bed.node.shell(&shim)?.ok()?;
    // Nothing lives in its cgroup any more.
    let gone = format!(
        "i=0; while [ -e /sys/fs/cgroup/default/{} ]; do sleep 0.1; i=$((i + 1)); [ $i -lt 200 ]; done",
        container.id
    );
    bed.node.shell(&gone)?.ok()?;
    if container.status()?.is_some() {
        container.delete_task()?;
    }
    // ctr's pipes: nobody deletes the task.
    bed.node.shell("rm -rf /run/containerd/fifo/*")?.ok()?;
    container.delete_container()
}

/// The leaf that processes are born in, made again by root inside, and frozen.
const FROZEN_LEAF: &str = "cd /sys/fs/cgroup; mkdir aside; for p in $(cat init.scope/cgroup.procs); do echo $p >aside/cgroup.procs || true; done 2>/dev/null
  rmdir init.scope; mkdir init.scope; echo 1 >init.scope/cgroup.freeze";

/// Root inside stops what is on its way into the container: whoever has come from outside, but init and this shell. Then it
/// ends what that waits for.
const STOP: &str = "for status in /proc/[0-9]*/status; do
    grep -q '^PPid:[[:space:]]*0$' $status || continue
    pid=${status#/proc/} pid=${pid%/status}
    [ $pid = 1 ] || [ $pid = $$ ] || { kill -STOP $pid; stopped=$pid; }
  done
  [ -n \"$stopped\" ]
  killall -9 held";

/// An exec that cannot come to run ends with a kill of it, and hinders nobody else meanwhile; in which root inside may have
/// had the shell do something about it.
fn exec_killed(
    bed: &ctr::Bed<'_>,
    options: &[&str],
    words: &[&str],
    [prepare, meanwhile]: [&str; 2],
) -> Result<()> {
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    let _rescue = hostile(bed, &container, &["fuse-silent", "/f"])?;
    container.shell(prepare)?;
    let line = [
        &["ctr", "task", "exec", "--exec-id", "hung"],
        options,
        &[&container.id],
        words,
    ];
    let mut hung = bed.node.command(&line.concat());
    let done = thread::Builder::new()
        .name("hung".into())
        .spawn(move || process::run(&mut hung, b"", BOUND))?;
    let kill = [
        "ctr",
        "task",
        "kill",
        "--exec-id",
        "hung",
        "--signal",
        "SIGKILL",
        &container.id,
    ];
    // There is no word of a start that has begun.
    thread::sleep(Duration::from_secs(1));
    for verb in ["ps", "metrics"] {
        ends(bed.node.command(&["ctr", "task", verb, &container.id]))?.ok()?;
    }
    ensure!(!done.is_finished(), "the exec does not hang");
    if !meanwhile.is_empty() {
        container.shell(meanwhile)?;
    }
    thread::sleep(Duration::from_millis(500));
    ensure!(!done.is_finished(), "the exec does not hang any more");
    ends(bed.node.command(&kill))?.ok()?;
    let Ok(exec) = done.join() else {
        bail!("a panic")
    };
    ensure!(exec?.code != 0, "the exec succeeded");
    container.remove()
}

fn working_directory(bed: &ctr::Bed<'_>) -> Result<()> {
    exec_killed(bed, &["--cwd", "/f/x"], &["/bin/true"], ["true"; 2])
}

fn program(bed: &ctr::Bed<'_>) -> Result<()> {
    exec_killed(bed, &[], &["/f/x"], ["true"; 2])
}

fn frozen(bed: &ctr::Bed<'_>) -> Result<()> {
    // The shell would freeze as well.
    exec_killed(bed, &[], &["/bin/true"], [FROZEN_LEAF, ""])
}

fn stopped(bed: &ctr::Bed<'_>) -> Result<()> {
    exec_killed(bed, &["--cwd", "/f/x"], &["/bin/true"], ["true", STOP])
}

/// One that nobody kills ends by itself.
fn deadline(bed: &ctr::Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    let _rescue = hostile(bed, &container, &["fuse-silent", "/f"])?;
    let mut exec = container.exec_command(&["--cwd", "/f/x"], &["/bin/true"]);
    let exec = process::run(&mut exec, b"", 2 * BOUND)?;
    ensure!(exec.stderr.contains("does not come to run"), "{exec:?}");
    container.remove()
}

fn docker_removed(bed: &docker::Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], &["/probe", "sleep"])?;
    let _rescue = docker_hostile(bed, &container, &["fuse-locked", "/f"])?;
    ends(bed.node.command(&["docker", "rm", "-f", &container.id]))?
        .ok()
        .map(drop)
}

/// A process holds the lock of the root directory, and what comes later waits behind it: Docker's daemon, which holds the
/// container's own lock meanwhile, gets an error in time, and goes on.
fn root_held(bed: &docker::Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], &["/probe", "sleep"])?;
    let _rescue = docker_hostile(bed, &container, &["fuse-hold", "/f", "/"])?;
    let target = format!("{}:/copied", container.id);
    let mut copy = bed
        .node
        .command(&["docker", "cp", "/etc/hostname", &target]);
    let copied = process::run(&mut copy, b"", 2 * BOUND)?;
    ensure!(copied.code != 0, "the lock is not held: {copied:?}");
    let id = &container.id;
    ends(bed.node.command(&["docker", "inspect", id]))?.ok()?;
    // It may need what is held.
    let mut exec = container.exec(&[], &["/bin/true"]);
    process::run(&mut exec, b"", 2 * BOUND)?;
    ends(bed.node.command(&["docker", "kill", id]))?.ok()?;
    ends(bed.node.command(&["docker", "rm", "-f", id]))?
        .ok()
        .map(drop)
}

fn docker_hostile<'a>(
    bed: &docker::Bed<'a>,
    container: &docker::Container<'_>,
    words: &[&str],
) -> Result<Rescue<'a>> {
    container.shell(&in_background(words))?;
    let init = bed.docker(&["inspect", "-f", "{{.State.Pid}}", &container.id])?;
    meet(bed.node, init.text().parse()?, "ready")
}
