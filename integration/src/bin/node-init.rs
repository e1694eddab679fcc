//! The processes of a node that the harness starts, and the one in a booted host: see [`integration::node`], [`integration::vm`].

use std::process::ExitCode;

use anyhow::{Context, Result};
use integration::{node, vm};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words) {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)),
        Err(error) => {
            eprintln!("node-init: {error:#}");
            ExitCode::from(125)
        }
    }
}

fn run(words: &[String]) -> Result<i32> {
    match words {
        [verb, launch] if verb == "supervise" => {
            node::supervise(&serde_json::from_str(launch)?).map(|()| 0)
        }
        [verb, launch] if verb == "pid1" => node::pid1(&serde_json::from_str(launch)?).map(|()| 0),
        [verb, pid, words @ ..] if verb == "enter" => node::enter(pid, words),
        [verb, tty] if verb == "agent" => vm::agent(tty).map(|()| 0),
        _ => None.context(
            "usage: node-init supervise|pid1 LAUNCH, node-init enter PID WORDS…, or node-init agent TTY",
        ),
    }
}
