//! Files of the host that the runtime itself mounts or writes.

use anyhow::{Result, ensure};
use integration::bed::{cri, ctr, docker};
use integration::image::Image;
use integration::node::Node;
use integration::script::NO;

use crate::case::Case;

const KERNEL: &str = "runc shows no files of the host's kernel";

pub(crate) const CASES: &[Case] = &[
    Case::ctr("kernel_files_by_ctr", kernel_by_ctr).differs(KERNEL),
    Case::docker("kernel_files_by_docker", kernel_by_docker).differs(KERNEL),
    Case::pod("kernel_files_in_a_pod", kernel_in_a_pod).differs(KERNEL),
    Case::ctr("a_log_that_is_a_link", log).differs("runc's shim follows it"),
];

/// A key of the node's root among the modules and the headers, beside what everybody may read; on the host's disk, whose files can
/// be ID-mapped, as the node's own cannot.
fn with_keys(node: &Node, act: impl FnOnce() -> Result<()>) -> Result<()> {
    let each = |act: &str| {
        let script = format!(
            "for d in /lib/modules/$(uname -r) /usr/src/linux-headers-$(uname -r); do {act}; done"
        );
        node.shell(&script)?.ok().map(drop)
    };
    node.shell("mkdir -p /srv/certs; echo secret >/srv/certs/key; chmod 600 /srv/certs/key; echo open >/srv/certs/cert; chmod 644 /srv/certs/cert")?
        .ok()?;
    each("mkdir -p $d; mount --bind /srv $d")?;
    act()?;
    each("umount $d; rmdir $d")?;
    node.shell("rm -r /srv/certs")?.ok().map(drop)
}

/// To be run inside: everybody's file is read, root's is not.
const READ: &str = "for d in /lib/modules/$(uname -r) /usr/src/linux-headers-$(uname -r); do cat $d/certs/cert; no cat $d/certs/key; \
     stat -c %u:%g:%a $d/certs/key; no touch $d/certs/new; no chown 0:0 $d/certs/key; done";

fn unread(seen: &str) -> Result<()> {
    let each = "open\n65534:65534:600";
    ensure!(seen == format!("{each}\n{each}"), "{seen}");
    Ok(())
}

fn kernel_by_ctr(bed: &ctr::Bed<'_>) -> Result<()> {
    with_keys(bed.node, || {
        let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
        unread(&container.shell(&format!("{NO}{READ}"))?)?;
        container.remove()
    })
}

fn kernel_by_docker(bed: &docker::Bed<'_>) -> Result<()> {
    with_keys(bed.node, || {
        let container = bed.detached(&["--privileged"], &["/probe", "sleep"])?;
        unread(&container.shell(&format!("{NO}{READ}"))?)?;
        container.remove()
    })
}

fn kernel_in_a_pod(bed: &cri::Bed<'_>) -> Result<()> {
    with_keys(bed.node, || {
        let pod = bed.pod(serde_json::json!({}))?;
        unread(&pod.sleeper()?.shell(&format!("{NO}{READ}"))?)?;
        pod.remove()
    })
}

/// Whoever may write where a log is to be could have the shim append to any file of the host (CVE-2026-53489). A directory that
/// is a link is the administrator's doing.
fn log(bed: &ctr::Bed<'_>) -> Result<()> {
    bed.node
        .shell("mkdir -p /srv/logs; echo kept >/srv/target; ln -s ../target /srv/logs/log; ln -s logs /srv/link; mkfifo /srv/logs/fifo")?
        .ok()?;
    let run = |uri: &str| bed.run(&["--log-uri", uri], &["echo", "said"]);
    let refused = run("file:///srv/logs/log")?;
    ensure!(
        refused.code != 0 && refused.stderr.contains("/srv/logs/log: is a symbolic link"),
        "{refused:?}"
    );
    ensure!(bed.node.shell("cat /srv/target")?.ok()?.text() == "kept");
    let refused = run("file:///srv/logs/fifo")?;
    ensure!(refused.code != 0, "{refused:?}");
    run("file:///srv/link/file")?.ok()?;
    ensure!(bed.node.shell("cat /srv/logs/file")?.ok()?.text() == "said");
    bed.node
        .shell("rm -r /srv/logs /srv/target /srv/link")?
        .ok()
        .map(drop)
}
