//! `cpu`: weight, bandwidth and cpusets.

use oci_spec::runtime as oci;

use super::{Convert, max_or, name};
use crate::error::{Error, Result};

impl Convert {
    pub(super) fn cpu(&mut self, cpu: Option<&oci::LinuxCpu>) -> Result<()> {
        let Some(cpu) = cpu else { return Ok(()) };
        for (field, given) in [
            (
                "cpu.realtimeRuntime",
                cpu.realtime_runtime().unwrap_or(0) != 0,
            ),
            (
                "cpu.realtimePeriod",
                cpu.realtime_period().unwrap_or(0) != 0,
            ),
        ] {
            if given {
                return Err(Error::invalid(
                    name(field),
                    "given",
                    "remove it: cgroup v2 has no realtime scheduling of groups",
                ));
            }
        }
        match cpu.idle() {
            None => {}
            Some(idle @ (0 | 1)) => self.write("cpu.idle", idle, "cpu.idle"),
            Some(idle) => return Err(Error::invalid(name("cpu.idle"), idle, "give 0 or 1")),
        }
        // The kernel refuses a weight for a group that is idle (cpu.idle in cgroup-v2.rst).
        if let Some(shares) = cpu.shares().filter(|s| *s > 0 && cpu.idle() != Some(1)) {
            self.write("cpu.weight", cpu_weight(shares), "cpu.shares");
        }
        self.cpu_max(cpu)?;
        for (file, field, list) in [
            ("cpuset.cpus", "cpu.cpus", cpu.cpus()),
            ("cpuset.mems", "cpu.mems", cpu.mems()),
        ] {
            if let Some(list) = list.as_deref().filter(|list| !list.is_empty()) {
                cpu_list(field, list)?;
                self.write(file, list, field);
            }
        }
        Ok(())
    }

    /// `quota`, `period` and `burst`; bounds of kernel/sched/core.c (tg_set_cfs_bandwidth).
    fn cpu_max(&mut self, cpu: &oci::LinuxCpu) -> Result<()> {
        let quota = cpu.quota().unwrap_or(0);
        let period = cpu.period().unwrap_or(0);
        if quota > 0 && quota < 1000 {
            return Err(Error::invalid(
                name("cpu.quota"),
                quota,
                "give at least 1000 (microseconds), or -1 for no limit",
            ));
        }
        if period != 0 && !(1000..=1_000_000).contains(&period) {
            return Err(Error::invalid(
                name("cpu.period"),
                period,
                "give 1000 to 1000000 (microseconds)",
            ));
        }
        if quota != 0 || period != 0 {
            let quota_text = max_or(if quota > 0 { quota } else { -1 });
            let period = if period == 0 { 100_000 } else { period };
            let field = if quota != 0 {
                "cpu.quota"
            } else {
                "cpu.period"
            };
            self.write("cpu.max", format!("{quota_text} {period}"), field);
        }
        if let Some(burst) = cpu.burst().filter(|burst| *burst > 0) {
            if u64::try_from(quota).unwrap_or(0) < burst {
                return Err(Error::invalid(
                    name("cpu.burst"),
                    burst,
                    format!("give at most cpu.quota ({quota})"),
                ));
            }
            self.write("cpu.max.burst", burst, "cpu.burst");
        }
        Ok(())
    }
}

/// cpu.weight (1 to 10000) of cpu.shares (2 to 262144), so that smallest, default and largest meet: the curve that runc
/// 1.3.2 and crun 1.23 use (kubernetes/kubernetes#131216).
fn cpu_weight(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    let l = (shares as f64).log2();
    let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
    10_f64.powf(exponent).ceil() as u64
}

/// The list format of cpuset(7), `0-3,8`.
fn cpu_list(field: &str, list: &str) -> Result<()> {
    let number = |text: &str| {
        text.bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| text.parse::<u32>().ok())
            .flatten()
    };
    let sound = list.len() <= 4096
        && list.split(',').all(|item| match item.split_once('-') {
            Some((first, last)) => match (number(first), number(last)) {
                (Some(first), Some(last)) => first <= last,
                _ => false,
            },
            None => number(item).is_some(),
        });
    if !sound {
        return Err(Error::invalid(
            name(field),
            list.escape_debug(),
            "write it as 0-3,8",
        ));
    }
    Ok(())
}
