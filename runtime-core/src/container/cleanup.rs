//! What a dead shim left, undone by its record.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::poststop;
use crate::cgroup::{self, Cgroup, Hierarchy};
use crate::container::hung::{Victim, Watchdog};
use crate::container::record::Record;
use crate::error::{Error, Result, Warning};
use crate::pod::ranges;
use crate::rootfs::{data_roots, mounted};

/// Undoes what a dead shim left of the container whose bundle this is. Nothing to undo is success.
pub fn cleanup(bundle: &Path) -> Result<Vec<Warning>> {
    let Some(record) = Record::read(bundle)? else {
        return Ok(Vec::new());
    };
    let watchdog = record.ids.clone().map(|ids| {
        Watchdog::start(Victim {
            cgroup: record.cgroup.clone(),
            ids,
            features: record.features.clone(),
        })
    });
    let hierarchy = Hierarchy::find()?;
    let settle: fn(&str) = match Cgroup::open(&hierarchy, &record.cgroup) {
        Ok(cgroup) => {
            cgroup.kill()?;
            cgroup.remove()?;
            cgroup::end_unit
        }
        // A unit of that name which runs elsewhere is not the container's.
        Err(Error::NotFound(_)) => cgroup::forget_unit,
        Err(error) => return Err(error),
    };
    if let Some(unit) = &record.unit {
        settle(unit);
    }
    drop(watchdog);
    // What held its threads is dead.
    Cgroup::remove_beside(&hierarchy, &record.cgroup)?;
    if let Some(mounted) = &record.mounted {
        mounted::cleanup(mounted, &bundle.join("rootfs"), &record.features)?;
    }
    if let Some(upper) = &record.upper {
        data_roots::capture(upper, &record.data_roots, &AtomicBool::new(false))?;
    }
    ranges::reclaim_of(&record.state_dir, &record.cgroup)?;
    let warnings = poststop(&record, bundle);
    Record::remove(bundle)?;
    Ok(warnings)
}
