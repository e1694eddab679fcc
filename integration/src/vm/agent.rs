//! Root's way into a booted host: lines of JSON on its second serial port.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::fcntl::OFlag;
use nix::sys::termios::{ControlFlags, SetArg, cfmakeraw, tcgetattr, tcsetattr};
use serde::{Deserialize, Serialize};

use crate::process;

/// A script to run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    /// Counted from 1.
    pub(super) number: u64,
    /// For bash.
    pub(super) script: String,
    /// How long it may take.
    pub(super) seconds: u64,
}

/// What became of it; number 0 says that the agent is there.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    /// The request's.
    pub(super) number: u64,
    /// The exit code; 124 where it took too long.
    pub(super) code: i32,
    /// Standard output, no more than [`MOST`] bytes.
    pub(super) stdout: String,
    /// Standard error, likewise.
    pub(super) stderr: String,
}

/// A serial port is slow.
const MOST: usize = 200_000;

/// Serves the port `tty` until it is closed, one request after the other.
///
/// # Errors
/// If the port cannot be opened, set or written.
pub fn agent(tty: &str) -> Result<()> {
    let mut port = File::options()
        .read(true)
        .write(true)
        .custom_flags(OFlag::O_NOCTTY.bits())
        .open(tty)
        .with_context(|| format!("open {tty}"))?;
    let mut modes = tcgetattr(&port).context("read the port's modes")?;
    cfmakeraw(&mut modes);
    // Nobody has the modem's lines.
    modes.control_flags.insert(ControlFlags::CLOCAL);
    tcsetattr(&port, SetArg::TCSANOW, &modes).context("set the port's modes")?;
    let requests = BufReader::new(port.try_clone().context("share the port")?);
    let ready = Answer {
        number: 0,
        code: 0,
        stdout: String::new(),
        stderr: String::new(),
    };
    say(&mut port, &ready)?;
    for line in requests.split(b'\n') {
        let line = line.context("read the port")?;
        // What came before the port was raw is noise.
        if let Ok(request) = serde_json::from_slice(&line) {
            say(&mut port, &run(&request))?;
        }
    }
    Ok(())
}

fn run(request: &Request) -> Answer {
    let mut command = Command::new("/bin/bash");
    command
        .args(["-ec", &request.script])
        .current_dir("/root")
        .env_clear()
        .env("HOME", "/root")
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        );
    let ended = process::run(&mut command, b"", Duration::from_secs(request.seconds));
    let (code, stdout, stderr) = match ended {
        Ok(output) => (output.code, output.stdout, output.stderr),
        Err(error) => (124, String::new(), format!("{error:#}")),
    };
    Answer {
        number: request.number,
        code,
        stdout: stdout.chars().take(MOST).collect(),
        stderr: stderr.chars().take(MOST).collect(),
    }
}

fn say(port: &mut File, answer: &Answer) -> Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    port.write_all(&line).context("write the port")
}
