//! What is left after faults, kills and many containers at once: nothing.
//!
//! | variable | meaning |
//! |---|---|
//! | `SYSBOX_KILL_CYCLES` | cycles with a kill (60; the full walk is 300) |
//! | `SYSBOX_KILL_SEED` | seed of the random moments, as a failed run printed it |

mod faults;
mod kills;
mod lives;
mod pods;
mod watch;

use std::process::ExitCode;

use anyhow::Result;
use integration::suite;
use libtest_mimic::{Arguments, Trial, run};

type Case = (&'static str, fn() -> Result<()>);

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Each fills the machine, and their times count.
    arguments.test_threads = Some(1);
    let cases: [Case; 10] = [
        ("faults::every_step", faults::every_step),
        ("faults::docker", faults::docker),
        ("kills::with_containerd", kills::with_containerd),
        ("kills::without_containerd", kills::without_containerd),
        ("pods::faults", pods::faults),
        ("pods::kills", pods::kills),
        ("lives::streams", lives::streams),
        ("lives::frozen", lives::frozen),
        ("lives::many", lives::containers),
        ("lives::a_hung_create_blocks_nobody", lives::hung_create),
    ];
    let trials = cases
        .into_iter()
        .map(|(name, case)| Trial::ignorable_test(name, move || suite::trial(case)))
        .collect();
    run(&arguments, trials).exit_code()
}

/// A number from the environment.
fn number(variable: &str, default: u64) -> Result<u64> {
    match std::env::var(variable) {
        Ok(text) => Ok(text.parse()?),
        Err(_) => Ok(default),
    }
}
