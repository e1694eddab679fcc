//! Running a named step: errors name it, and a fault can be injected at it.

use std::convert::Infallible;

use crate::error::{Error, Result, StageFailure};
use crate::stage::Step;

/// Runs steps; `fail_at` is the one to fail at (tests only).
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Steps {
    fail_at: Option<Step>,
}

impl Steps {
    /// Steps that fail at `fail_at`; without the feature `fault-injection` nothing is injected.
    pub(crate) fn new(fail_at: Option<Step>) -> Steps {
        Steps {
            fail_at: fail_at.filter(|_| cfg!(feature = "fault-injection")),
        }
    }

    /// Runs `act` as `step` in a stage. With a fault injected the step is done first, then reported
    /// as failed: what it made has to be undone.
    pub(crate) fn run<T>(
        self,
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
        self,
        step: Step,
        act: impl FnOnce() -> Result<Infallible>,
    ) -> Result<Infallible, StageFailure> {
        self.run(step, || Ok(()))?;
        self.run(step, act)
    }

    /// The same in the shim, where the error keeps its kind.
    pub(crate) fn here<T>(self, step: Step, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let value = act()?;
        if self.fail_at == Some(step) {
            Err(injected(step))
        } else {
            Ok(value)
        }
    }

    /// The step to fail at, for a stage.
    pub(crate) fn fail_at(self) -> Option<Step> {
        self.fail_at
    }
}

fn injected(step: Step) -> Error {
    Error::Os {
        op: "injected fault at",
        target: step.to_string(),
        source: std::io::Error::from_raw_os_error(libc::EIO),
    }
}
