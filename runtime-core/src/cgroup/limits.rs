//! `linux.resources` as writes to cgroup v2 files. Pure.
//!
//! The runtime spec speaks of cgroup v1; the conversions are those of runc and crun, so that a limit means the same under
//! every runtime (Documentation/admin-guide/cgroup-v2.rst).

use oci_spec::runtime as oci;
use serde::{Deserialize, Serialize};

use super::device_rules;
use crate::error::{Error, Result, Warning};

pub use super::device_rules::DeviceRule;

/// Limits of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Writes in order.
    pub writes: Vec<Write>,
    /// Device policy of `linux.resources.devices` and the default list.
    pub devices: Vec<DeviceRule>,
}

/// One write to a file of the container's cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// Controller that must be enabled (`memory`), empty for core files.
    pub controller: String,
    /// File (`memory.max`).
    pub file: String,
    /// Data.
    pub value: String,
    /// Spec field it comes from (`linux.resources.memory.limit`), for errors and warnings.
    pub field: String,
}

impl Limits {
    /// Checks and converts `linux.resources`; none given: no limits, and the default device policy.
    ///
    /// For an update the device policy is the whole new one only where `resources.devices` is given.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a value that the kernel would refuse or that cgroup v2 has no means for.
    pub fn new(resources: Option<&oci::LinuxResources>) -> Result<(Limits, Vec<Warning>)> {
        let mut convert = Convert::default();
        let mut devices = None;
        if let Some(given) = resources {
            devices = given.devices().as_deref();
            convert.pids(given.pids().as_ref());
            convert.memory(given.memory().as_ref())?;
            convert.block_io(given.block_io().as_ref())?;
            convert.cpu(given.cpu().as_ref())?;
            convert.hugetlb(given.hugepage_limits().as_deref().unwrap_or_default())?;
            convert.rdma(given.rdma().as_ref())?;
            network(given.network().as_ref())?;
            // Last: what is asked by the file's own name wins.
            convert.unified(given.unified().as_ref())?;
        }
        let limits = Limits {
            writes: convert.writes,
            devices: device_rules::device_rules(devices.unwrap_or_default())?,
        };
        Ok((limits, convert.warnings))
    }
}

/// Most entries of one list or table of `linux.resources`.
const MAX_ENTRIES: usize = 4096;

#[derive(Default)]
struct Convert {
    writes: Vec<Write>,
    warnings: Vec<Warning>,
}

impl Convert {
    /// A write to `file`, whose controller is the part before the first dot, from `linux.resources.{field}`.
    fn write(&mut self, file: impl Into<String>, value: impl ToString, field: &str) {
        let file = file.into();
        self.writes.push(Write {
            controller: file.split('.').next().unwrap_or_default().to_string(),
            file,
            value: value.to_string(),
            field: name(field),
        });
    }

    fn ignored(&mut self, field: &str, why: &str) {
        self.warnings.push(Warning::new(name(field), why));
    }

    fn pids(&mut self, pids: Option<&oci::LinuxPids>) {
        if let Some(pids) = pids {
            // 0 cannot mean "no process at all"; runc and crun, too, take it as no limit.
            let limit = if pids.limit() > 0 { pids.limit() } else { -1 };
            self.write("pids.max", max_or(limit), "pids.limit");
        }
    }

