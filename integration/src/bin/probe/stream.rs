//! Commands about standard streams and signals.

use std::io::{self, Read, Write};

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

/// Says that it is ready, by standard output and its own name, and sleeps until a signal ends it. As PID 1 only a handled signal or SIGKILL does: SIGTERM and SIGINT
/// are handled, and end it as their default action would.
pub(crate) fn sleep() -> Result<()> {
    let signal = wait_for(&[Signal::SIGTERM, Signal::SIGINT])?;
    std::process::exit(128 + signal as i32)
}

/// Sleeps until SIGTERM or SIGINT and collects orphans, which is PID 1's duty where a pod shares its processes.
pub(crate) fn pause() -> Result<()> {
    let set: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD]
        .into_iter()
        .collect();
    set.thread_block().context("block signals")?;
    while set.wait().context("wait for a signal")? == Signal::SIGCHLD {
        while matches!(
            waitpid(None, Some(WaitPidFlag::WNOHANG)),
            Ok(status) if status != WaitStatus::StillAlive
        ) {}
    }
    Ok(())
}

/// Says that it is ready, waits for one of the signals and prints its name.
pub(crate) fn signal(names: &[&str]) -> Result<()> {
    let signals = names
        .iter()
        .map(|name| name.parse().with_context(|| format!("{name} is no signal")));
    let signal = wait_for(&signals.collect::<Result<Vec<_>>>()?)?;
    println!("{}", signal.as_str());
    Ok(())
}

fn wait_for(signals: &[Signal]) -> Result<Signal> {
    let set: SigSet = signals.iter().copied().collect();
    set.thread_block().context("block signals")?;
    // For who watches from outside, where nobody reads standard output.
    nix::sys::prctl::set_name(c"ready").context("rename this process")?;
    println!("ready");
    io::stdout().flush().context("flush")?;
    set.wait().context("wait for a signal")
}

pub(crate) fn cat() -> Result<()> {
    io::copy(&mut io::stdin().lock(), &mut io::stdout().lock()).context("copy")?;
    Ok(())
}

/// Writes `bytes` bytes in which each line of 64 has its number, so that a loss shows.
pub(crate) fn spew(bytes: u64) -> Result<()> {
    let mut out = io::BufWriter::with_capacity(1 << 16, io::stdout().lock());
    let mut left = bytes;
    for number in 0u64.. {
        let line = format!("{number:063}\n");
        let take = left.min(64);
        out.write_all(&line.as_bytes()[..usize::try_from(take)?])
            .context("write")?;
        left -= take;
        if left == 0 {
            break;
        }
    }
    out.flush().context("flush")
}

pub(crate) fn count() -> Result<()> {
    let mut buffer = vec![0; 1 << 16];
    let (mut total, mut stdin) = (0u64, io::stdin().lock());
    loop {
        match stdin.read(&mut buffer).context("read")? {
            0 => break,
            got => total += u64::try_from(got)?,
        }
    }
    println!("{total}");
    Ok(())
}
