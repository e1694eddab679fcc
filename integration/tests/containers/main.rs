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
mod kernels;
mod kmsg;
mod lifecycle;
mod mounts;
mod network;
mod rows;
mod stdio;
mod systemd;

use std::process::ExitCode;

use integration::{pool, suite};
use libtest_mimic::Arguments;

use bed::Case;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let cases: Vec<Case> = [
        basic::CASES,
        stdio::CASES,
        exec::CASES,
        lifecycle::CASES,
        isolation::CASES,
        kernels::CASES,
        kmsg::CASES,
        network::CASES,
        mounts::CASES,
        files::CASES,
        systemd::CASES,
        docker::CASES,
        engine::CASES,
    ]
    .concat();
    let trials = cases.iter().flat_map(Case::trials).collect();
    suite::run(&arguments, trials, pool::drain, |said| said)
}
