//! The child side of create and exec: short-lived single-threaded processes, but for the last one of these; this program
//! re-exec'd with a socket as standard input. Order of the steps as in `proto`.
//!
//! - `init`: [`builder`] (S) builds the container's mounts in the host's user namespace and has
//!   [`maker`] (H) make its namespaces and [`init`] (C), which becomes the user's program.
//! - `exec`: [`exec`] joins a container and becomes the user's program.
//! - `host-view`: [`host_view`] serves the host's view of a root file system, with threads, until that ends.

mod builder;
mod data_roots;
pub(crate) mod dev;
mod effective;
mod exec;
pub(crate) mod fault;
pub(crate) mod hooks;
#[cfg(test)]
mod hooks_tests;
mod host_view;
mod inherited;
mod init;
mod inroot;
mod kernfs;
mod kmsg;
mod limits;
mod maker;
mod masks;
mod mounts;
pub(crate) mod parent;
mod pod_network;
pub(crate) mod proto;
mod root;
mod security;
mod step;
mod steps;
mod times;
mod unlocked;
mod userns_fs;

use std::io::Write;

use rustix::net::sockopt::socket_type;

use crate::cgroup::scope::StandIn;
use crate::error::{StageFailure, Warning};
use crate::stage::proto::{Channel, Message};
use crate::sys;
use crate::sys::clone::SingleThreaded;

pub use step::Step;
pub(crate) use steps::Steps;
pub(crate) use times::Times;

/// `argv[1]` of the stage that makes a container.
pub(crate) const INIT: &str = "init";
/// `argv[1]` of the stage that execs into one.
pub(crate) const EXEC: &str = "exec";
/// `argv[1]` of the stage that serves the host's view of one.
pub(crate) const HOST_VIEW: &str = "host-view";

/// What a person is told who calls one.
const BY_HAND: &str = "containerd-shim-sysbox-v2: this is no command, but a step that the shim runs by itself for a container, with a \
    socket or a pipe as standard input; --help lists the commands";

/// A stage: its socket, the proof that it has one thread, and the downgrades so far.
type Stage = fn(&Channel, SingleThreaded, Vec<Warning>) -> Result<(), StageFailure>;

/// Runs the stage and never returns, if this process was started as one. To be called first thing
/// in `main`, before any thread exists.
pub fn run_if_stage() {
    let mut args = std::env::args_os().skip(1);
    let stage: Stage = match args.next() {
        Some(arg) if arg == INIT => builder::run,
        Some(arg) if arg == EXEC => exec::run,
        Some(arg) if arg == HOST_VIEW => host_view::run,
        Some(arg) if arg == StandIn::NAME => {
            let status = if StandIn::run() { 0 } else { by_hand() };
            sys::clone::exit(status)
        }
        _ => return,
    };
    let status = match (sys::fd::take_stdin(), SingleThreaded::check()) {
        (Ok(socket), Ok(proof)) if socket_type(&socket).is_ok() => {
            let channel = Channel::from_fd(socket);
            let outcome = Steps::new(None)
                .run(Step::Spawn, inherited::reset)
                .and_then(|warnings| stage(&channel, proof, warnings));
            match outcome {
                Ok(()) => 0,
                Err(failure) => {
                    // The shim may be gone; then nobody is there to be told.
                    let _ = channel.send(&Message::Failed(failure));
                    1
                }
            }
        }
        _ => by_hand(),
    };
    sys::clone::exit(status)
}

/// Tells a person: the shim's stages have no standard error. Returns the exit status.
fn by_hand() -> i32 {
    let _ = writeln!(std::io::stderr(), "{BY_HAND}");
    125
}
