//! Containers by Docker's client, under a runtime that the case chooses.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use serde_json::Value;

use super::Names;
use super::ctr::Runtime;
use crate::debian::Release;
use crate::dockerd::{self, Store};
use crate::image::Image;
use crate::node::{DEADLINE, LINGER, Node};
use crate::process::{self, Output};

/// What nodes with this dockerd are called in the pool.
pub const MADE_AS: &str = "docker 28 for cases";

/// A new node with Debian's dockerd, on which each runtime has had its first container.
///
/// # Errors
/// If it cannot be started, or a container fails.
pub fn node() -> Result<Node> {
    let node = Node::builder(Release::Sid).start()?;
    dockerd::start(&node, Store::Overlay2)?;
    let reference = dockerd::load(&node, Image::Busybox)?;
    for runtime in [Runtime::Runc, Runtime::Sysbox] {
        let bed = Bed::new(&node, runtime);
        bed.docker(&bed.words(&["--rm"], reference, &["true"]))?;
    }
    Ok(node)
}

/// What a case's body works with: a node of its own and the runtime to use.
#[derive(Debug)]
pub struct Bed<'a> {
    /// The node, which the case has for itself.
    pub node: &'a Node,
    /// The runtime to use.
    pub runtime: Runtime,
    names: Names,
}

impl<'a> Bed<'a> {
    /// A bed on this node.
    #[must_use]
    pub fn new(node: &'a Node, runtime: Runtime) -> Self {
        let names = Names::default();
        Self {
            node,
            runtime,
            names,
        }
    }

    /// `docker`, which must succeed.
    ///
    /// # Errors
    /// If it does not.
    pub fn docker(&self, words: &[&str]) -> Result<Output> {
        self.try_docker(words)?.ok()
    }

    /// `docker`, which may fail.
    ///
    /// # Errors
    /// If it cannot be started or does not end in time.
    pub fn try_docker(&self, words: &[&str]) -> Result<Output> {
        self.node.exec(&[&["docker"], words].concat())
    }

    /// The words of `run OPTIONS IMAGE WORDS` under the runtime.
    #[must_use]
    pub fn words<'w>(
        &self,
        options: &[&'w str],
        image: &'w str,
        words: &[&'w str],
    ) -> Vec<&'w str> {
        let runtime = match self.runtime {
            Runtime::Runc => "runc",
            Runtime::Sysbox => "sysbox",
        };
        [&["run", "--runtime", runtime], options, &[image], words].concat()
    }

    /// `docker run --rm` of the busybox image.
    ///
    /// # Errors
    /// If it cannot be started or does not end in time; an exit code is no error.
    pub fn run(&self, options: &[&str], words: &[&str]) -> Result<Output> {
        let options = [&["--rm"], options].concat();
        self.try_docker(&self.words(&options, Image::Busybox.reference(), words))
    }

    /// Loads an image that is made here ([`crate::image::crafted`]): its name.
    ///
    /// # Errors
    /// If it cannot be made or loaded.
    pub fn load(
        &self,
        name: &str,
        config: &Value,
        fill: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<String> {
        let line = ["docker", "load", "--quiet"];
        super::load(self.node, &line, name, config, fill)
    }

    /// `docker run -d` of the busybox image; the container runs when this returns.
    ///
    /// # Errors
    /// If the engine refuses.
    pub fn detached(&self, options: &[&str], words: &[&str]) -> Result<Container<'_>> {
        self.detached_of(Image::Busybox.reference(), options, words)
    }

    /// The same of an image by its name.
    ///
    /// # Errors
    /// If the engine refuses.
    pub fn detached_of(
        &self,
        image: &str,
        options: &[&str],
        words: &[&str],
    ) -> Result<Container<'_>> {
        let id = self.names.next();
        let options = [&["-d", "--name", &id], options].concat();
        self.docker(&self.words(&options, image, words))?;
        Ok(Container { bed: self, id })
    }
}

/// A detached container. A failing test leaves it to the node, which is removed with all in it.
#[derive(Debug)]
pub struct Container<'a> {
    bed: &'a Bed<'a>,
    /// Its name.
    pub id: String,
}

impl Container<'_> {
    /// `docker exec`, not started yet.
    #[must_use]
    pub fn exec(&self, options: &[&str], words: &[&str]) -> Command {
        self.bed
            .node
            .command(&[&["docker", "exec"], options, &[&self.id], words].concat())
    }

    /// A shell script in the container, which must succeed: its output without white space around it.
    ///
    /// # Errors
    /// If it does not.
    pub fn shell(&self, script: &str) -> Result<String> {
        let script = format!("{script}\n{LINGER}");
        let mut command = self.exec(&[], &["/bin/sh", "-ec", &script]);
        let output = process::run(&mut command, b"", DEADLINE)?.ok()?;
        Ok(output.text().to_owned())
    }

    /// Removes it with its volumes, running or not.
    ///
    /// # Errors
    /// If the engine refuses.
    pub fn remove(self) -> Result<()> {
        self.bed.docker(&["rm", "-f", "-v", &self.id]).map(drop)
    }
}
