//! nerdctl on containerd, with its own CNI bridge.

use anyhow::Result;
use integration::debian::Release;
use integration::engines::Engine;
use integration::image::Image;
use integration::node::Node;

use crate::docker_like::Client;
use crate::door::{Cell, Door, Verb};

/// nerdctl on Debian's containerd.
#[derive(Debug)]
pub(crate) struct Nerdctl;

const CLIENT: Client = Client {
    // Its data on the disk, as it is on a host: the node's root is an overlay, which cannot be ID-mapped.
    program: "nerdctl --namespace default --cni-path /usr/lib/cni --cgroup-manager cgroupfs --data-root /srv/nerdctl",
    runtime: "io.containerd.sysbox.v2",
    patient: true,
};

impl Door for Nerdctl {
    fn name(&self) -> &'static str {
        "nerdctl"
    }

    fn node(&self) -> Result<Node> {
        let node = Node::builder(Release::Sid)
            .engines(&[Engine::Nerdctl])
            .images(&[Image::Systemd, Image::Dind])
            .start()?;
        node.import(Image::Busybox)?;
        // Its bridge, its address store and what it keeps for the first container stay from here on.
        let reference = Image::Busybox.reference();
        node.shell(&format!(
            "{} run --rm --runtime {} {reference} /bin/true; ctr content prune references",
            CLIENT.program, CLIENT.runtime
        ))?
        .ok()?;
        self.tidy(&node)?;
        Ok(node)
    }

    fn line(&self, id: &str, verb: Verb<'_>) -> Option<String> {
        Some(CLIENT.line(id, verb))
    }

    fn exceptions(&self) -> &'static [(&'static str, Cell)] {
        &[
            ("host users", Cell::Lacks("nerdctl has no --userns")),
            (
                "copy running",
                Cell::NotYet(
                    "nerdctl writes through /proc/PID/root as the host's root, who is nobody inside: use a volume or `exec -i tar`",
                ),
            ),
        ]
    }

    fn exec_code(&self, said: &str) -> Option<i32> {
        // Its own code is 1 then.
        let (_, code) = said.split_once("exec failed with exit code ")?;
        let digits = code.split(|end: char| !end.is_ascii_digit()).next()?;
        digits.parse().ok()
    }

    fn tidy(&self, node: &Node) -> Result<()> {
        // It forgets the fifos of `run -i` and of what did not start, runc's as well, and when it is killed its own notes.
        node.shell(
            "rm -rf /run/containerd/fifo/* /srv/nerdctl/*/containers/default/* /srv/nerdctl/*/etchosts/default/*
             for lease in $(ctr leases ls -q); do ctr leases delete --sync $lease; done",
        )?
        .ok()
        .map(drop)
    }
}
