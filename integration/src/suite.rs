//! The frame of a suite of trials: what this machine lacks, and what is left on it when all have ended.

use std::process::ExitCode;

use anyhow::Result;
use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::leak::{self, Snapshot};
use crate::{host, kernel_log};

/// Runs the trials, then `drain`, and fails where the host is not as it was, or the kernel has said what `left` leaves of it.
pub fn run(
    arguments: &Arguments,
    trials: Vec<Trial>,
    drain: fn(),
    left: fn(Vec<String>) -> Vec<String>,
) -> ExitCode {
    let before = Snapshot::of_host();
    // Without root nothing runs that could make the kernel complain.
    let log = kernel_log::position().ok();
    let conclusion = libtest_mimic::run(arguments, trials);
    drain();
    let mut complaints = leak::of_host_since(&before);
    if let Some(log) = log {
        let said = kernel_log::complaints_since(log);
        complaints.extend(left(said));
    }
    for complaint in &complaints {
        eprintln!("after the tests: {complaint}");
    }
    if !arguments.list {
        println!(
            "{} passed, {} failed, {} skipped",
            conclusion.num_passed, conclusion.num_failed, conclusion.num_ignored
        );
    }
    if complaints.is_empty() {
        conclusion.exit_code()
    } else {
        ExitCode::FAILURE
    }
}

/// A trial of our shim on nodes: skipped where this machine cannot run it, or a failure where it must.
///
/// # Errors
/// Those of `body`, and what is lacking where nothing may be skipped ([`host::strict`]).
pub fn trial(body: impl FnOnce() -> Result<()>) -> Result<Completion, Failed> {
    let unbuilt = host::shim().err().map(|error| format!("{error:#}"));
    unless(host::obstacle().or(unbuilt), body)
}

/// The same of a runtime that is not ours.
///
/// # Errors
/// As [`trial`].
pub fn trial_of_another(body: impl FnOnce() -> Result<()>) -> Result<Completion, Failed> {
    unless(host::obstacle(), body)
}

fn unless(
    obstacle: Option<String>,
    body: impl FnOnce() -> Result<()>,
) -> Result<Completion, Failed> {
    match obstacle {
        Some(obstacle) if host::strict() => Err(obstacle.into()),
        Some(obstacle) => Ok(Completion::ignored_with(obstacle)),
        None => body()
            .map(|()| Completion::Completed)
            .map_err(|error| format!("{error:#}").into()),
    }
}
