//! Functional tests: each case on each engine, under each runtime that it concerns.
//!
//! A case that needs none of our features runs under runc's shim too: that keeps the test honest.

mod basic;
mod bed;
mod docker;
mod exec;
mod isolation;
mod lifecycle;
mod rows;
mod stdio;
mod systemd;

use std::process::ExitCode;

use integration::leak::Snapshot;
use integration::pool;
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
        systemd::CASES,
        docker::CASES,
    ]
    .concat();
    let trials = cases.iter().flat_map(Case::trials).collect();

    let host = Snapshot::of_host();
    let conclusion = run(&arguments, trials);
    pool::drain();
    let left = host.difference(&Snapshot::of_host());
    for fact in &left {
        eprintln!("the host is not as it was before the tests: {fact}");
    }
    if !arguments.list {
        println!(
            "{} passed, {} failed, {} skipped",
            conclusion.num_passed, conclusion.num_failed, conclusion.num_ignored
        );
    }
    if left.is_empty() {
        conclusion.exit_code()
    } else {
        ExitCode::FAILURE
    }
}
