//! What the engine does with a shim beside tasks: asks it for its features, groups a pod's containers, buries a dead one.

use anyhow::{Result, ensure};
use integration::debian::Release;
use integration::image::Image;
use integration::node::DEADLINE;

use crate::bed::{Bed, Case, OURS};

pub(crate) const CASES: &[Case] = &[
    // containerd 1.7's ctr has no such verb.
    Case::new("features", OURS, features)
        .only(&[Release::Sid])
        .newer(),
    Case::new("one_shim_for_a_pod", OURS, pod).newer(),
    Case::new("a_dead_shim_is_cleaned_up_after", OURS, dead_shim).newer(),
];

fn features(bed: &Bed<'_>) -> Result<()> {
    let runtime = bed.runtime.handler();
    let said = bed.ctr(&["plugins", "inspect-runtime", "--runtime", runtime])?;
    for word in ["ociVersionMin", "\"rro\"", "seccomp", runtime] {
        ensure!(
            said.stdout.contains(word),
            "no {word} in {said:?}, although it is a feature"
        );
    }
    Ok(())
}

fn pod(bed: &Bed<'_>) -> Result<()> {
    let group = ["--annotation", "io.kubernetes.cri.sandbox-id=c0"];
    let first = bed.detached(&group, Image::Busybox, &["/probe", "sleep"])?;
    let second = bed.detached(&group, Image::Busybox, &["/probe", "sleep"])?;
    let shims = shims(bed)?;
    ensure!(shims.len() == 1, "shims: {shims:?}");
    first.remove()?;
    ensure!(
        second.shell("echo alive")? == "alive",
        "it went with another"
    );
    second.remove()
}

fn dead_shim(bed: &Bed<'_>) -> Result<()> {
    // ctr's fifos would stay: it removes them when it deletes the task, which containerd has done then.
    let container = bed.detached(&["--null-io"], Image::Busybox, &["/probe", "sleep"])?;
    let shims = shims(bed)?;
    ensure!(shims.len() == 1, "shims: {shims:?}");
    bed.node.exec(&["/bin/kill", "-9", &shims[0]])?.ok()?;
    let begin = std::time::Instant::now();
    while container
        .status()?
        .is_some_and(|status| status == "RUNNING")
    {
        ensure!(begin.elapsed() < DEADLINE, "the task is still there");
    }
    if container.status()?.is_some() {
        bed.node
            .ctr(&["task", "delete", "--force", &container.id])?;
    }
    container.delete_container()
}

/// The pids of the node's shims of ours.
fn shims(bed: &Bed<'_>) -> Result<Vec<String>> {
    let found = bed
        .node
        .shell("pgrep -f '^/usr/local/bin/containerd-shim-sysbox-v2 ' || true")?
        .ok()?;
    Ok(found.stdout.lines().map(str::to_owned).collect())
}
