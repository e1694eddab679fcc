//! A node with a dockerd.

use anyhow::{Result, ensure};
use integration::debian::Release;
use integration::dockerd::{self, Store};
use integration::engines::Engine;
use integration::image::Image;
use integration::leak::{self, Snapshot};
use integration::node::Node;
use integration::{kernel_log, script};

/// A dockerd.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) name: &'static str,
    release: Release,
    store: Store,
    engine: Option<Engine>,
    /// Cases that it is tried with; none: all.
    only: Option<&'static [&'static str]>,
}

impl Daemon {
    /// Whether it is tried with this case.
    pub(crate) fn has(&self, case: &str) -> bool {
        self.only.is_none_or(|only| only.contains(&case))
    }
}

/// Those that are tested.
pub(crate) const DAEMONS: [Daemon; 4] = [
    Daemon {
        // The last of Debian's whose network comes by a prestart hook.
        name: "26",
        release: Release::Trixie,
        store: Store::Overlay2,
        engine: None,
        only: Some(&["files", "network"]),
    },
    Daemon {
        name: "28",
        release: Release::Sid,
        store: Store::Overlay2,
        engine: None,
        only: None,
    },
    Daemon {
        name: "28-store",
        release: Release::Sid,
        store: Store::Containerd,
        engine: None,
        only: None,
    },
    Daemon {
        name: "29",
        release: Release::Sid,
        store: Store::Overlay2,
        engine: Some(Engine::Dockerd29),
        only: None,
    },
];

/// What scripts of this directory share.
const PRELUDE: &str = include_str!("prelude.sh");

/// A node for one test, and how it was.
#[derive(Debug)]
pub(crate) struct Bed {
    pub(crate) node: Node,
    before: Snapshot,
    kernel: u64,
}

impl Bed {
    /// Starts it, with busybox and `images` known to dockerd.
    pub(crate) fn new(daemon: &Daemon, images: &[Image]) -> Result<Bed> {
        let engines: Vec<_> = daemon.engine.into_iter().collect();
        let node = Node::builder(daemon.release).engines(&engines).start()?;
        node.import(Image::Busybox)?;
        dockerd::start(&node, daemon.store)?;
        for image in [&[Image::Busybox], images].concat() {
            let reference = dockerd::load(&node, image)?;
            // dockerd marks the layers below a first commit.
            node.shell(&format!(
                "docker create --name first {reference}; docker commit first first; docker rm first; docker rmi first"
            ))?
            .ok()?;
        }
        // What engines make for a first container and keep.
        for runtime in ["runc", "sysbox"] {
            let reference = Image::Busybox.reference();
            node.exec(&[
                "docker",
                "run",
                "--rm",
                "--runtime",
                runtime,
                reference,
                "true",
            ])?
            .ok()?;
        }
        node.shell(&format!(
            "docker run --rm --network host {} true",
            Image::Busybox.reference()
        ))?
        .ok()?;
        let before = Snapshot::of_node(&node);
        let kernel = kernel_log::position()?;
        Ok(Bed {
            node,
            before,
            kernel,
        })
    }

    /// Runs a script of shell in the node, of which every check must pass.
    pub(crate) fn script(&self, script: &str) -> Result<()> {
        script::run(&self.node, &format!("{PRELUDE}\n{script}"))
    }

    /// Nothing is left, and no two overlays were on one layer, but for dockerd's own, which has it there twice when it copies from
    /// a stopped container once more before the last time's mounts have gone.
    pub(crate) fn settled(&self) -> Result<()> {
        leak::settled(&self.node, &self.before)?;
        let mut complaints = kernel_log::but_of_clients(kernel_log::warnings_since(self.kernel)?);
        complaints.retain(|line| line.contains("is in-use as upperdir/workdir"));
        ensure!(
            complaints.is_empty(),
            "two overlays on one layer: {complaints:?}"
        );
        Ok(())
    }
}
