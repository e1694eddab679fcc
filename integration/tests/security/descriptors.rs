//! What descriptors a program has when it begins: its standard streams, and none of the runtime's or the engine's.

use anyhow::{Result, ensure};
use integration::bed::{cri, ctr, docker};
use integration::image::Image;
use integration::terminal::Session;

use crate::case::Case;

pub(crate) const CASES: &[Case] = &[
    Case::ctr("by_ctr", by_ctr),
    Case::docker("by_docker", by_docker),
    Case::pod("by_cri", by_cri),
];

/// Of init and of the shell itself.
const LIST: &str = "ls -l /proc/1/fd /proc/$$/fd";

/// Only 0, 1 and 2, and these are pipes, terminals and /dev/null.
fn streams(seen: &str) -> Result<()> {
    let mut count = 0;
    for line in seen.lines() {
        let Some((left, target)) = line.trim().split_once(" -> ") else {
            continue;
        };
        let fd = left.rsplit(' ').next().unwrap_or_default();
        let target_is = |kind: &&str| target.starts_with(*kind);
        ensure!(
            ["0", "1", "2"].contains(&fd)
                && ["pipe:", "/dev/pts/", "/dev/null"].iter().any(target_is),
            "{line}\n{seen}"
        );
        count += 1;
    }
    ensure!(count == 6, "{seen}");
    Ok(())
}

fn by_ctr(bed: &ctr::Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    streams(&container.shell(LIST)?)?;
    let line = container.tty_words(&["/bin/sh", "-c", LIST]);
    let (_, shown) = Session::start(&mut bed.node.command(&line), 200, 20)?.finish()?;
    streams(&shown)?;
    container.remove()?;
    // Init with a terminal.
    let id = bed.id();
    let line = bed.words(
        &["--rm", "--tty"],
        Image::Busybox,
        &id,
        &["/bin/sh", "-c", LIST],
    );
    let (_, shown) = Session::start(&mut bed.node.command(&line), 200, 20)?.finish()?;
    streams(&shown)
}

fn by_docker(bed: &docker::Bed<'_>) -> Result<()> {
    for options in [&["-i"] as &[&str], &["-i", "-t"], &[]] {
        let container = bed.detached(options, &["/probe", "sleep"])?;
        streams(&container.shell(LIST)?)?;
        container.remove()?;
    }
    Ok(())
}

fn by_cri(bed: &cri::Bed<'_>) -> Result<()> {
    let pod = bed.pod(serde_json::json!({}))?;
    streams(&pod.sleeper()?.shell(LIST)?)?;
    pod.remove()
}
