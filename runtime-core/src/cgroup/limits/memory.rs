//! `memory`.

use oci_spec::runtime as oci;

use super::{Convert, max_or, name};
use crate::error::{Error, Result};

impl Convert {
    pub(super) fn memory(&mut self, memory: Option<&oci::LinuxMemory>) -> Result<()> {
        let Some(memory) = memory else { return Ok(()) };
        // 0 is "not set" throughout, as Docker and the CRI send it.
        let limit = amount("memory.limit", memory.limit())?;
        let reservation = amount("memory.reservation", memory.reservation())?;
        let swap = amount("memory.swap", memory.swap())?;
        if memory.check_before_update() == Some(true) {
            return Err(Error::invalid(
                name("memory.checkBeforeUpdate"),
                true,
                "remove it, and lower the limit only when usage is below it: not supported",
            ));
        }
        for (field, given) in [
            ("memory.kernel", memory.kernel()),
            ("memory.kernelTCP", memory.kernel_tcp()),
        ] {
            if given.is_some_and(|bytes| bytes > 0) {
                self.ignored(
                    field,
                    "not applied: cgroup v2 counts kernel memory in memory.limit; remove it",
                );
            }
        }
        if memory.swappiness().is_some() {
            self.ignored(
                "memory.swappiness",
                "not applied: cgroup v2 has no swappiness of its own; remove it, or bound memory.swap",
            );
        }
        if memory.disable_oom_killer() == Some(true) {
            self.ignored(
                "memory.disableOOMKiller",
                "not applied: cgroup v2 cannot switch the OOM killer off; remove it",
            );
        }
        // Swap before memory: lowering memory first would push pages out to swap that is about to be forbidden.
        if let Some(swap) = swap_max(limit, swap)? {
            self.write("memory.swap.max", max_or(swap), "memory.swap");
        }
        if let Some(limit) = limit {
            self.write("memory.max", max_or(limit), "memory.limit");
        }
        if let Some(reservation) = reservation {
            self.write("memory.low", max_or(reservation), "memory.reservation");
        }
        Ok(())
    }
}

/// Bytes, -1 for no limit; 0 is the same as not given.
fn amount(field: &str, value: Option<i64>) -> Result<Option<i64>> {
    match value {
        None | Some(0) => Ok(None),
        Some(value) if value >= -1 => Ok(Some(value)),
        Some(value) => Err(Error::invalid(
            name(field),
            value,
            "give a number of bytes, or -1 for no limit",
        )),
    }
}

/// memory.swap.max: cgroup v2 counts swap alone, the spec memory and swap together.
fn swap_max(limit: Option<i64>, swap: Option<i64>) -> Result<Option<i64>> {
    let refuse = |swap: i64, remedy: String| Err(Error::invalid(name("memory.swap"), swap, remedy));
    match (limit, swap) {
        (Some(-1), None) | (_, Some(-1)) => Ok(Some(-1)),
        (_, None) => Ok(None),
        (None | Some(-1), Some(swap)) => refuse(
            swap,
            "give memory.limit as well: this is the limit of memory and swap together".into(),
        ),
        (Some(limit), Some(swap)) if swap < limit => refuse(
            swap,
            format!("give at least memory.limit ({limit}): this is memory and swap together"),
        ),
        (Some(limit), Some(swap)) => Ok(Some(swap - limit)),
    }
}
