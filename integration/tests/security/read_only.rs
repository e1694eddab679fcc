//! A read-only root file system is read-only in all that lies on the host's disk, and in /sys.

use anyhow::{Context, Result, ensure};
use integration::bed::{cri, ctr, docker};
use integration::image::Image;
use integration::script::NO;

use crate::case::Case;

pub(crate) const CASES: &[Case] = &[
    Case::ctr("by_ctr", by_ctr),
    Case::docker("by_docker", by_docker),
    Case::pod("in_a_pod", in_a_pod),
    Case::ctr("relaxed", relaxed).differs("runc's containers are never that"),
];

/// To be run inside. A tmpfs is writable, whatever is not one is not, nor can it be made so.
const TRY: &str = "\
    for d in / /etc /usr /var; do no touch $d/x; done; \
    for d in docker containerd containers buildkit kubelet rancher k0s; do no mkdir -p /var/lib/$d/x; done; \
    no mkdir /sys/fs/cgroup/x; \
    /probe write /sys/class/net/lo/ifalias x; /probe write /sys/class/net/lo/tx_queue_len 999; \
    for m in / /sys /sys/fs/cgroup $(grep -o ' /var/[^ ]*' /proc/self/mountinfo); do no mount -o remount,bind,rw $m; done; \
    mkdir /dev/shm/y; if mount -t sysfs -o ro s /dev/shm/y 2>/dev/null; then no mount -o remount,bind,rw /dev/shm/y; umount /dev/shm/y; fi; \
    if mount --bind / /dev/shm/y 2>/dev/null; then no mount -o remount,bind,rw /dev/shm/y; no touch /dev/shm/y/x; fi; \
    touch /dev/shm/written";

fn refused(seen: &str) -> Result<()> {
    ensure!(seen == "EROFS\nEROFS", "{seen}");
    Ok(())
}

fn by_ctr(bed: &ctr::Bed<'_>) -> Result<()> {
    let container = bed.detached(&["--read-only"], Image::Busybox, &["/probe", "sleep"])?;
    refused(&container.shell(&format!("{NO}{TRY}"))?)?;
    container.remove()
}

fn by_docker(bed: &docker::Bed<'_>) -> Result<()> {
    let options = ["--read-only", "--tmpfs", "/run"];
    let container = bed.detached(&options, &["/probe", "sleep"])?;
    refused(&container.shell(&format!("{NO}{TRY}"))?)?;
    container.shell("touch /run/written")?;
    container.remove()
}

fn in_a_pod(bed: &cri::Bed<'_>) -> Result<()> {
    let pod = bed.pod(serde_json::json!({}))?;
    let container = pod.run(serde_json::json!({
        "command": ["/probe", "sleep"],
        "linux": {"security_context": {"readonly_rootfs": true}},
    }))?;
    refused(&container.shell(&format!("{NO}{TRY}"))?)?;
    pod.remove()
}

/// The operator's switch for systemd and inner engines: the root file system alone is read-only.
fn relaxed(bed: &ctr::Bed<'_>) -> Result<()> {
    bed.node
        .with_config("relaxed-read-only = true", || root_alone(bed))
}

fn root_alone(bed: &ctr::Bed<'_>) -> Result<()> {
    let container = bed.detached(&["--read-only"], Image::Busybox, &["/probe", "sleep"])?;
    let seen = container.shell(&format!(
        "{NO}no touch /x; touch /var/lib/docker/x; mkdir /sys/fs/cgroup/x; rmdir /sys/fs/cgroup/x; /probe write /sys/class/net/lo/ifalias x",
    ))?;
    ensure!(seen == "ok", "{seen}");
    container.remove()?;
    let tmpfs = |at: &str| format!("--mount=type=tmpfs,src=tmpfs,dst={at},options=mode=755");
    let (run, tmp) = (tmpfs("/run"), tmpfs("/tmp"));
    let options = [
        "--read-only",
        &run,
        &tmp,
        "--log-uri",
        "file:///srv/dockerd.log",
    ];
    let engine = bed.detached(&options, Image::Dind, &[])?;
    let started = engine.shell(&format!("{NO}i=0; until docker info >/dev/null 2>&1 || [ $i -ge 100 ]; do sleep 0.2; i=$((i + 1)); done; docker import /root/bb.tar bb >/dev/null; docker run --rm bb echo inner; no touch /x"));
    let log = bed.node.shell("tail -n 20 /srv/dockerd.log")?;
    let started = started.with_context(|| log.stdout.clone())?;
    ensure!(started == "inner", "{started}\n{}", log.stdout);
    engine.remove()?;
    bed.node.shell("rm /srv/dockerd.log")?.ok().map(drop)
}
