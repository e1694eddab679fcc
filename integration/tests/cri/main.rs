//! Kubernetes' way in: pods through containerd's CRI plugin, by the real crictl. `ENGINE-KIND::CASE`, where the kind says
//! which handler the pod asks for and whether it has a user namespace of its own (`hostUsers: false`).

mod bed;
mod conformance;
mod crowd;
mod files;
mod life;
mod network;
mod pod;

use std::process::ExitCode;

use integration::kernel_log;
use integration::leak::Snapshot;
use libtest_mimic::{Arguments, run};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let cases = [
        pod::CASES,
        files::CASES,
        life::CASES,
        network::CASES,
        crowd::CASES,
        conformance::CASES,
    ]
    .concat();
    let trials = cases.iter().flat_map(bed::Case::trials).collect();
    let before = Snapshot::of_host();
    // Without root nothing runs that could make the kernel complain.
    let log = kernel_log::position().ok();
    let conclusion = run(&arguments, trials);
    bed::drain();
    let mut complaints = before.difference(&Snapshot::of_host());
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
