//! What a node and a shim in it hold: before, and again after.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use integration::leak::Snapshot;
use integration::node::Node;

/// How long what was begun may take to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// A node's state and a shim's children and threads.
#[derive(Debug)]
pub(crate) struct Watch<'a> {
    node: &'a Node,
    shim: u32,
    before: Snapshot,
    children: Vec<String>,
    threads: Vec<String>,
}

impl<'a> Watch<'a> {
    /// As it is now. `shim` is its pid in the node.
    pub(crate) fn new(node: &'a Node, shim: u32) -> Self {
        // Threads that ran verbs end a second after.
        std::thread::sleep(Duration::from_millis(1500));
        Self {
            node,
            shim,
            before: Snapshot::of_node(node),
            children: children(node, shim),
            threads: threads(node, shim),
        }
    }

    /// Waits until all is as it was; threads, which end later, only if `threads` says so.
    pub(crate) fn settled(&self, with_threads: bool) -> Result<()> {
        let begin = Instant::now();
        loop {
            let mut left = self.before.difference(&Snapshot::of_node(self.node));
            left.extend(difference(
                "child",
                &self.children,
                &children(self.node, self.shim),
            ));
            if with_threads {
                left.extend(difference(
                    "thread",
                    &self.threads,
                    &threads(self.node, self.shim),
                ));
            }
            if left.is_empty() {
                return Ok(());
            }
            if begin.elapsed() > PATIENCE {
                bail!("left behind:\n  {}", left.join("\n  "));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn difference(what: &str, before: &[String], after: &[String]) -> Option<String> {
    (before != after).then(|| format!("{what}: {before:?} before, {after:?} after"))
}

fn threads(node: &Node, pid: u32) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(node.path(format!("/proc/{pid}/task")))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("comm")).ok())
        .collect();
    names.sort();
    names
}

/// Children with their states: a zombie is one, too (proc_pid_stat(5)).
pub(crate) fn children(node: &Node, parent: u32) -> Vec<String> {
    let mut found = Vec::new();
    for (pid, state, of) in processes(node) {
        if of == parent {
            found.push(format!("{pid} {state}"));
        }
    }
    found
}

/// Every process of the node: pid, name with state, parent's pid.
pub(crate) fn processes(node: &Node) -> Vec<(u32, String, u32)> {
    let entries = fs::read_dir(node.path("/proc"))
        .into_iter()
        .flatten()
        .flatten();
    entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            let (name, rest) = stat.rsplit_once(") ")?;
            let mut fields = rest.split(' ');
            let state = fields.next()?;
            let parent = fields.next()?.parse().ok()?;
            Some((pid, format!("{} {state}", name.split_once('(')?.1), parent))
        })
        .collect()
}
