//! Runs inside containers: a static program that does one thing and reports what it saw.
//!
//! | command | what it does |
//! |---|---|
//! | `exit N` | exits with N |
//! | `sleep` | prints `ready`, takes it as its name, sleeps until SIGTERM or SIGINT |
//! | `pause` | sleeps until SIGTERM or SIGINT and collects orphans |
//! | `sig NAME…` | the same, until one of these signals comes, whose name it prints |
//! | `cat` | copies standard input to standard output |
//! | `spew BYTES` | writes that many bytes to standard output |
//! | `facts` | prints what it sees of itself and around it, as JSON |
//! | `inherited` | prints what it has taken over from whoever started it, as JSON |
//! | `instances` | opens inotify instances until it may not, says how many, and keeps them as `sleep` does |
//! | `keys` | revokes its session keyring, then the same with keys |
//! | `kmsg` | uses /dev/kmsg and prints how that was, as JSON |
//! | `locks` | tries to undo each mount, prints the outcomes as JSON |
//! | `lock ID` | the same for one mount |
//! | `attack DISK` | tries what must be refused, DISK being the host's root device as MAJOR:MINOR; JSON |
//! | `writable DIR [SKIP…]` | prints every file below DIR that opens for writing, as JSON |
//! | `open PATH…` | prints a line for each: the outcomes of opening it for reading and for writing |
//! | `write PATH VALUE` | prints `ok` or the error's name |
//! | `fuse-silent DIR` | serves a FUSE on DIR that does not answer, until it is killed |
//! | `fuse-locked DIR` | the same, its server and a client of it locked up with each other |
//! | `fuse-hold DIR HELD` | the same, and holds the lock of directory HELD by it |
//! | `fuse-read HELD` | its program |
//! | `tty-write TTY`, `tty-size TTY` | as a program of `fuse-silent`: writes what never comes to a terminal, asks for its size with that as the answer's place |
//! | `watch SECONDS` | tries to get at every process of a runtime that it sees, prints what it got, as JSON |
//! | `swap SECONDS A B…` | exchanges each path with the next one, over and over; prints how often |
//! | `count` | prints how many bytes standard input had |

mod attack;
mod exhaust;
mod facts;
mod fuse;
mod inherited;
mod kmsg;
mod locks;
mod race;
mod stream;
mod terminal;

use std::process::ExitCode;
use std::time::Duration;

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
        ["pause"] => stream::pause()?,
        ["sig", names @ ..] => stream::signal(names)?,
        ["cat"] => stream::cat()?,
        ["spew", bytes] => stream::spew(bytes.parse().context("BYTES is a number")?)?,
        ["fuse-silent", dir] => fuse::silent(dir)?,
        ["fuse-locked", dir] => fuse::locked_up(dir)?,
        ["fuse-hold", dir, held] => fuse::hold(dir, held)?,
        ["fuse-read", held] => fuse::read_directory(held)?,
        ["tty-write", tty] => terminal::write(tty)?,
        ["tty-size", tty] => terminal::size(tty)?,
        ["tty-size-of", tty] => terminal::size_of(tty)?,
        ["watch", seconds] => println!("{}", race::watch(whole(seconds)?)),
        ["swap", seconds, paths @ ..] => println!("{}", race::swap(whole(seconds)?, paths)?),
        ["count"] => stream::count()?,
        ["facts"] => println!("{}", facts::all()?),
        ["inherited"] => println!("{}", inherited::all()?),
        ["instances"] => exhaust::instances()?,
        ["keys"] => exhaust::keys()?,
        ["kmsg"] => println!("{}", kmsg::all()?),
        ["locks"] => println!("{}", locks::all()?),
        ["lock", id] => println!("{}", locks::one(id)?),
        ["attack", disk] => println!("{}", attack::all(disk)?),
        ["writable", top, skip @ ..] => println!("{}", attack::writable(top, skip)),
        ["open", paths @ ..] => paths
            .iter()
            .for_each(|path| println!("{}", attack::open(path))),
        ["write", path, value] => println!("{}", attack::write(path, value)),
        _ => bail!("unknown command {words:?}"),
    }
    Ok(0)
}

fn whole(seconds: &str) -> Result<Duration> {
    let seconds = seconds.parse().context("SECONDS is a whole number")?;
    Ok(Duration::from_secs(seconds))
}
