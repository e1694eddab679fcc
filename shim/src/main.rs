//! `containerd-shim-sysbox-v2`: the containerd shim (runtime type `io.containerd.sysbox.v2`) of system containers.
//!
//! One process serves one pod: the task API on a Unix socket, events, standard streams, exit statuses. What a container
//! is made of is `runtime_core`'s business; this crate turns containerd's words into its calls.
#![forbid(unsafe_code)]

mod bootstrap;
mod check;
mod config;
mod convert;
mod delete;
mod epoll;
mod error;
mod events;
mod flags;
mod help;
mod info;
mod lifecycle;
mod log;
mod members;
mod metrics;
mod oom;
mod options;
mod places;
mod pod;
mod process;
mod reap;
mod server;
mod service;
mod socket;
mod start;
mod stdio;
mod task;

use std::io::Write;
use std::process::ExitCode;

use crate::error::{Error, Result};
use crate::flags::Flags;

fn main() -> ExitCode {
    runtime_core::run_if_stage();
    stdio::binary::run_if_logger();
    let result = Flags::parse(std::env::args().skip(1))
        .map_err(|e| Error::InvalidArgument(e.to_string()))
        .and_then(|flags| run(&flags));
    match result {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "containerd-shim-sysbox-v2: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &Flags) -> Result<ExitCode> {
    if flags.version {
        print(help::VERSION)?;
        return Ok(ExitCode::SUCCESS);
    }
    if flags.help {
        print(&help::text())?;
        return Ok(ExitCode::SUCCESS);
    }
    if flags.info {
        info::run()?;
        return Ok(ExitCode::SUCCESS);
    }
    match flags.command.as_deref() {
        Some("start") => start::run(flags)?,
        Some("delete") => delete::run(flags)?,
        Some("serve") => server::run(flags)?,
        Some("check") => return check::run(flags),
        other => return Err(Error::InvalidArgument(help::no_such(other))),
    }
    Ok(ExitCode::SUCCESS)
}

fn print(text: &str) -> Result<()> {
    use runtime_core::OsContext;
    Ok(std::io::stdout()
        .write_all(text.as_bytes())
        .os("write", "stdout")?)
}
