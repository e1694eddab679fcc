//! Attacks and hostile inputs, through real engines and seen from inside: `ENGINE::RUNTIME::KIND::CASE`, one file a kind.
//!
//! A case names its way in (ctr, Docker's client, pods of CRI) and what the same does under runc, where it can be tried: so it
//! is known to bite, or the difference is known.

mod base_filter;
mod case;
mod cgroup;
mod counts;
mod devices;
mod environment;
mod growth;
mod host_paths;
mod identity;
mod inherited;
mod read_only;
mod waits;
mod working_directory;

use std::process::ExitCode;

use integration::{pool, suite};
use libtest_mimic::Arguments;

use case::Case;

/// The kinds, each with its cases.
const KINDS: &[(&str, &[Case])] = &[
    ("base_filter", base_filter::CASES),
    ("cgroup", cgroup::CASES),
    ("counts", counts::CASES),
    ("devices", devices::CASES),
    ("environment", environment::CASES),
    ("growth", growth::CASES),
    ("host_paths", host_paths::CASES),
    ("identity", identity::CASES),
    ("inherited", inherited::CASES),
    ("waits", waits::CASES),
    ("read_only", read_only::CASES),
    ("working_directory", working_directory::CASES),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = KINDS
        .iter()
        .flat_map(|(kind, cases)| cases.iter().flat_map(move |case| case.trials(kind)))
        .collect();
    suite::run(&arguments, trials, pool::drain, |_| false)
}