    fn memory(&mut self, memory: Option<&oci::LinuxMemory>) -> Result<()> {
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

    fn block_io(&mut self, io: Option<&oci::LinuxBlockIo>) -> Result<()> {
        let Some(io) = io else { return Ok(()) };
        if io.leaf_weight().is_some_and(|weight| weight > 0) {
            return Err(Error::invalid(
                name("blockIO.leafWeight"),
                io.leaf_weight().unwrap_or_default(),
                "remove it: cgroup v2 has no leaf weights",
            ));
        }
        if let Some(weight) = io.weight().filter(|weight| *weight > 0) {
            let weight = io_weight("blockIO.weight", weight)?;
            self.write("io.weight", format!("default {weight}"), "blockIO.weight");
        }
        let devices = io.weight_device().as_deref().unwrap_or_default();
        bounded("blockIO.weightDevice", devices.len())?;
        for (i, device) in devices.iter().enumerate() {
            let field = format!("blockIO.weightDevice[{i}]");
            if device.leaf_weight().is_some_and(|weight| weight > 0) {
                return Err(Error::invalid(
                    name(&format!("{field}.leafWeight")),
                    device.leaf_weight().unwrap_or_default(),
                    "remove it: cgroup v2 has no leaf weights",
                ));
            }
            let number = device_number(&field, device.major(), device.minor())?;
            if let Some(weight) = device.weight().filter(|weight| *weight > 0) {
                let weight = io_weight(&format!("{field}.weight"), weight)?;
                self.write("io.weight", format!("{number} {weight}"), &field);
            }
        }
        for (list, key, field) in [
            (
                io.throttle_read_bps_device(),
                "rbps",
                "throttleReadBpsDevice",
            ),
            (
                io.throttle_write_bps_device(),
                "wbps",
                "throttleWriteBpsDevice",
            ),
            (
                io.throttle_read_iops_device(),
                "riops",
                "throttleReadIOPSDevice",
            ),
            (
                io.throttle_write_iops_device(),
                "wiops",
                "throttleWriteIOPSDevice",
            ),
        ] {
            let list = list.as_deref().unwrap_or_default();
            bounded(&format!("blockIO.{field}"), list.len())?;
            for (i, device) in list.iter().enumerate() {
                let field = format!("blockIO.{field}[{i}]");
                let number = device_number(&field, device.major(), device.minor())?;
                // 0 lifts the limit in cgroup v1; the kernel refuses it in io.max.
                let rate = match device.rate() {
                    0 => "max".to_string(),
                    rate => rate.to_string(),
                };
                self.write("io.max", format!("{number} {key}={rate}"), &field);
            }
        }
        Ok(())
    }

    fn cpu(&mut self, cpu: Option<&oci::LinuxCpu>) -> Result<()> {
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

    fn hugetlb(&mut self, limits: &[oci::LinuxHugepageLimit]) -> Result<()> {
        bounded("hugepageLimits", limits.len())?;
        for (i, limit) in limits.iter().enumerate() {
            let size = limit.page_size();
            let number = ["KB", "MB", "GB"]
                .iter()
                .find_map(|unit| size.strip_suffix(unit));
            let sound = number.is_some_and(|n| {
                !n.is_empty() && n.len() <= 10 && n.bytes().all(|b| b.is_ascii_digit())
            });
            if !sound {
                return Err(Error::invalid(
                    name(&format!("hugepageLimits[{i}].pageSize")),
                    size.escape_debug(),
                    "write it as the kernel does, 64KB, 2MB or 1GB",
                ));
            }
            if limit.limit() < -1 {
                return Err(Error::invalid(
                    name(&format!("hugepageLimits[{i}].limit")),
                    limit.limit(),
                    "give a number of bytes, or -1 for no limit",
                ));
            }
            let field = format!("hugepageLimits[{i}]");
            // Both what is used and what is reserved by mmap(2), as runc does.
            for file in ["max", "rsvd.max"] {
                self.write(
                    format!("hugetlb.{size}.{file}"),
                    max_or(limit.limit()),
                    &field,
                );
            }
        }
        Ok(())
    }

    fn rdma(
        &mut self,
        devices: Option<&std::collections::HashMap<String, oci::LinuxRdma>>,
    ) -> Result<()> {
        let Some(devices) = devices else {
            return Ok(());
        };
        bounded("rdma", devices.len())?;
        for (device, limit) in sorted(devices) {
            let sound = !device.is_empty()
                && device.len() <= 64
                && device
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
            if !sound {
                return Err(Error::invalid(
                    name("rdma"),
                    device.escape_debug(),
                    "name the device as in /sys/class/infiniband",
                ));
            }
            let part = |key: &str, value: Option<u32>| value.map(|v| format!(" {key}={v}"));
            let parts: String = [
                part("hca_handle", limit.hca_handles()),
                part("hca_object", limit.hca_objects()),
            ]
            .into_iter()
            .flatten()
            .collect();
            if !parts.is_empty() {
                self.write(
                    "rdma.max",
                    format!("{device}{parts}"),
                    &format!("rdma.{device}"),
                );
            }
        }
        Ok(())
    }

    fn unified(&mut self, files: Option<&std::collections::HashMap<String, String>>) -> Result<()> {
        let Some(files) = files else { return Ok(()) };
        bounded("unified", files.len())?;
        for (file, value) in sorted(files) {
            let refuse = |remedy: &str| {
                Err(Error::invalid(
                    name("unified"),
                    format!("{}={}", file.escape_debug(), value.escape_debug()),
                    remedy,
                ))
            };
            let controller = file.split('.').next().unwrap_or_default();
            let characters = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'.';
            if controller == "cgroup" {
                return refuse(
                    "remove it: core files are the runtime's; [cgroup] of its configuration caps descendants and depth",
                );
            }
            if !CONTROLLERS.contains(&controller)
                || file.len() <= controller.len() + 1
                || file.len() > 255
                || !file.bytes().all(characters)
            {
                return refuse("name a file of a controller, such as memory.high");
            }
            if value.len() > 4096 || value.contains(|c: char| c.is_control() && c != '\n') {
                return refuse("give at most 4096 bytes of text");
            }
            // Each line is a write of its own: io.max and its like take one device at a time.
            for line in value.split('\n').filter(|line| !line.is_empty()) {
                self.write(file, line, &format!("unified.{file}"));
            }
        }
        Ok(())
    }
}

/// Controllers of cgroup v2 (cgroup-v2.rst).
const CONTROLLERS: [&str; 9] = [
    "cpu", "cpuset", "dmem", "hugetlb", "io", "memory", "misc", "pids", "rdma",
];

fn network(network: Option<&oci::LinuxNetwork>) -> Result<()> {
    let Some(network) = network else {
        return Ok(());
    };
    if let Some(class) = network.class_id().filter(|class| *class != 0) {
        return Err(Error::invalid(
            name("network.classID"),
            class,
            "remove it: cgroup v2 has no net_cls; match the cgroup by nft or tc instead",
        ));
    }
    let priorities = network.priorities().as_deref().unwrap_or_default();
    if let Some(priority) = priorities.first() {
        return Err(Error::invalid(
            name("network.priorities"),
            format!("{}={}", priority.name(), priority.priority()),
            "remove it: cgroup v2 has no net_prio; match the cgroup by nft or tc instead",
        ));
    }
    Ok(())
}

/// Full name of a field of `linux.resources`.
fn name(field: &str) -> String {
    format!("linux.resources.{field}")
}

fn bounded(field: &str, len: usize) -> Result<()> {
    if len > MAX_ENTRIES {
        return Err(Error::invalid(
            name(field),
            format!("{len} entries"),
            format!("give at most {MAX_ENTRIES} entries"),
        ));
    }
    Ok(())
}

/// Entries of a table in one order, whatever the map's.
fn sorted<V>(table: &std::collections::HashMap<String, V>) -> Vec<(&String, &V)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    entries
}

fn max_or(value: i64) -> String {
    match value {
        -1 => "max".into(),
        _ => value.to_string(),
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

/// io.weight (1 to 10000) of blkio.weight (10 to 1000), linear as in runc.
fn io_weight(field: &str, weight: u16) -> Result<u64> {
    if !(10..=1000).contains(&weight) {
        return Err(Error::invalid(name(field), weight, "give 10 to 1000"));
    }
    Ok(1 + (u64::from(weight) - 10) * 9999 / 990)
}

/// `major:minor`, inside the kernel's dev_t (linux/kdev_t.h).
fn device_number(field: &str, major: i64, minor: i64) -> Result<String> {
    for (part, value, bits) in [("major", major, 12), ("minor", minor, 20)] {
        if value < 0 || value >> bits != 0 {
            return Err(Error::invalid(
                name(&format!("{field}.{part}")),
                value,
                format!("give 0 to {}", (1_u32 << bits) - 1),
            ));
        }
    }
    Ok(format!("{major}:{minor}"))
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
