//! Scripts of shell in a node that print a line for each check.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::node::Node;
use crate::process;

/// Defines `t NAME COMMAND…`.
const ROWS: &str = include_str!("../tests/containers/inside/rows.sh");

/// Before a script that a shell runs under `-e`, to which a failing `! COMMAND` is no failure: `no COMMAND` ends it if the
/// command works.
pub const NO: &str =
    "no() { if \"$@\" >/dev/null 2>&1; then echo \"works: $*\" >&2; exit 1; fi; }; ";

/// Runs bash with `script` in the node; each `t NAME COMMAND…` in it must succeed.
///
/// # Errors
/// If a check fails, none was made, or the script does not reach its end in 400 s.
pub fn run(node: &Node, script: &str) -> Result<()> {
    run_by(&mut node.command(&["/bin/bash", "-s"]), script)
}

/// The same by `bash`, a command that reads a script.
///
/// # Errors
/// As [`run`].
pub fn run_by(bash: &mut Command, script: &str) -> Result<()> {
    let text = format!("{ROWS}\n{script}\necho done\n");
    let output = process::run(bash, text.as_bytes(), Duration::from_secs(400))?;
    let lines: Vec<_> = output.stdout.lines().collect();
    ensure!(
        lines.last() == Some(&"done"),
        "the script did not reach its end:\n{}{}",
        output.stdout,
        output.stderr
    );
    let failed: Vec<_> = lines
        .iter()
        .filter(|line| line.starts_with("not ok"))
        .collect();
    ensure!(failed.is_empty(), "{failed:#?}\n{}", output.stderr);
    ensure!(
        lines.iter().any(|line| line.starts_with("ok ")),
        "the script checks nothing"
    );
    Ok(())
}
