//! Functional tests: each case on each engine, under each runtime that it concerns.
//!
//! A case that needs none of our features runs under runc's shim too: that keeps the test honest.

mod basic;
mod bed;
mod docker;
mod engine;
mod exec;
mod files;
mod isolation;
mod lifecycle;
mod network;
mod rows;
mod stdio;
mod systemd;

use std::process::ExitCode;

use integration::leak::Snapshot;
use integration::{kernel_log, pool};
use libtest_mimic::{Arguments, run};

use bed::Case;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let cases: Vec<Case> = [
        basic::CASES,
        stdio::CASES,
        exec::CASES,
        lifecycle::CASES,
        isolation::CASES,
        network::CASES,
        files::CASES,
        systemd::CASES,
        docker::CASES,
        engine::CASES,
    ]
    .concat();
    let trials = cases.iter().flat_map(Case::trials).collect();

    let host = Snapshot::of_host();
    // Without root nothing runs that could make the kernel complain.
    let log = kernel_log::position().ok();
    let conclusion = run(&arguments, trials);
    pool::drain();
    let mut complaints = host.difference(&Snapshot::of_host());
    if let Some(log) = log {
        complaints.extend(kernel_log::complaints_since(log));
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
