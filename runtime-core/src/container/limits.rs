//! Limits of a process that only the host's root may set, from outside.

use crate::error::{OsContext, Result, Warning};
use crate::plan::Process;
use crate::sys;

const REMEDY: &str = "give the engine CAP_SYS_RESOURCE";

/// Sets rlimits and `oom_score_adj` of process `pid`, a child of ours. What we may not is a warning.
pub(crate) fn apply(pid: i32, process: &Process) -> Result<Vec<Warning>> {
    let mut warnings = Vec::new();
    for limit in &process.rlimits {
        let value = format!("{}:{}", limit.soft, limit.hard);
        match sys::process::set_rlimit(pid, limit.resource, limit.soft, limit.hard) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                let field = format!("process.rlimits resource {}", limit.resource);
                warnings.push(Warning::new(
                    field,
                    format!("{value} not set: {error}; {REMEDY}"),
                ));
            }
            set => set.os("prlimit", format!("resource {} {value}", limit.resource))?,
        }
    }
    if let Some(score) = process.oom_score_adj
        && let Err(error) = std::fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string())
    {
        warnings.push(Warning::new(
            "process.oomScoreAdj",
            format!("{score} not set: {error}; {REMEDY}"),
        ));
    }
    Ok(warnings)
}
