//! Real hosts, booted in QEMU: their kernels, systemd outside, all controllers of cgroup v2, AppArmor. `HOST::CASE`, a host being
//! a Debian release with its own kernel. Only where `SYSBOX_VM` is set, as `make test-vm` does: a boot takes a minute.

mod apparmor;
mod check;
mod engines;
mod host;
mod limits;

use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, anyhow};
use integration::debian::Release;
use integration::suite;
use libtest_mimic::{Arguments, Trial};

use host::Host;

/// The host that runs, one at a time: an emulated processor wants two of ours.
static HOST: Mutex<Option<Host>> = Mutex::new(None);

type Case = (&'static str, fn(&mut Host) -> Result<()>);

const CASES: &[Case] = &[
    ("install", check::install),
    ("check", check::every_line_is_true),
    ("docker", engines::docker),
    ("ctr", engines::ctr),
    ("systemd", engines::systemd),
    ("limit_of_memory", limits::memory),
    ("limit_of_memory_for_files", limits::memory_of_files),
    ("limit_of_pids", limits::pids),
    ("limit_of_cpu", limits::cpu),
    ("limit_to_a_cpu", limits::cpuset),
    ("apparmor", apparmor::profiles),
    ("nothing_is_left", engines::nothing_is_left),
];

const RELEASES: [Release; 1] = [Release::Trixie];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    if std::env::var_os("SYSBOX_VM").is_none() && !arguments.list {
        println!(
            "the tests in booted hosts are run by `make test-vm` (SYSBOX_VM=1): a disk and a boot take minutes"
        );
        return ExitCode::SUCCESS;
    }
    arguments.test_threads = Some(1);
    let trials = RELEASES
        .iter()
        .flat_map(|&release| {
            CASES.iter().map(move |&(name, body)| {
                Trial::ignorable_test(format!("{}::{name}", release.suite()), move || {
                    suite::trial(|| run(release, body))
                })
            })
        })
        .collect();
    suite::run(&arguments, trials, drain, |said| said)
}

fn run(release: Release, body: fn(&mut Host) -> Result<()>) -> Result<()> {
    let mut shared = HOST.lock().unwrap_or_else(PoisonError::into_inner);
    let mut host = match shared.take() {
        Some(host) if host.release == release => host,
        // The other one ends before this one begins.
        other => {
            drop(other);
            Host::start(release)?
        }
    };
    let outcome = body(&mut host)
        .and_then(|()| host.quiet())
        .map_err(|error| anyhow!("{error:#}\n{}", host.log_tail()));
    // What a failed case left is not the next one's.
    *shared = outcome.is_ok().then_some(host);
    outcome
}

fn drain() {
    drop(HOST.lock().unwrap_or_else(PoisonError::into_inner).take());
}
