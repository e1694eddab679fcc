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

use integration::{pool, suite};
use libtest_mimic::Arguments;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let cases = [
        pod::CASES,
        files::CASES,
        life::CASES,
        network::CASES,
        crowd::CASES,
        &conformance::cases(),
    ]
    .concat();
    let trials = cases.iter().flat_map(bed::Case::trials).collect();
    suite::run(&arguments, trials, pool::drain, |said| said)
}
