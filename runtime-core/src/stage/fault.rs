//! Where to fail on purpose, for tests of what is left behind.

use crate::config::Config;
use crate::stage::Step;

/// The step named in `<state dir>/fail-at`, in builds with the feature `fault-injection`.
#[cfg(feature = "fault-injection")]
pub(crate) fn step(config: &Config) -> Option<Step> {
    let path = std::path::Path::new(&config.state_dir).join("fail-at");
    let name = std::fs::read_to_string(path).ok()?;
    Step::ALL
        .iter()
        .copied()
        .find(|step| step.name() == name.trim())
}

/// Nothing fails on purpose.
#[cfg(not(feature = "fault-injection"))]
pub(crate) fn step(_: &Config) -> Option<Step> {
    None
}
