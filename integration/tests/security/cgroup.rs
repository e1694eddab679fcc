//! A container is where its engine wants it, all of it, and reaches nothing above.

use anyhow::{Context, Result, ensure};
use integration::bed::{cri, ctr, docker};
use integration::image::Image;
use integration::node::Node;
use serde_json::Value;

use crate::case::Case;

pub(crate) const CASES: &[Case] = &[
    Case::ctr("where_ctr_says", by_ctr),
    Case::docker("where_docker_says", by_docker),
    Case::pod("where_the_kubelet_says", by_cri),
    Case::ctr("nothing_above_its_own", above)
        .ours("runc leaves the cgroup read-only, so there is nothing to try"),
];

/// Every process of the container `id` is in the cgroup of its spec or below.
fn placed(node: &Node, namespace: &str, id: &str) -> Result<()> {
    let spec =
        format!("cat /run/containerd/io.containerd.runtime.v2.task/{namespace}/{id}/config.json");
    let spec: Value = serde_json::from_str(node.shell(&spec)?.ok()?.text())?;
    let wanted = spec["linux"]["cgroupsPath"].as_str();
    let wanted = wanted.context("the spec names no cgroup")?;
    let pids = node
        .ctr(&["--namespace", namespace, "task", "ps", id])?
        .ok()?;
    let mut seen = 0;
    for row in pids.stdout.lines().skip(1) {
        let pid = row.split_whitespace().next().context("no pid")?;
        let cgroup = node.shell(&format!("grep ^0:: /proc/{pid}/cgroup"))?.ok()?;
        let at = cgroup.text().trim_start_matches("0::");
        ensure!(
            at == wanted || at.starts_with(&format!("{wanted}/")),
            "{pid} is in {at}, the spec says {wanted}"
        );
        seen += 1;
    }
    // Init and one that exec started.
    ensure!(seen >= 2, "{seen} processes in {}", pids.stdout);
    Ok(())
}

/// Removes what runc leaves of cgroups that it made above a container's; ours removes them itself.
fn emptied(node: &Node, cgroups: &str) -> Result<()> {
    let script = format!("cd /sys/fs/cgroup; for c in {cgroups}; do [ ! -e $c ] || rmdir $c; done");
    node.shell(&script)?.ok().map(drop)
}

fn by_ctr(bed: &ctr::Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    container.shell("sleep 100 >/dev/null 2>&1 </dev/null &")?;
    placed(bed.node, "default", &container.id)?;
    container.remove()
}

fn by_docker(bed: &docker::Bed<'_>) -> Result<()> {
    let container = bed.detached(&["--cgroup-parent", "/some/where"], &["/probe", "sleep"])?;
    container.shell("sleep 100 >/dev/null 2>&1 </dev/null &")?;
    let id = bed.docker(&["inspect", "-f", "{{.Id}}", &container.id])?;
    placed(bed.node, "moby", id.text())?;
    container.remove()?;
    emptied(bed.node, "some/where some")
}

fn by_cri(bed: &cri::Bed<'_>) -> Result<()> {
    let parent = serde_json::json!({"linux": {"cgroup_parent": "/kubepods/besteffort/pod1"}});
    let pod = bed.pod(parent)?;
    let container = pod.sleeper()?;
    container.shell("sleep 100 >/dev/null 2>&1 </dev/null &")?;
    placed(bed.node, "k8s.io", &container.id)?;
    let at = bed.node.shell(&format!(
        "ls -d /sys/fs/cgroup/kubepods/besteffort/pod1/{}",
        container.id
    ))?;
    at.ok()?;
    pod.remove()?;
    emptied(
        bed.node,
        "kubepods/besteffort/pod1 kubepods/besteffort kubepods",
    )
}

/// By its own mount of the hierarchy, by a new one, and by a namespace below its own.
fn above(bed: &ctr::Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    let script = "
        mkdir /tmp/c && mount -t cgroup2 none /tmp/c
        for top in /sys/fs/cgroup /tmp/c; do
            cat $top/cgroup.procs | sort -u
            ls -di $top/.. >/dev/null
            # Limits of its own root are its owner's.
            for file in cgroup.max.descendants cgroup.max.depth pids.max memory.max cpu.max cgroup.freeze cgroup.kill; do
                [ ! -e $top/$file ] || echo \"$file $(/probe write $top/$file 1)\"
            done
            # There is no more above.
            [ \"$(cat $top/../cgroup.procs 2>/dev/null)\" = '' ] || echo above ok
        done
        grep cgroup2 /proc/self/mountinfo | cut -d ' ' -f 4
        umount /tmp/c";
    let seen = container.shell(script)?;
    let passed: Vec<_> = seen
        .lines()
        .filter(|line| {
            line.split_once(' ')
                .is_some_and(|(file, outcome)| outcome == "ok" && file != "cgroup.procs")
        })
        .collect();
    ensure!(passed.is_empty(), "{passed:?}\n{seen}");
    // The roots of its mounts are its own, not paths above (`/../..`).
    ensure!(!seen.lines().any(|line| line.starts_with("/..")), "{seen}");
    container.remove()
}
