//! Running a named step: errors name it, it is timed, and a fault can be injected at it.

use std::cell::RefCell;
use std::convert::Infallible;
use std::time::Instant;

use super::times::{Millis, Times};
use crate::error::{Error, Result, StageFailure};
use crate::stage::Step;

/// Runs steps; `fail_at` is the one to fail at (tests only).
#[derive(Debug)]
pub(crate) struct Steps {
    fail_at: Option<Step>,
    start: Instant,
    times: RefCell<Times>,
    /// What other processes took for steps of theirs, meanwhile.
    others: RefCell<Vec<(&'static str, Times)>>,
}

impl Steps {
    /// Steps that fail at `fail_at`; without the feature `fault-injection` nothing is injected.
    pub(crate) fn new(fail_at: Option<Step>) -> Steps {
        Steps {
            fail_at: fail_at.filter(|_| cfg!(feature = "fault-injection")),
            start: Instant::now(),
            times: RefCell::default(),
            others: RefCell::default(),
        }
    }

    /// Runs `act` as `step` in a stage. With a fault injected the step is done first, then reported
    /// as failed: what it made has to be undone.
    pub(crate) fn run<T>(
        &self,
        step: Step,
        act: impl FnOnce() -> Result<T>,
    ) -> Result<T, StageFailure> {
        self.here(step, act).map_err(|error| match error {
            Error::Stage(failure) => failure,
            error => StageFailure {
                step: step.to_string(),
                chain: error.chain(),
                errno: error.errno(),
            },
        })
    }

    /// Runs the step that does not come back when it is done: a fault is injected in its stead.
    pub(crate) fn last(
        &self,
        step: Step,
        act: impl FnOnce() -> Result<Infallible>,
    ) -> Result<Infallible, StageFailure> {
        self.run(step, || Ok(()))?;
        self.run(step, act)
    }

    /// The same in the shim, where the error keeps its kind.
    pub(crate) fn here<T>(&self, step: Step, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let value = act();
        self.times.borrow_mut().add(step, start.elapsed());
        let value = value?;
        if self.fail_at == Some(step) {
            Err(injected(step))
        } else {
            Ok(value)
        }
    }

    /// The step to fail at, for a stage.
    pub(crate) fn fail_at(&self) -> Option<Step> {
        self.fail_at
    }

    /// What the steps took since the last asking, for who reads it in another process.
    pub(crate) fn take_times(&self) -> Times {
        self.times.take()
    }

    /// Notes what process `name` took for its steps.
    pub(crate) fn add(&self, name: &'static str, times: Times) {
        self.others.borrow_mut().push((name, times));
    }

    /// One line for the debug log: `create 9.8 ms: plan 0.4, cgroup 0.2; stage: rootfs 1.3; init: lock 0.8`. What is in no
    /// step is the wait for other processes.
    pub(crate) fn log(&self, verb: &str) {
        let mut text = self.times.borrow().to_string();
        for (name, times) in self.others.borrow().iter() {
            text.push_str(&format!("; {name}: {times}"));
        }
        tracing::debug!("{verb} {} ms: {text}", Millis(self.start.elapsed()));
    }
}

fn injected(step: Step) -> Error {
    Error::Os {
        op: "injected fault at",
        target: step.to_string(),
        source: std::io::Error::from_raw_os_error(libc::EIO),
    }
}
