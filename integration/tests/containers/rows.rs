//! Scripts that run inside and print a line for each check.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use integration::process;

use crate::bed::Container;

/// Checks that fail today, each with its reason. One that passes is a failure, too: the list must not go stale.
pub(crate) type Known = BTreeMap<&'static str, &'static str>;

const COMMON: &str = include_str!("inside/rows.sh");

/// Runs `script` in the container; every check passes but the known ones.
pub(crate) fn run(container: &Container<'_>, script: &str, known: &Known) -> Result<()> {
    let text = format!("{COMMON}\n{script}");
    let output = process::run(
        &mut container.exec_command(&[], &["/bin/bash", "-s"]),
        text.as_bytes(),
        Duration::from_secs(400),
    )?;
    judge(&output.stdout, known)
        .map_err(|error| error.context(format!("standard error: {}", output.stderr)))
}

fn judge(printed: &str, known: &Known) -> Result<()> {
    ensure!(
        printed.lines().last() == Some("done"),
        "the script did not reach its end:\n{printed}"
    );
    let mut wrong = Vec::new();
    for line in printed.lines() {
        let (passed, rest) = match (line.strip_prefix("ok "), line.strip_prefix("not ok ")) {
            (Some(name), _) => (true, name),
            (_, Some(rest)) => (false, rest),
            _ => continue,
        };
        let reason = known.iter().find(|(name, _)| {
            rest == **name
                || rest
                    .strip_prefix(**name)
                    .is_some_and(|rest| rest.starts_with(": "))
        });
        match (passed, reason) {
            (true, Some((name, reason))) => {
                wrong.push(format!("{name} passes, but is listed as failing: {reason}"))
            }
            (false, None) => wrong.push(rest.to_owned()),
            _ => {}
        }
    }
    if !wrong.is_empty() {
        bail!("{} checks:\n{}", wrong.len(), wrong.join("\n"));
    }
    Ok(())
}
