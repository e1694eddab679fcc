//! Containers by `ctr`, under a runtime that the case chooses.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Names;

use crate::image::Image;
use crate::node::{DEADLINE, Node};
use crate::process::{self, Output};

/// A runtime under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// containerd's own, runc.
    Runc,
    /// Ours.
    Sysbox,
}

impl Runtime {
    /// Its part of a case's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Runc => "runc",
            Self::Sysbox => "sysbox",
        }
    }

    /// containerd's name for it.
    #[must_use]
    pub fn handler(self) -> &'static str {
        match self {
            Self::Runc => "io.containerd.runc.v2",
            Self::Sysbox => "io.containerd.sysbox.v2",
        }
    }
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

    /// A container id that this test has not used yet.
    #[must_use]
    pub fn id(&self) -> String {
        self.names.next()
    }

    /// The words of `ctr run OPTIONS IMAGE ID WORDS` under the runtime.
    #[must_use]
    pub fn words<'w>(
        &self,
        options: &[&'w str],
        image: Image,
        id: &'w str,
        words: &[&'w str],
    ) -> Vec<&'w str> {
        self.line(options, image.reference(), id, words)
    }

    /// The same of an image by its name, or of a directory after the option `--rootfs`.
    #[must_use]
    pub fn line<'w>(
        &self,
        options: &[&'w str],
        image: &'w str,
        id: &'w str,
        words: &[&'w str],
    ) -> Vec<&'w str> {
        let mut line = vec!["ctr", "run", "--runtime", self.runtime.handler()];
        if self.runtime == Runtime::Runc {
            // It refuses ctr's default weight where the cpu controller is not on cgroup v2.
            line.extend(["--cpu-shares", "0"]);
        }
        line.extend(options);
        line.extend([image, id]);
        line.extend(words);
        line
    }

    /// `ctr run --rm` of the busybox image.
    ///
    /// # Errors
    /// If it cannot be started or does not end in time; an exit code is no error.
    pub fn run(&self, options: &[&str], words: &[&str]) -> Result<Output> {
        self.run_with(options, words, b"")
    }

    /// The same with `input` on standard input.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_with(&self, options: &[&str], words: &[&str], input: &[u8]) -> Result<Output> {
        let id = self.id();
        let options = [&["--rm"], options].concat();
        process::run(
            &mut self
                .node
                .command(&self.words(&options, Image::Busybox, &id, words)),
            input,
            DEADLINE,
        )
    }

    /// `ctr run --rm` of an image by its name, or of a directory after the option `--rootfs`.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_of(&self, image: &str, options: &[&str], words: &[&str]) -> Result<Output> {
        let id = self.id();
        let options = [&["--rm"], options].concat();
        self.node.exec(&self.line(&options, image, &id, words))
    }

    /// Imports an image that is made here ([`crate::image::crafted`]): its name. To be removed by [`Self::remove_image`].
    ///
    /// # Errors
    /// If it cannot be made or imported.
    pub fn import(
        &self,
        name: &str,
        config: &Value,
        fill: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<String> {
        let line = ["ctr", "images", "import", "--local", "-"];
        super::load(self.node, &line, name, config, fill)
    }

    /// Removes an image and waits for the collector.
    ///
    /// # Errors
    /// If the engine refuses.
    pub fn remove_image(&self, reference: &str) -> Result<()> {
        self.ctr(&["images", "remove", "--sync", reference])
            .map(drop)
    }

    /// `ctr run -d`; the container runs when this returns.
    ///
    /// # Errors
    /// If the engine refuses.
    pub fn detached(
        &self,
        options: &[&str],
        image: Image,
        words: &[&str],
    ) -> Result<Container<'_>> {
        let id = self.id();
        let options = [&["--detach"], options].concat();
        self.node
            .exec(&self.words(&options, image, &id, words))?
            .ok()?;
        Ok(Container { bed: self, id })
    }

    /// `ctr` in the node, which must succeed.
    ///
    /// # Errors
    /// If it does not.
    pub fn ctr(&self, args: &[&str]) -> Result<Output> {
        self.node.ctr(args)?.ok()
    }
}

