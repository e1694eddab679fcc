//! Execs whose client vanishes, with and without a terminal (CVE-2022-23471, 2025-64329): the shim holds nothing of them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::bed::{ctr, docker};
use integration::image::Image;
use integration::node::DEADLINE;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use crate::case::Case;
use crate::shim::Shim;

pub(crate) const CASES: &[Case] = &[
    Case::ctr("by_ctr", by_ctr).ours("it looks into our shim"),
    Case::docker("by_docker", by_docker).ours("it looks into our shim"),
];

/// Starts the client and kills it when it may be anywhere in its work.
fn abort(command: &mut Command, after: Duration) -> Result<()> {
    let mut client = command
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("start the client")?;
    std::thread::sleep(after);
    let group = Pid::from_raw(i32::try_from(client.id())?);
    killpg(group, Signal::SIGKILL).context("kill the client")?;
    client.wait().context("wait for the client")?;
    Ok(())
}

/// Ends what the clients left running; init is safe from its own (pid_namespaces(7)).
const END: &str = "killall -9 cat probe 2>/dev/null || true";

/// Waits until its descriptors are what they were, and its threads no more. Output that nobody reads is kept for a moment.
fn flat(shim: &Shim<'_>, before: &(Vec<String>, u64)) -> Result<()> {
    let begin = Instant::now();
    loop {
        let now = (shim.descriptors()?, shim.threads()?);
        if now.0 == before.0 && now.1 <= before.1 {
            return Ok(());
        }
        ensure!(
            begin.elapsed() < DEADLINE / 4,
            "before: {before:?}\nnow: {now:?}"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn by_ctr(bed: &ctr::Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    container.exec(&["/bin/true"])?.ok()?;
    let shim = Shim::of(bed.node, "default", &container.id)?;
    let before = (shim.descriptors()?, shim.threads()?);
    let memory = shim.peak()?;
    for round in 0..200 {
        let options: &[&str] = if round % 2 == 0 { &[] } else { &["--tty"] };
        let words: &[&str] = match round % 6 {
            0 | 1 => &["/bin/cat"],
            2 | 3 => &["/probe", "sleep"],
            _ => &["/probe", "spew", "100000000"],
        };
        let mut command = container.exec_command(options, words);
        abort(&mut command, Duration::from_millis(20 + round % 50))?;
    }
    // ctr would have killed them.
    container.shell(END)?;
    // An exec that nobody deletes is a record of the shim's; its streams and threads are not.
    let execs = bed.ctr(&["task", "ps", &container.id])?;
    flat(&shim, &before).with_context(|| execs.stdout)?;
    let more = shim.peak()?.saturating_sub(memory);
    ensure!(more < 2048, "the shim grew by {more} KiB");
    container.exec(&["/bin/true"])?.ok()?;
    container.remove()?;
    // The client's own, which it removes when it may.
    bed.node
        .shell("rm -rf /run/containerd/fifo/*")?
        .ok()
        .map(drop)
}

fn by_docker(bed: &docker::Bed<'_>) -> Result<()> {
    let container = bed.detached(&["-i"], &["/bin/cat"])?;
    container.shell("true")?;
    let id = bed.docker(&["inspect", "-f", "{{.Id}}", &container.id])?;
    let shim = Shim::of(bed.node, "moby", id.text())?;
    let before = (shim.descriptors()?, shim.threads()?);
    for round in 0..60 {
        let mut command = match round % 3 {
            0 => container.exec(&["-i"], &["/bin/cat"]),
            1 => container.exec(&["-i"], &["/probe", "spew", "100000000"]),
            _ => bed.node.command(&["docker", "attach", &container.id]),
        };
        abort(&mut command, Duration::from_millis(40 + 2 * round))?;
    }
    container.shell(END)?;
    flat(&shim, &before)?;
    container.shell("true")?;
    container.remove()
}
