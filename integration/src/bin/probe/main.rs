//! Runs inside containers: a static program that does one thing and reports what it saw.
//!
//! | command | what it does |
//! |---|---|
//! | `exit N` | exits with N |
//! | `sleep` | prints `ready`, then sleeps until a signal ends it |
//! | `sig NAME…` | prints `ready`, waits for one of these signals, prints its name |
//! | `cat` | copies standard input to standard output |
//! | `spew BYTES` | writes that many bytes to standard output |
//! | `count` | prints how many bytes standard input had |

mod stream;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("probe: {error:#}");
            ExitCode::from(125)
        }
    }
}

fn run(words: &[&str]) -> Result<u8> {
    match words {
        ["exit", code] => return code.parse().context("an exit code is a number up to 255"),
        ["sleep"] => stream::sleep()?,
        ["sig", names @ ..] => stream::signal(names)?,
        ["cat"] => stream::cat()?,
        ["spew", bytes] => stream::spew(bytes.parse().context("BYTES is a number")?)?,
        ["count"] => stream::count()?,
        _ => bail!("unknown command {words:?}"),
    }
    Ok(0)
}
