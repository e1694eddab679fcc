//! A task from create to delete, by the verbs of `ctr task`.

use anyhow::{Result, ensure};
use integration::image::Image;
use integration::node::DEADLINE;

use crate::bed::{ANY, Bed, Case, Container, OURS, Runtime};

pub(crate) const CASES: &[Case] = &[
    Case::new("kill_and_delete", ANY, kill_and_delete).newer(),
    Case::new("signals_reach_init", ANY, signals_reach_init),
    Case::new("kill_all", ANY, kill_all),
    Case::new("pids", ANY, pids),
    Case::new("metrics", ANY, metrics).newer(),
    Case::new("pause_and_resume", ANY, pause_and_resume).newer(),
    Case::new("delete_of_a_running_task_fails", ANY, delete_running),
    Case::new("stopped_task_starts_again", ANY, starts_again).newer(),
    Case::new("orphans_are_reaped", ANY, orphans),
    Case::new("containerd_restart", ANY, containerd_restart).newer(),
    Case::new("exit_during_containerd_restart", OURS, exit_during_restart).newer(),
];

fn kill_and_delete(bed: &Bed<'_>) -> Result<()> {
    for (signal, code) in [("SIGTERM", 143), ("SIGKILL", 137)] {
        let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
        ensure!(
            container.status()?.as_deref() == Some("RUNNING"),
            "{:?}",
            container.status()?
        );
        ready(&container)?;
        bed.ctr(&["task", "kill", "--signal", signal, &container.id])?;
        container.reaches("STOPPED")?;
        ensure!(
            container.delete_task()? == code,
            "another exit status than code"
        );
        container.delete_container()?;
    }
    Ok(())
}

/// Waits until the probe as init can take signals: before that they are lost.
fn ready(container: &Container<'_>) -> Result<()> {
    let begin = std::time::Instant::now();
    while container.shell("cat /proc/1/comm")? != "ready" {
        ensure!(begin.elapsed() < DEADLINE, "init does not wait for signals");
    }
    Ok(())
}

fn signals_reach_init(bed: &Bed<'_>) -> Result<()> {
    for signal in ["SIGHUP", "SIGUSR1", "SIGWINCH"] {
        let container = bed.detached(
            &["--log-uri", "file:///srv/signal"],
            Image::Busybox,
            &["/probe", "sig", "SIGHUP", "SIGUSR1", "SIGWINCH"],
        )?;
        ready(&container)?;
        bed.ctr(&["task", "kill", "--signal", signal, &container.id])?;
        container.reaches("STOPPED")?;
        container.remove()?;
        let log = bed.node.shell("cat /srv/signal; rm /srv/signal")?.ok()?;
        ensure!(
            log.stdout.contains(signal),
            "{signal} was sent, init saw: {}",
            log.stdout
        );
    }
    Ok(())
}

fn kill_all(bed: &Bed<'_>) -> Result<()> {
    let container = bed.detached(
        &[],
        Image::Busybox,
        &[
            "/bin/sh",
            "-c",
            "trap '' TERM; sleep 1000 & sleep 1000 & wait; wait; exit 9",
        ],
    )?;
    container.shell("while [ $(pgrep -c '^sleep$' 2>/dev/null || ps | grep -c ' sleep 1000') -lt 2 ]; do sleep 0.1; done")?;
    bed.ctr(&[
        "task",
        "kill",
        "--all",
        "--signal",
        "SIGKILL",
        &container.id,
    ])?;
    container.reaches("STOPPED")?;
    ensure!(
        container.delete_task()? == 137,
        "another exit status than 137"
    );
    container.delete_container()
}

fn pids(bed: &Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Busybox, &["/bin/sh", "-c", "sleep 1000 & wait"])?;
    container.shell("while ! ps | grep -q '[s]leep 1000'; do sleep 0.1; done")?;
    let list = bed.ctr(&["task", "ps", &container.id])?;
    let pids: Vec<i32> = list
        .stdout
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next()?.parse().ok())
        .collect();
    ensure!(
        pids.len() == 2 && pids.contains(&container.pid()?),
        "{}",
        list.stdout
    );
    container.remove()
}

