//! nerdctl on a node's containerd, with its own CNI bridge.

use anyhow::Result;

use crate::debian::Release;
use crate::engines::Engine;
use crate::image::Image;
use crate::node::Node;

/// The program with its global options. Its data is on the disk, as it is on a host: the node's root is an overlay, which
/// cannot be ID-mapped.
pub const PROGRAM: &str = "nerdctl --namespace default --cni-path /usr/lib/cni --cgroup-manager cgroupfs --data-root /srv/nerdctl";

/// The name of our runtime.
pub const RUNTIME: &str = "io.containerd.sysbox.v2";

/// A node of sid with nerdctl, busybox and `images`.
///
/// # Errors
/// If it does not start, or its first container does not run.
pub fn node(images: &[Image]) -> Result<Node> {
    let node = Node::builder(Release::Sid)
        .engines(&[Engine::Nerdctl])
        .images(images)
        .start()?;
    node.import(Image::Busybox)?;
    // Its bridge, its address store and what it keeps for the first container stay from here on.
    let reference = Image::Busybox.reference();
    node.shell(&format!(
        "{PROGRAM} run --rm --runtime {RUNTIME} {reference} /bin/true; ctr content prune references"
    ))?
    .ok()?;
    tidy(&node)?;
    Ok(node)
}

/// Takes away what it forgets under runc as well: the fifos of `run -i` and of what did not start, and when it is killed
/// its own notes and mount points.
///
/// # Errors
/// If the node does not answer.
pub fn tidy(node: &Node) -> Result<()> {
    node.shell(
        "rm -rf /run/containerd/fifo/* /srv/nerdctl/*/containers/default/* /srv/nerdctl/*/etchosts/default/* /srv/nerdctl/*/names/default/*
         for dir in /tmp/initialC* /tmp/containerd-mount*; do umount \"$dir\" || true; rmdir \"$dir\" || true; done 2>/dev/null
         for lease in $(ctr leases ls -q); do ctr leases delete --sync $lease; done",
    )?
    .ok()
    .map(drop)
}
