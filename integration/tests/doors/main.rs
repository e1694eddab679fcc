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

use integration::leak::Snapshot;
use integration::pool::{self, Lease};
use integration::{host, kernel_log};
use libtest_mimic::{Arguments, Completion, Failed, Trial, run};

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
        table::check(&doors()).map_err(failed)
    })];
    for door in doors() {
        for step in STEPS {
            if !matches!(door.cell(step.name), Cell::Lacks(_)) {
                let name = format!("{}::{}", door.name().replace(' ', "-"), step.name);
                trials.push(Trial::ignorable_test(name, move || tried(door, step)));
            }
        }
    }
    let before = Snapshot::of_host();
    // Without root nothing runs that could make the kernel complain.
    let log = kernel_log::position().ok();
    let conclusion = run(&arguments, trials);
    pool::drain();
    let mut complaints = before.difference(&Snapshot::of_host());
    if let Some(log) = log {
        let complained = kernel_log::complaints_since(log);
        complaints.extend(complained.into_iter().filter(|line| !ends_late(line)));
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

/// nerdctl mounts the layers of a stopped container for `cp` and `commit`. Under runc, whose root file system is mounted until
/// the container is deleted, the kernel says this each time; under ours if the dead container's mounts are not gone yet.
fn ends_late(line: &str) -> bool {
    line.contains("is in-use as upperdir/workdir of another mount")
}

fn failed(error: anyhow::Error) -> Failed {
    format!("{error:#}").into()
}

/// A step at a door, on a node that it has for itself and must leave as it was.
fn tried(door: &'static dyn Door, step: &'static Step) -> Result<Completion, Failed> {
    let unbuilt = || host::shim().err().map(|error| format!("{error:#}"));
    if let Some(obstacle) = host::obstacle().or_else(unbuilt) {
        return if host::strict() {
            Err(obstacle.into())
        } else {
            Ok(Completion::ignored_with(obstacle))
        };
    }
    let lease = Lease::of(door.name(), || door.node()).map_err(failed)?;
    let bed = Bed { node: &lease, door };
    let outcome = (step.body)(&bed).map_err(|error| {
        format!(
            "{error:#}\n--- the engine's log since the step began\n{}",
            lease.log(40)
        )
    });
    match (door.cell(step.name), outcome) {
        (Cell::NotYet(_), Err(_)) => return Ok(Completion::Completed),
        (Cell::NotYet(why), Ok(())) => {
            return Err(format!("it works, so it is no longer \"{why}\"").into());
        }
        (_, outcome) => outcome?,
    }
    door.tidy(&lease).map_err(failed)?;
    lease.give_back().map_err(failed)?;
    Ok(Completion::Completed)
}
