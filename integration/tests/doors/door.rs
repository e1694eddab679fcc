//! A door: how a user comes to our runtime, as data. Each verb is a line of shell in the node.

use std::fmt::Debug;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::image::Image;
use integration::node::{DEADLINE, Node};
use integration::process::{self, Output};

/// What a container is to be.
#[derive(Debug, Clone, Default)]
pub(crate) struct Run<'a> {
    pub(crate) image: Option<Image>,
    /// Another image, by its name.
    pub(crate) named: Option<&'a str>,
    pub(crate) words: &'a [&'a str],
    /// With a terminal.
    pub(crate) tty: bool,
    /// With standard input.
    pub(crate) stdin: bool,
    /// A directory of the node, and where it is inside.
    pub(crate) volume: Option<(&'a str, &'a str)>,
    /// A port of the node, and one of the container.
    pub(crate) port: Option<(u16, u16)>,
    /// A wish that the door spells in its own way.
    pub(crate) wish: Option<Wish>,
}

impl Run<'_> {
    /// The image's name.
    pub(crate) fn reference(&self) -> &str {
        self.named
            .unwrap_or_else(|| self.image.unwrap_or(Image::Busybox).reference())
    }
}

/// What a system container cannot have, or has in its own way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    HostNetwork,
    HostPid,
    HostIpc,
    HostUsers,
    Privileged,
}

/// The verbs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Verb<'a> {
    /// To its end, and away with it.
    Run(&'a Run<'a>),
    /// In the background.
    Detach(&'a Run<'a>),
    Exec {
        tty: bool,
        words: &'a [&'a str],
    },
    Signal(&'a str),
    /// The polite signal, then the other one; the container stays.
    Stop,
    Start,
    /// With all that it has.
    Remove,
    Logs,
    /// Prints `running` or something else.
    Status,
    /// Prints the exit code of a stopped container.
    ExitCode,
    /// Makes an image of this name.
    Commit(&'a str),
    /// A file of the node into the container.
    CopyIn(&'a str, &'a str),
    /// A file of the container out of it.
    CopyOut(&'a str, &'a str),
    /// Takes an image away.
    RemoveImage(&'a str),
}

/// What becomes of a step at a door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cell {
    Works,
    /// It fails today; if it passes, the table must be changed.
    NotYet(&'static str),
    /// The door itself has no such verb.
    Lacks(&'static str),
}

/// A client with its engine.
pub(crate) trait Door: Sync + Debug {
    /// As in the table, unique.
    fn name(&self) -> &'static str;

    /// A new node, the engine up, the images known.
    fn node(&self) -> Result<Node>;

    /// The line of shell for a verb on container `id`; none where the client has no such verb.
    fn line(&self, id: &str, verb: Verb<'_>) -> Option<String>;

    /// Kills the engine with `kill -9` and starts it again.
    fn restart_engine(&self, node: &Node) -> Result<()> {
        node.kill_containerd("KILL")?;
        node.start_containerd()
    }

    /// The exit code of an exec'd process out of what the client said, where the client's own code is another one.
    fn exec_code(&self, _said: &str) -> Option<i32> {
        None
    }

    /// Whether the client gave up because a container of another client went away meanwhile, as it does under any runtime.
    fn stumbled(&self, _said: &str) -> bool {
        false
    }

    /// Takes away what the client itself leaves behind under any runtime.
    fn tidy(&self, _: &Node) -> Result<()> {
        Ok(())
    }

    /// Steps that do not work, by name.
    fn exceptions(&self) -> &'static [(&'static str, Cell)];

    /// What the step is in the table.
    fn cell(&self, step: &str) -> Cell {
        let found = self.exceptions().iter().find(|(name, _)| *name == step);
        found.map_or(Cell::Works, |(_, cell)| *cell)
    }
}

/// A word as the shell takes it.
pub(crate) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Words as the shell takes them.
pub(crate) fn line(words: &[&str]) -> String {
    let words: Vec<_> = words.iter().map(|word| quoted(word)).collect();
    words.join(" ")
}

/// What a step works with.
#[derive(Debug)]
pub(crate) struct Bed<'a> {
    pub(crate) node: &'a Node,
    pub(crate) door: &'a dyn Door,
}

/// A container that a step made. A failing step leaves it to the node, which is removed with all in it.
#[derive(Debug)]
pub(crate) struct Container<'a> {
    bed: &'a Bed<'a>,
    pub(crate) id: String,
}

impl Bed<'_> {
    /// An id that this process has not used yet.
    pub(crate) fn id(&self) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // Not the beginning of a hexadecimal id: clients take those for names, too.
        format!("step{}", COUNT.fetch_add(1, Ordering::Relaxed))
    }

    /// The client, not started yet.
    pub(crate) fn command(&self, id: &str, verb: Verb<'_>) -> Result<Command> {
        let line = self.door.line(id, verb);
        let line = line.with_context(|| format!("{} has no {verb:?}", self.door.name()))?;
        // The client is to be the command itself: it gets its signals and its terminal.
        Ok(self.node.command(&["/bin/sh", "-ec", &line]))
    }

    /// A container to its end.
    pub(crate) fn run(&self, run: &Run<'_>, input: &[u8]) -> Result<Output> {
        let id = self.id();
        process::run(&mut self.command(&id, Verb::Run(run))?, input, DEADLINE)
    }

    /// A container in the background.
    pub(crate) fn detach(&self, run: &Run<'_>) -> Result<Container<'_>> {
        let container = Container {
            bed: self,
            id: self.id(),
        };
        container.does(Verb::Detach(run))?;
        Ok(container)
    }
}

impl Container<'_> {
    /// A verb on it, to its end.
    pub(crate) fn tries(&self, verb: Verb<'_>) -> Result<Output> {
        process::run(&mut self.bed.command(&self.id, verb)?, b"", DEADLINE)
    }

    /// The same, which must succeed.
    pub(crate) fn does(&self, verb: Verb<'_>) -> Result<Output> {
        self.tries(verb)?.ok()
    }

    /// A shell script in it, which must succeed: what it prints, without white space around it.
    pub(crate) fn shell(&self, script: &str) -> Result<String> {
        let script = format!("{script}\n{}", integration::node::LINGER);
        let words = ["/bin/sh", "-ec", &script];
        let output = self.does(Verb::Exec {
            tty: false,
            words: &words,
        })?;
        Ok(output.text().to_owned())
    }

    /// Repeats a script until it prints `wanted`.
    pub(crate) fn until(&self, script: &str, wanted: &str, patience: Duration) -> Result<()> {
        let begin = Instant::now();
        loop {
            let script = format!("{{ {script}; }} 2>&1 || true");
            let seen = self.shell(&script);
            if seen.as_ref().is_ok_and(|seen| seen == wanted) {
                return Ok(());
            }
            ensure!(begin.elapsed() < patience, "{seen:?}, not {wanted:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until it has stopped: its exit code.
    pub(crate) fn ends(&self) -> Result<i32> {
        let begin = Instant::now();
        while self.does(Verb::Status)?.text() == "running" {
            ensure!(begin.elapsed() < DEADLINE, "{} does not end", self.id);
            std::thread::sleep(Duration::from_millis(50));
        }
        let code = self.does(Verb::ExitCode)?;
        let parsed = code.text().parse();
        parsed.with_context(|| format!("no exit code: {code:?}"))
    }

    /// Away with it.
    pub(crate) fn remove(self) -> Result<()> {
        self.does(Verb::Remove).map(drop)
    }
}