fn metrics(bed: &Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    container.shell("i=0; while [ $i -lt 100000 ]; do i=$((i + 1)); done")?;
    let json = bed.ctr(&["task", "metrics", "--format", "json", &container.id])?;
    let value: serde_json::Value = serde_json::from_str(json.text())?;
    // What a cgroup has without any controller (cgroup-v2.rst: cpu.stat, cpu.pressure); runc's shim leaves cpu.stat out then.
    let figure = if bed.runtime == Runtime::Runc {
        "/cpu/psi/some/total"
    } else {
        "/cpu/usage_usec"
    };
    ensure!(
        value
            .pointer(figure)
            .and_then(serde_json::Value::as_u64)
            .is_some_and(|usage| usage > 0),
        "no {figure} in {value}"
    );
    container.remove()
}

fn pause_and_resume(bed: &Bed<'_>) -> Result<()> {
    let container = bed.detached(
        &[],
        Image::Busybox,
        &[
            "/bin/sh",
            "-c",
            // Renamed: a freeze between a truncation and the write would find nothing in it.
            "while :; do date +%s%N >/next; mv /next /count; sleep 0.05; done",
        ],
    )?;
    container.shell("while ! test -s /count; do sleep 0.05; done")?;
    bed.ctr(&["task", "pause", &container.id])?;
    ensure!(
        container.status()?.as_deref() == Some("PAUSED"),
        "{:?}",
        container.status()?
    );
    let frozen = bed
        .node
        .shell(&format!(
            "cat /proc/{}/root/count; sleep 0.3; cat /proc/{0}/root/count",
            container.pid()?
        ))?
        .ok()?;
    let seen: Vec<_> = frozen.stdout.lines().collect();
    ensure!(
        seen.len() == 2 && seen[0] == seen[1],
        "it ran while it was paused: {seen:?}"
    );
    bed.ctr(&["task", "resume", &container.id])?;
    container.shell(&format!(
        "while [ $(cat /count) = {} ]; do sleep 0.05; done",
        seen[0]
    ))?;
    container.remove()
}

fn delete_running(bed: &Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    let output = bed.node.ctr(&["task", "delete", &container.id])?;
    ensure!(output.code != 0, "a running task was deleted");
    container.exec(&["/bin/true"])?.ok()?;
    container.remove()
}

fn starts_again(bed: &Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    container.shell("echo kept >/root/file; chown 1000:1001 /root/file")?;
    for _ in 0..2 {
        bed.ctr(&["task", "kill", "--signal", "SIGKILL", &container.id])?;
        container.reaches("STOPPED")?;
        ensure!(
            container.delete_task()? == 137,
            "another exit status than 137"
        );
        bed.ctr(&["task", "start", "--detach", &container.id])?;
        let found = container.shell("cat /root/file; stat -c %u:%g /root/file")?;
        ensure!(found == "kept\n1000:1001", "{found}");
    }
    container.remove()
}

fn orphans(bed: &Bed<'_>) -> Result<()> {
    // The shell between init and the sleeper ends first; init, a shell that waits, collects the sleeper.
    let container = bed.detached(
        &[],
        Image::Busybox,
        &["/bin/sh", "-c", "while :; do sleep 0.2; done"],
    )?;
    container.exec(&["/bin/sh", "-c", "(sleep 0.3 &)"])?.ok()?;
    let left = container.shell(
        "sleep 1; i=0; while ps -o stat,args | grep -q '^Z' && [ $i -lt 100 ]; do sleep 0.1; i=$((i + 1)); done
         ps -o stat,args | grep -c '^Z' || true",
    )?;
    ensure!(left == "0", "{left} zombies");
    container.remove()
}

fn containerd_restart(bed: &Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    let pid = container.pid()?;
    bed.node.kill_containerd("KILL")?;
    bed.node.start_containerd()?;
    ensure!(
        container.status()?.as_deref() == Some("RUNNING") && container.pid()? == pid,
        "the task was lost"
    );
    container.exec(&["/probe", "exit", "6"])?.exits(6)?;
    container.remove()
}

/// runc's shim has no process to show for a stopped task, and containerd takes it for a leak.
fn exit_during_restart(bed: &Bed<'_>) -> Result<()> {
    let script = ["/bin/sh", "-c", "sleep 1; exit 7"];
    let container = bed.detached(&[], Image::Busybox, &script)?;
    bed.node.kill_containerd("KILL")?;
    std::thread::sleep(std::time::Duration::from_millis(1500));
    bed.node.start_containerd()?;
    container.reaches("STOPPED")?;
    ensure!(container.delete_task()? == 7, "the exit status was lost");
    container.delete_container()
}
