//! Attacks and hostile inputs, through real engines and seen from inside: `ENGINE::RUNTIME::KIND::CASE`, one file a kind.
//!
//! A case names its way in (ctr, Docker's client, pods of CRI) and what the same does under runc, where it can be tried: so it
//! is known to bite, or the difference is known. Which class of known holes each stands for is a table in
//! `docs/security.md`, made from [`rows`]: `SYSBOX_WRITE_TABLE=1 cargo test … table` writes it, any other run compares.

mod aborted;
mod base_filter;
mod capabilities;
mod case;
mod cgroup;
mod counts;
mod covers;
mod descriptors;
mod devices;
mod environment;
mod growth;
mod host_paths;
mod host_view;
mod hostile_spec;
mod identity;
mod image_links;
mod inherited;
mod labels;
mod proc;
mod program;
mod races;
mod read_only;
mod rows;
mod shim;
mod sockets;
mod stages;
mod sysctl;
mod table;
mod terminal;
mod user;
mod waits;
mod working_directory;

use std::process::ExitCode;

use integration::{kernel_log, pool, suite};
use libtest_mimic::{Arguments, Trial};

use case::Case;

/// The kinds, each with its cases.
const KINDS: &[(&str, &[Case])] = &[
    ("aborted", aborted::CASES),
    ("base_filter", base_filter::CASES),
    ("capabilities", capabilities::CASES),
    ("cgroup", cgroup::CASES),
    ("counts", counts::CASES),
    ("covers", covers::CASES),
    ("descriptors", descriptors::CASES),
    ("devices", devices::CASES),
    ("environment", environment::CASES),
    ("growth", growth::CASES),
    ("host_paths", host_paths::CASES),
    ("host_view", host_view::CASES),
    ("hostile_spec", hostile_spec::CASES),
    ("identity", identity::CASES),
    ("image_links", image_links::CASES),
    ("inherited", inherited::CASES),
    ("labels", labels::CASES),
    ("proc", proc::CASES),
    ("program", program::CASES),
    ("races", races::CASES),
    ("sockets", sockets::CASES),
    ("stages", stages::CASES),
    ("sysctl", sysctl::CASES),
    ("terminal", terminal::CASES),
    ("user", user::CASES),
    ("waits", waits::CASES),
    ("read_only", read_only::CASES),
    ("working_directory", working_directory::CASES),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let names: Vec<_> = KINDS
        .iter()
        .flat_map(|(kind, cases)| {
            cases
                .iter()
                .map(move |case| format!("{kind}::{}", case.name))
        })
        .collect();
    let mut trials = vec![Trial::test("table", move || {
        table::check(&names).map_err(|error| format!("{error:#}").into())
    })];
    for (kind, cases) in KINDS {
        trials.extend(cases.iter().flat_map(|case| case.trials(kind)));
    }
    suite::run(&arguments, trials, pool::drain, kernel_log::but_of_clients)
}
