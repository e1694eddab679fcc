//! One scenario through every door by which users come to the runtime: `DOOR::STEP`. What of it works where is a table in
//! the README, made from what is tested here: `SYSBOX_WRITE_TABLE=1` writes it, any other run compares it.

mod cri;
mod ctr;
mod docker;
mod docker_like;
mod door;
mod nerdctl;
mod steps;
mod table;

use std::process::ExitCode;

use anyhow::{Result, bail};
use integration::pool::{self, Lease};
use integration::{kernel_log, suite};
use libtest_mimic::{Arguments, Trial};

use door::{Bed, Cell, Door};
use steps::{STEPS, Step};

/// The doors, in the order of the table's columns.
fn doors() -> Vec<&'static dyn Door> {
    let mut doors: Vec<&'static dyn Door> = Vec::new();
    for door in &ctr::ALL {
        doors.push(door);
    }
    doors.push(&nerdctl::Nerdctl);
    for door in &docker::ALL {
        doors.push(door);
    }
    for door in &cri::ALL {
        doors.push(door);
    }
    doors
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let mut trials = vec![Trial::test("table", || {
        table::check(&doors()).map_err(|error| format!("{error:#}").into())
    })];
    for door in doors() {
        for step in STEPS {
            if !matches!(door.cell(step.name), Cell::Lacks(_)) {
                let name = format!("{}::{}", door.name().replace(' ', "-"), step.name);
                trials.push(Trial::ignorable_test(name, move || {
                    suite::trial(|| tried(door, step))
                }));
            }
        }
    }
    suite::run(&arguments, trials, pool::drain, kernel_log::but_of_clients)
}

/// A step at a door, on a node that it has for itself and must leave as it was.
fn tried(door: &'static dyn Door, step: &'static Step) -> Result<()> {
    let lease = Lease::of(door.name(), || door.node())?;
    let bed = Bed { node: &lease, door };
    let outcome = (step.body)(&bed).map_err(|error| lease.explain(&error));
    match (door.cell(step.name), outcome) {
        (Cell::NotYet(_), Err(_)) => return Ok(()),
        (Cell::NotYet(why), Ok(())) => bail!("it works, so it is no longer \"{why}\""),
        (_, outcome) => outcome?,
    }
    door.tidy(&lease)?;
    lease.give_back()
}
