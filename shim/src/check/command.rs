//! Runs a program and takes the first line it prints.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

/// `None` where it cannot be run, fails or prints nothing.
pub(super) fn first_line(program: &Path, args: &[&str]) -> Option<String> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut line = String::new();
    let read = child
        .stdout
        .take()
        .map(|out| BufReader::new(out).read_line(&mut line));
    #[expect(
        clippy::disallowed_methods,
        reason = "`check` is no shim: no reaper runs in it"
    )]
    let succeeded = child.wait().is_ok_and(|status| status.success());
    (succeeded && matches!(read, Some(Ok(1..)))).then(|| line.trim().to_owned())
}
