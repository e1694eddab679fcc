//! Clients as users start them.

use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};

/// Runs `words`, which must succeed. No deadline: what waits for one is measured as well.
pub(crate) fn run(words: &[&str]) -> Result<Output> {
    let (program, rest) = words.split_first().context("a command has a name")?;
    let output = Command::new(program)
        .args(rest)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {program}"))?;
    ensure!(
        output.status.success(),
        "{}: {}",
        words.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output)
}
