//! A case, the matrix it runs in, and what its body gets.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use integration::debian::Release;
use integration::engines::Engine;
use integration::image::Image;
pub(crate) use integration::node::LINGER;
use integration::node::{DEADLINE, Node};
use integration::pool::Lease;
use integration::process::{self, Output};
use integration::suite;
use libtest_mimic::Trial;

/// A runtime under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Runtime {
    Runc,
    Sysbox,
}

impl Runtime {
    fn name(self) -> &'static str {
        match self {
            Self::Runc => "runc",
            Self::Sysbox => "sysbox",
        }
    }

    /// containerd's name for it.
    pub(crate) fn handler(self) -> &'static str {
        match self {
            Self::Runc => "io.containerd.runc.v2",
            Self::Sysbox => "io.containerd.sysbox.v2",
        }
    }
}

/// Runtimes for a case that any OCI runtime passes.
pub(crate) const ANY: &[Runtime] = &[Runtime::Runc, Runtime::Sysbox];
/// Runtimes for a case about what only a system container has.
pub(crate) const OURS: &[Runtime] = &[Runtime::Sysbox];

/// A test before it meets engine and runtime.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) runtimes: &'static [Runtime],
    pub(crate) body: fn(&Bed<'_>) -> Result<()>,
    pub(crate) releases: &'static [Release],
    newer: bool,
}

/// containerds that no release has yet.
const NEWER: [Engine; 2] = [Engine::Containerd23, Engine::Containerd24];

impl Case {
    pub(crate) const fn new(
        name: &'static str,
        runtimes: &'static [Runtime],
        body: fn(&Bed<'_>) -> Result<()>,
    ) -> Self {
        Self {
            name,
            runtimes,
            body,
            releases: &Release::ALL,
            newer: false,
        }
    }

    /// The same on one engine only.
    pub(crate) const fn only(mut self, releases: &'static [Release]) -> Self {
        self.releases = releases;
        self
    }

    /// Ours on the newer containerds, too: for what a containerd may do in another way.
    pub(crate) const fn newer(mut self) -> Self {
        self.newer = true;
        self
    }

    /// One trial for each engine and runtime.
    pub(crate) fn trials(&self) -> Vec<Trial> {
        let matrix = self.releases.iter().copied().flat_map(|release| {
            self.runtimes
                .iter()
                .map(move |runtime| (release, None, *runtime))
        });
        let newer = NEWER.into_iter().filter(|_| self.newer);
        matrix
            .chain(newer.map(|engine| (Release::Sid, Some(engine), Runtime::Sysbox)))
            .map(|(release, engine, runtime)| {
                let case = *self;
                let on = engine.map_or(release.suite(), Engine::name);
                let name = format!("{on}::{}::{}", runtime.name(), case.name);
                Trial::ignorable_test(name, move || {
                    let body = || case.run(release, engine, runtime);
                    match runtime {
                        Runtime::Sysbox => suite::trial(body),
                        Runtime::Runc => suite::trial_of_another(body),
                    }
                })
            })
            .collect()
    }

    fn run(self, release: Release, engine: Option<Engine>, runtime: Runtime) -> Result<()> {
        let lease = match engine {
            None => Lease::new(release),
            Some(engine) => Lease::of(engine.name(), || {
                let node = Node::builder(release).engines(&[engine]).start()?;
                node.import(Image::Busybox)?;
                Ok(node)
            }),
        };
        let lease = lease?;
        let bed = Bed {
            node: &lease,
            runtime,
            count: AtomicU32::new(0),
        };
        (self.body)(&bed).map_err(|error| lease.explain(&error))?;
        lease.give_back()
    }
}

/// What a case's body works with: a node of its own and the runtime to use.
#[derive(Debug)]
pub(crate) struct Bed<'a> {
    pub(crate) node: &'a Node,
    pub(crate) runtime: Runtime,
    count: AtomicU32,
}

impl Bed<'_> {
    /// A container id that this test has not used yet.
    pub(crate) fn id(&self) -> String {
        format!("c{}", self.count.fetch_add(1, Ordering::Relaxed))
    }

    /// The words of `ctr run OPTIONS IMAGE ID WORDS` under the runtime.
    pub(crate) fn words<'w>(
        &self,
        options: &[&'w str],
        image: Image,
        id: &'w str,
        words: &[&'w str],
    ) -> Vec<&'w str> {
        let mut line = vec!["ctr", "run", "--runtime", self.runtime.handler()];
        if self.runtime == Runtime::Runc {
            // It refuses ctr's default weight where the cpu controller is not on cgroup v2.
            line.extend(["--cpu-shares", "0"]);
        }
        line.extend(options);
        line.extend([image.reference(), id]);
        line.extend(words);
        line
    }

    /// `ctr run --rm` of the busybox image.
    pub(crate) fn run(&self, options: &[&str], words: &[&str]) -> Result<Output> {
        self.run_with(options, words, b"")
    }

    /// The same with `input` on standard input.
    pub(crate) fn run_with(
        &self,
        options: &[&str],
        words: &[&str],
        input: &[u8],
    ) -> Result<Output> {
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

    /// `ctr run -d`; the container runs when this returns.
    pub(crate) fn detached(
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
    pub(crate) fn ctr(&self, args: &[&str]) -> Result<Output> {
        self.node.ctr(args)?.ok()
    }
}

/// A detached container. A failing test leaves it to the node, which is removed with all in it.
#[derive(Debug)]
pub(crate) struct Container<'a> {
    bed: &'a Bed<'a>,
    pub(crate) id: String,
}

impl Container<'_> {
    /// A `ctr task exec` that is not started yet.
    pub(crate) fn exec_command(&self, options: &[&str], words: &[&str]) -> Command {
        self.bed.node.task_exec(&self.id, options, words)
    }

    /// The words of `ctr task exec --tty`.
    pub(crate) fn tty_words<'w>(&'w self, words: &[&'w str]) -> Vec<&'w str> {
        let ctr = ["ctr", "task", "exec", "--tty", "--exec-id", "t", &self.id];
        [&ctr, words].concat()
    }

    /// `ctr task exec` to its end.
    pub(crate) fn exec(&self, words: &[&str]) -> Result<Output> {
        process::run(&mut self.exec_command(&[], words), b"", DEADLINE)
    }

    /// A shell script in the container, which must succeed: its output without white space around it.
    pub(crate) fn shell(&self, script: &str) -> Result<String> {
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
    pub(crate) fn status(&self) -> Result<Option<String>> {
        self.column(2)
    }

    /// The node's pid of its init.
    pub(crate) fn pid(&self) -> Result<i32> {
        let pid = self.column(1)?.context("the task is not listed")?;
        pid.parse().map_err(Into::into)
    }

    /// Waits until the task has this status.
    pub(crate) fn reaches(&self, status: &str) -> Result<()> {
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
    pub(crate) fn delete_task(&self) -> Result<i32> {
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
    pub(crate) fn remove(self) -> Result<()> {
        if self.status()?.as_deref() != Some("STOPPED") {
            self.bed
                .ctr(&["task", "kill", "--signal", "SIGKILL", &self.id])?;
            self.reaches("STOPPED")?;
        }
        self.delete_task()?;
        self.delete_container()
    }

    /// Deletes the container, its task being deleted.
    pub(crate) fn delete_container(self) -> Result<()> {
        self.bed.ctr(&["container", "delete", &self.id]).map(drop)
    }
}
