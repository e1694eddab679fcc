//! systemd's manager, as far as containers need it: transient scopes (org.freedesktop.systemd1(5)).
//!
//! Four calls of one interface: the kept crate for D-Bus would bring 21 crates and more (`docs/dependencies.md`).

mod bus;
mod wire;

use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use bus::{Bus, Failure};
use wire::Writer;

pub(crate) use wire::{Property, Value};

/// How long an operation may take, all attempts together: systemd executes itself anew within seconds.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long to wait before the next attempt.
const PAUSE: Duration = Duration::from_millis(50);

const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// Whether systemd is this host's PID 1: sd_booted(3).
pub fn systemd_booted() -> bool {
    std::fs::symlink_metadata("/run/systemd/system").is_ok_and(|found| found.is_dir())
}

/// Starts the transient scope `unit`; returns when what `properties` name as PIDs is in it. A unit of that name which has
/// failed is replaced; one that runs is somebody's. `inside` tells whether the processes have arrived: where the connection is lost, the
/// answer may be, too.
///
/// # Errors
/// [`Error::Os`] with systemd's answer, or where there is none in time.
pub(crate) fn start_scope(
    unit: &str,
    properties: &[Property],
    inside: impl Fn() -> bool,
) -> Result<()> {
    let (mut tried, mut cleared) = (false, false);
    attempts("have systemd start", unit, |bus| {
        loop {
            if tried && inside() {
                return Ok(());
            }
            let mut body = Writer::default();
            body.text(unit);
            body.text("replace");
            body.properties(properties);
            body.no_other_units();
            let called = bus.call("StartTransientUnit", "ssa(sv)a(sa(sv))", body);
            match called {
                Err(Failure::Refused(name, text)) if name == UNIT_EXISTS => {
                    if cleared {
                        return Err(Failure::Refused(name, text));
                    }
                    if tried {
                        // That is ours, its job queued before the connection was lost.
                        return Err(Failure::Gone(std::io::Error::other(text)));
                    }
                    reset(bus, unit)?;
                    cleared = true;
                }
                Err(failure) => {
                    tried = true;
                    return Err(failure);
                }
                Ok(answer) => {
                    tried = true;
                    return done(bus, answer);
                }
            }
        }
    })
}

/// Changes properties of a unit until it ends.
///
/// # Errors
/// As [`start_scope`].
pub(crate) fn set_properties(unit: &str, properties: &[Property]) -> Result<()> {
    attempts("have systemd change", unit, |bus| {
        let mut body = Writer::default();
        body.text(unit);
        // Only at run time: a transient unit has no files that stay.
        body.bool(true);
        body.properties(properties);
        bus.call("SetUnitProperties", "sba(sv)", body).map(drop)
    })
}

/// Stops a unit and has it forgotten; returns when it has ended. None of that name is success.
///
/// # Errors
/// As [`start_scope`].
pub(crate) fn stop(unit: &str) -> Result<()> {
    attempts("have systemd stop", unit, |bus| end(bus, unit))
}

/// Has systemd forget a unit that has failed. One that runs stays, and none of that name is success.
///
/// # Errors
/// As [`start_scope`].
pub(crate) fn forget(unit: &str) -> Result<()> {
    attempts("have systemd forget", unit, |bus| reset(bus, unit))
}

fn end(bus: &mut Bus, unit: &str) -> std::result::Result<(), Failure> {
    let mut body = Writer::default();
    body.text(unit);
    body.text("replace");
    match bus.call("StopUnit", "ss", body) {
        // However the job ended: where the unit still is, the next start says so.
        Ok(answer) => done(bus, answer).or_else(|failure| match failure {
            Failure::Refused(..) => Ok(()),
            gone => Err(gone),
        })?,
        Err(Failure::Refused(name, _)) if name == NO_SUCH_UNIT => return Ok(()),
        Err(failure) => return Err(failure),
    }
    reset(bus, unit)
}

/// Has systemd forget `unit` if it has failed.
fn reset(bus: &mut Bus, unit: &str) -> std::result::Result<(), Failure> {
    let mut body = Writer::default();
    body.text(unit);
    match bus.call("ResetFailedUnit", "s", body) {
        // Mostly: it is gone, or runs.
        Ok(_) | Err(Failure::Refused(..)) => Ok(()),
        Err(failure) => Err(failure),
    }
}

/// Waits for the job that `answer` names.
fn done(bus: &mut Bus, answer: Vec<String>) -> std::result::Result<(), Failure> {
    let job = answer.first().map(String::as_str).unwrap_or_default();
    match bus.result_of(job)? {
        result if result == "done" => Ok(()),
        result => Err(Failure::Refused("job".into(), result)),
    }
}

/// Does `attempt` on a connection, and again on a new one where that is lost, until [`PATIENCE`] has passed.
fn attempts<T>(
    op: &'static str,
    unit: &str,
    mut attempt: impl FnMut(&mut Bus) -> std::result::Result<T, Failure>,
) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let failure = match Bus::connect(deadline) {
            Ok(mut bus) => match attempt(&mut bus) {
                Ok(done) => return Ok(done),
                Err(failure) => failure,
            },
            Err(error) => Failure::Gone(error),
        };
        let source = match failure {
            Failure::Refused(name, text) => std::io::Error::other(format!("{name}: {text}")),
            Failure::Gone(_) if Instant::now() + PAUSE < deadline => {
                std::thread::sleep(PAUSE);
                continue;
            }
            Failure::Gone(error) => std::io::Error::other(format!(
                "no answer at {} within {} s ({error}): see whether systemctl works",
                bus::SOCKET,
                PATIENCE.as_secs()
            )),
        };
        return Err(Error::Os {
            op,
            target: unit.into(),
            source,
        });
    }
}
