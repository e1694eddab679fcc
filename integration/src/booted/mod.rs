//! A host that systemd has booted, in a node: Debian's systemd, containerd and docker, these two as units, docker with the
//! systemd cgroup driver; what a node has in `/usr/local/bin` is there as well.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::debian::Release;
use crate::engines::Engine;
use crate::image::Image;
use crate::node::{Node, pipe_layout};
use crate::process::{self, Output};
use crate::script;

/// How long it may take until its engines answer.
const PATIENCE: Duration = Duration::from_secs(90);

/// The host. Its node's end is its own.
#[derive(Debug)]
pub struct Booted {
    node: Node,
}

impl Booted {
    /// Boots one of `release`, in a node of its own.
    ///
    /// # Errors
    /// If its engines do not answer in time, with the end of its journal.
    pub fn start(release: Release) -> Result<Self> {
        let node = Node::builder(release)
            .cri(true)
            .images(&[Image::DindSystemd])
            .engines(&[Engine::CriTools])
            .start()?;
        let image = Image::DindSystemd.reference();
        node.shell(&format!(
            "mkdir -p /srv/host/root; ctr images mount --rw {image} /srv/host/root"
        ))?
        .ok()?;
        let host = Self { node };
        let mut up = host.node.command(&["/bin/sh", "-s"]);
        process::run(&mut up, include_bytes!("up.sh"), PATIENCE)?.ok()?;
        let begin = Instant::now();
        while host.shell("ctr version && docker version")?.code != 0 {
            if begin.elapsed() > PATIENCE {
                bail!("the host's engines do not answer:\n{}", host.journal()?);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(host)
    }

    /// The node that it is in.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// A command that runs `words` as the host's root, in a cgroup of its own there.
    #[must_use]
    pub fn command(&self, words: &[&str]) -> Command {
        let enter = "mkdir -p /sys/fs/cgroup/host/test; echo $$ >/sys/fs/cgroup/host/test/cgroup.procs
                     exec nsenter --target $(cat /run/host.pid) --mount --pid --uts --ipc --cgroup -- \"$@\"";
        self.node
            .command(&[&["/bin/sh", "-ec", enter, "host"], words].concat())
    }

    /// Runs a shell script on it.
    ///
    /// # Errors
    /// If it cannot be started or does not end in time. An exit code is no error.
    pub fn shell(&self, script: &str) -> Result<Output> {
        let mut shell = self.command(&["/bin/sh", "-ec", script]);
        process::run(&mut shell, b"", crate::node::DEADLINE)
    }

    /// Runs bash with `checks` on it, as [`script::run`] does in a node.
    ///
    /// # Errors
    /// Those of that, with the end of the host's journal.
    pub fn script(&self, checks: &str) -> Result<()> {
        script::run_by(&mut self.command(&["/bin/bash", "-s"]), checks).map_err(|error| {
            anyhow::anyhow!(
                "{error:#}\n--- the host's journal\n{}",
                self.journal().unwrap_or_default()
            )
        })
    }

    /// Makes `image` known to its docker.
    ///
    /// # Errors
    /// If the image cannot be built or loaded.
    pub fn load(&self, image: Image) -> Result<()> {
        let layout = image.layout(self.node.release())?;
        pipe_layout(&mut self.command(&["docker", "load", "--quiet"]), &layout)
    }

    /// Makes `image` known to its containerd's CRI plugin.
    ///
    /// # Errors
    /// If the image cannot be built or imported.
    pub fn import(&self, image: Image) -> Result<()> {
        let layout = image.layout(self.node.release())?;
        let import = "exec ctr -n k8s.io images import $(ctr images import --help | grep -q -e --local && echo --local) -";
        pipe_layout(&mut self.command(&["/bin/sh", "-ec", import]), &layout)
    }

    fn journal(&self) -> Result<String> {
        Ok(self.shell("journalctl --no-pager -n 40")?.stdout)
    }
}
