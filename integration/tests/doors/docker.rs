//! dockerd on containerd, by Docker's client.

use anyhow::Result;
use integration::debian::Release;
use integration::dockerd::{self, Store};
use integration::engines::Engine;
use integration::image::Image;
use integration::node::Node;

use crate::docker_like::Client;
use crate::door::{Cell, Door, Verb};

/// A dockerd.
#[derive(Debug)]
pub(crate) struct Docker {
    name: &'static str,
    engine: Option<Engine>,
    store: Store,
}

/// Debian's, and the next one, each with the images' store that it has by itself.
pub(crate) const ALL: [Docker; 2] = [
    Docker {
        name: "docker 28",
        engine: None,
        store: Store::Overlay2,
    },
    Docker {
        name: "docker 29",
        engine: Some(Engine::Dockerd29),
        store: Store::Containerd,
    },
];

const CLIENT: Client = Client {
    program: "docker",
    runtime: "sysbox-runc",
    patient: false,
};

impl Door for Docker {
    fn name(&self) -> &'static str {
        self.name
    }

    fn node(&self) -> Result<Node> {
        let engines: Vec<_> = self.engine.into_iter().collect();
        let node = Node::builder(Release::Sid).engines(&engines).start()?;
        dockerd::start(&node, self.store)?;
        for image in [Image::Busybox, Image::Systemd, Image::Dind] {
            let reference = dockerd::load(&node, image)?;
            // What is made for a first container, and for a first commit above an image, stays.
            node.shell(&format!(
                "docker run -d --runtime sysbox-runc --name first {reference}; docker stop -t 0 first; docker commit first first
                 docker rm -v first; docker rmi first"
            ))?
            .ok()?;
        }
        let host = format!(
            "docker run --rm --network host {} true",
            Image::Busybox.reference()
        );
        node.shell(&host)?.ok()?;
        Ok(node)
    }

    fn line(&self, id: &str, verb: Verb<'_>) -> Option<String> {
        Some(CLIENT.line(id, verb))
    }

    fn restart_engine(&self, node: &Node) -> Result<()> {
        dockerd::kill(node, "KILL")?;
        node.kill_containerd("KILL")?;
        node.start_containerd()?;
        dockerd::again(node)
    }

    fn tidy(&self, node: &Node) -> Result<()> {
        // Where a client dies while its container starts, dockerd forgets an empty directory once in a hundred times, under
        // runc as well.
        node.shell("rmdir /run/docker/containerd/* 2>/dev/null || true")?
            .ok()
            .map(drop)
    }

    fn exceptions(&self) -> &'static [(&'static str, Cell)] {
        &[(
            "host users",
            Cell::Lacks(
                "without userns-remap dockerd drops the option: the container has a user namespace of its own all the same",
            ),
        )]
    }
}
