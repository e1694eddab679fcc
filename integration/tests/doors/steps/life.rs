//! A container's life among others: its network, its walls, its stops and starts, its engine's death.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::image::Image;
use nix::sys::stat::{major, minor};
use serde_json::Value;

use super::inner;
use crate::door::{Bed, Run, Verb};

/// A published port from the node, and a server in the node from inside.
pub(crate) fn network(bed: &Bed<'_>) -> Result<()> {
    let container = bed.detach(&Run {
        words: &[
            "/bin/sh",
            "-c",
            "while :; do echo served | nc -l -p 80; done",
        ],
        port: Some((8099, 80)),
        ..Run::default()
    })?;
    let ask = "for i in $(seq 50); do x=$(timeout 2 bash -c 'exec 3<>/dev/tcp/127.0.0.1/8099; cat <&3') && [ -n \"$x\" ] && break; sleep 0.1; done; echo $x";
    let seen = bed.node.exec(&["/bin/bash", "-c", ask])?.ok()?;
    ensure!(seen.text() == "served", "in: {seen:?}");
    let gateway = container.shell("ip route | sed -n 's/^default via \\([^ ]*\\).*/\\1/p'")?;
    ensure!(!gateway.is_empty(), "no route out");
    let answer = container.shell(&format!(
        "ping -c 1 -W 5 {gateway} >/dev/null && echo reached"
    ))?;
    ensure!(answer == "reached", "out: {answer}");
    container.remove()
}

/// The probe attacks the host's disk and kernel, and finds itself among ids that are nobody's.
pub(crate) fn isolation(bed: &Bed<'_>) -> Result<()> {
    let container = bed.detach(&Run {
        image: Some(Image::Busybox),
        words: &["/probe", "sleep"],
        ..Run::default()
    })?;
    walls(&container)?;
    container.remove()
}

/// What holds of every container of ours, whatever it was asked to be.
pub(crate) fn walls(container: &crate::door::Container<'_>) -> Result<()> {
    let facts: Value = serde_json::from_str(&container.shell("/probe facts")?)?;
    let map: Vec<u64> = serde_json::from_value(facts["uid_map"].clone()).context("uid_map")?;
    ensure!(
        matches!(map[..], [0, base, size] if base >= 65536 && size >= 65536),
        "ids of the host: {map:?}"
    );
    let device = fs::metadata("/").context("stat /")?.dev();
    let attack = format!("/probe attack {}:{}", major(device), minor(device));
    let outcomes: Value = serde_json::from_str(&container.shell(&attack)?)?;
    let outcomes = outcomes.as_object().context("no outcomes")?;
    let passed: Vec<_> = outcomes
        .iter()
        .filter(|(_, outcome)| *outcome == "ok")
        .map(|(attempt, _)| attempt.as_str())
        .collect();
    ensure!(
        passed.is_empty() && !outcomes.is_empty(),
        "passed: {passed:?}"
    );
    Ok(())
}

pub(crate) fn again(bed: &Bed<'_>) -> Result<()> {
    let container = inner::dind(bed)?;
    container.shell("docker import /root/bb.tar bb; echo kept >/root/file")?;
    for _ in 0..2 {
        container.does(Verb::Stop)?;
        container.does(Verb::Start)?;
        inner::answers(&container)?;
        let seen = container.shell("cat /root/file; docker run --rm bb echo inner")?;
        ensure!(seen == "kept\ninner", "{seen}");
    }
    container.remove()
}

pub(crate) fn engine(bed: &Bed<'_>) -> Result<()> {
    let sleeper = Run {
        words: &["/probe", "sleep"],
        ..Run::default()
    };
    let containers = (0..3)
        .map(|_| bed.detach(&sleeper))
        .collect::<Result<Vec<_>>>()?;
    for container in &containers {
        container.until("cat /proc/1/comm", "ready", Duration::from_secs(20))?;
    }
    bed.door.restart_engine(bed.node)?;
    for container in containers {
        let said = container.shell("echo alive")?;
        ensure!(said == "alive", "{said}");
        container.does(Verb::Signal("SIGTERM"))?;
        let code = container.ends()?;
        ensure!(code == 143, "exit code {code}");
        container.remove()?;
    }
    Ok(())
}
