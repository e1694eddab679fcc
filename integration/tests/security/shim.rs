//! The shim of a container, seen from the node.

use anyhow::{Context, Result, ensure};
use integration::node::Node;

/// A shim that runs.
#[derive(Debug)]
pub(crate) struct Shim<'a> {
    node: &'a Node,
    /// Its pid in the node.
    pub(crate) pid: u32,
}

impl<'a> Shim<'a> {
    /// Whoever is the parent of the container's init.
    pub(crate) fn of(node: &'a Node, namespace: &str, id: &str) -> Result<Self> {
        let list = node.ctr(&["--namespace", namespace, "task", "ls"])?.ok()?;
        let row = list
            .stdout
            .lines()
            .find(|line| line.split_whitespace().next() == Some(id));
        let init = row.and_then(|row| row.split_whitespace().nth(1));
        let init = init.with_context(|| format!("no task {id} in {}", list.stdout))?;
        let status = format!("sed -n 's/^PPid:[[:space:]]*//p' /proc/{init}/status");
        let pid = node.shell(&status)?.ok()?.text().parse()?;
        ensure!(pid > 1, "init {init} is nobody's child");
        Ok(Self { node, pid })
    }

    /// A number of /proc/PID/status.
    fn status(&self, field: &str) -> Result<u64> {
        let script = format!(
            "sed -n 's/^{field}:[[:space:]]*\\([0-9]*\\).*/\\1/p' /proc/{}/status",
            self.pid
        );
        let output = self.node.shell(&script)?.ok()?;
        output
            .text()
            .parse()
            .with_context(|| format!("{field} of {}", self.pid))
    }

    /// The most memory that it has had, in KiB.
    pub(crate) fn peak(&self) -> Result<u64> {
        self.status("VmHWM")
    }

    /// Its threads.
    pub(crate) fn threads(&self) -> Result<u64> {
        self.status("Threads")
    }

    /// Its open descriptors, as /proc/PID/fd names them, sorted; numbers left out.
    pub(crate) fn descriptors(&self) -> Result<Vec<String>> {
        let script = format!(
            "for fd in /proc/{}/fd/*; do readlink $fd || true; done",
            self.pid
        );
        let output = self.node.shell(&script)?.ok()?;
        let kind = |line: &str| line.split('[').next().unwrap_or_default().to_owned();
        let mut open: Vec<_> = output.stdout.lines().map(kind).collect();
        open.sort();
        Ok(open)
    }
}
