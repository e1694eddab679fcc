//! How long each step took, for the debug log.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Step;

/// Durations of steps, in the order in which they were first done; one done again adds to its first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Times(Vec<(Step, Duration)>);

impl Times {
    /// Adds what `step` took.
    pub(crate) fn add(&mut self, step: Step, took: Duration) {
        match self.0.iter_mut().find(|(known, _)| *known == step) {
            Some((_, sum)) => *sum += took,
            None => self.0.push((step, took)),
        }
    }
}

/// Milliseconds with two digits after the point, as in `plan 0.40, cgroup 0.24`.
impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (step, took)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{step} {}", Millis(*took))?;
        }
        Ok(())
    }
}

/// A duration in milliseconds with two digits after the point.
pub(crate) struct Millis(pub(crate) Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2}", self.0.as_secs_f64() * 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_done_twice_is_one_sum() {
        let mut times = Times::default();
        times.add(Step::Record, Duration::from_micros(1200));
        times.add(Step::Cgroup, Duration::from_micros(240));
        times.add(Step::Record, Duration::from_micros(1000));
        assert_eq!(times.to_string(), "record 2.20, cgroup 0.24");
    }
}