/// A detached container. A failing test leaves it to the node, which is removed with all in it.
#[derive(Debug)]
pub struct Container<'a> {
    bed: &'a Bed<'a>,
    /// Its id.
    pub id: String,
}

impl Container<'_> {
    /// A `ctr task exec` that is not started yet.
    #[must_use]
    pub fn exec_command(&self, options: &[&str], words: &[&str]) -> Command {
        self.bed.node.task_exec(&self.id, options, words)
    }

    /// The words of `ctr task exec --tty`.
    #[must_use]
    pub fn tty_words<'w>(&'w self, words: &[&'w str]) -> Vec<&'w str> {
        let ctr = ["ctr", "task", "exec", "--tty", "--exec-id", "t", &self.id];
        [&ctr, words].concat()
    }

    /// `ctr task exec` to its end.
    ///
    /// # Errors
    /// If it cannot be started or does not end in time.
    pub fn exec(&self, words: &[&str]) -> Result<Output> {
        process::run(&mut self.exec_command(&[], words), b"", DEADLINE)
    }

    /// A shell script in the container, which must succeed: its output without white space around it.
    ///
    /// # Errors
    /// If it does not.
    pub fn shell(&self, script: &str) -> Result<String> {
        Ok(self
            .bed
            .node
            .task_shell(&self.id, script)?
            .ok()?
            .text()
            .to_owned())
    }

    /// Column `index` of its row in `ctr task ls`; none once the task is deleted.
    fn column(&self, index: usize) -> Result<Option<String>> {
        let list = self.bed.ctr(&["task", "ls"])?;
        let row = list
            .stdout
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .find(|row| row.first() == Some(&self.id.as_str()));
        Ok(row.and_then(|row| row.get(index).map(|word| (*word).to_owned())))
    }

    /// Its status as `ctr task ls` has it; none once the task is deleted.
    ///
    /// # Errors
    /// If the engine cannot be asked.
    pub fn status(&self) -> Result<Option<String>> {
        self.column(2)
    }

    /// The node's pid of its init.
    ///
    /// # Errors
    /// If the task is gone.
    pub fn pid(&self) -> Result<i32> {
        let pid = self.column(1)?.context("the task is not listed")?;
        pid.parse().map_err(Into::into)
    }

    /// Waits until the task has this status.
    ///
    /// # Errors
    /// If it does not in time.
    pub fn reaches(&self, status: &str) -> Result<()> {
        let begin = std::time::Instant::now();
        while self.status()?.as_deref() != Some(status) {
            anyhow::ensure!(
                begin.elapsed() < DEADLINE,
                "{} is {:?}, not {status}",
                self.id,
                self.status()?
            );
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Ok(())
    }

    /// Deletes the stopped task: the exit status that containerd had kept of it.
    ///
    /// # Errors
    /// If the engine refuses.
    pub fn delete_task(&self) -> Result<i32> {
        let output = self.bed.ctr(&["task", "delete", &self.id])?;
        // ctr says it in a warning only, and nothing of a zero.
        let code = output
            .stderr
            .split_once("non-zero exit code ")
            .map_or("0", |(_, rest)| rest);
        let digits = code.trim_end_matches(|end: char| !end.is_ascii_digit());
        digits
            .parse()
            .with_context(|| format!("no exit code in {:?}", output.stderr))
    }

    /// Kills it and deletes task and container.
    ///
    /// # Errors
    /// If the engine refuses, or it does not stop.
    pub fn remove(self) -> Result<()> {
        if self.status()?.as_deref() != Some("STOPPED") {
            self.bed
                .ctr(&["task", "kill", "--signal", "SIGKILL", &self.id])?;
            self.reaches("STOPPED")?;
        }
        self.delete_task()?;
        self.delete_container()
    }

    /// Deletes the container, its task being deleted.
    ///
    /// # Errors
    /// If the engine refuses.
    pub fn delete_container(self) -> Result<()> {
        self.bed.ctr(&["container", "delete", &self.id]).map(drop)
    }
}
