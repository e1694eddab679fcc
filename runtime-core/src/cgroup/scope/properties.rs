//! Limits and device policy as properties of a unit (systemd.resource-control(5)). Pure.
//!
//! systemd writes a cgroup's files anew from its properties whenever it changes one of the same controller, so both have to
//! say the same. What it has no property for it leaves alone.

use std::collections::BTreeSet;

use super::super::limits::{DeviceRule, Limits};
use crate::systemd::{Property, Value};

/// systemd keeps a quota in whole percents of a CPU: so many microseconds a second.
const PERCENT: u64 = 10_000;
const SECOND: u64 = 1_000_000;
/// Most CPUs or memory nodes that a mask is made for (CONFIG_NR_CPUS is 8192 at most).
const MAX_BITS: usize = 1 << 16;

/// What of `limits` systemd has properties for, in order. A value that the kernel does not understand has none: the write of
/// the file says so.
pub(super) fn limits(limits: &Limits) -> Vec<Property> {
    limits
        .writes
        .iter()
        .flat_map(|write| properties(&write.file, write.value.trim()))
        .collect()
}

/// Those that only a unit's start takes.
pub(super) fn at_start(limits: &Limits) -> Vec<Property> {
    let group = limits
        .writes
        .iter()
        .rfind(|write| write.file == "memory.oom.group");
    let policy = match group.map(|write| write.value.trim()) {
        Some("1") => "kill",
        Some("0") => "continue",
        _ => return Vec::new(),
    };
    vec![Property {
        name: "OOMPolicy",
        value: Value::Text(policy.into()),
    }]
}

/// systemd's device program and ours both have to allow what is used, so systemd's is no narrower: it allows what any rule
/// of ours allows, and ours takes away from that.
pub(super) fn devices(rules: &[DeviceRule]) -> Vec<Property> {
    let mut allowed = BTreeSet::new();
    for rule in rules.iter().filter(|rule| rule.allow) {
        for (kind, name) in [('c', "char"), ('b', "block")] {
            if rule.kind != kind && rule.kind != 'a' {
                continue;
            }
            let device = match (rule.major, rule.minor) {
                (None, _) => format!("{name}-*"),
                (Some(major), None) => format!("{name}-{major}"),
                (Some(major), Some(minor)) => format!("/dev/{name}/{major}:{minor}"),
            };
            allowed.insert((device, rule.access.clone()));
        }
    }
    let list = |list| Property {
        name: "DeviceAllow",
        value: Value::Pairs(list),
    };
    vec![
        Property {
            name: "DevicePolicy",
            value: Value::Text("strict".into()),
        },
        // An empty list takes all away that were there.
        list(Vec::new()),
        list(allowed.into_iter().collect()),
    ]
}

/// `value` of cpu.max with the quota that systemd makes of it, rounded up to a percent of a CPU.
pub(in super::super) fn rounded(value: &str) -> String {
    match quota(value) {
        Some((Some(each_second), period)) => format!("{} {period}", each_second * period / SECOND),
        _ => value.into(),
    }
}

/// cpu.max: microseconds of CPU in each second, none for no limit, and the period in microseconds.
fn quota(value: &str) -> Option<(Option<u64>, u64)> {
    let mut words = value.split_ascii_whitespace();
    let (quota, period) = (words.next()?, words.next());
    let period: u64 = period.map_or(Some(100_000), |period| period.parse().ok())?;
    if quota == "max" {
        return Some((None, period));
    }
    let each_second = quota.parse::<u64>().ok()?.checked_mul(SECOND)? / period.max(1);
    Some((Some(each_second.next_multiple_of(PERCENT)), period))
}

fn properties(file: &str, value: &str) -> Vec<Property> {
    let one = |name, value: Option<Value>| match value {
        Some(value) => vec![Property { name, value }],
        None => Vec::new(),
    };
    let amount = |name| one(name, amount(value).map(Value::Number));
    match file {
        "memory.min" => amount("MemoryMin"),
        "memory.low" => amount("MemoryLow"),
        "memory.high" => amount("MemoryHigh"),
        "memory.max" => amount("MemoryMax"),
        "memory.swap.max" => amount("MemorySwapMax"),
        // systemd takes no 0.
        "pids.max" => one(
            "TasksMax",
            self::amount(value).map(|count| Value::Number(count.max(1))),
        ),
        "cpu.weight" => amount("CPUWeight"),
        // A weight of 0 is how systemd says it.
        "cpu.idle" if value == "1" => one("CPUWeight", Some(Value::Number(0))),
        "cpu.max" => match quota(value) {
            Some((each_second, period)) => {
                let each_second = Value::Number(each_second.unwrap_or(u64::MAX));
                [
                    one("CPUQuotaPeriodUSec", Some(Value::Number(period))),
                    one("CPUQuotaPerSecUSec", Some(each_second)),
                ]
                .concat()
            }
            None => Vec::new(),
        },
        "cpuset.cpus" => one("AllowedCPUs", mask(value).map(Value::Bytes)),
        "cpuset.mems" => one("AllowedMemoryNodes", mask(value).map(Value::Bytes)),
        "io.weight" => match value.split_once(' ') {
            None => amount("IOWeight"),
            Some(("default", weight)) => one("IOWeight", self::amount(weight).map(Value::Number)),
            Some((device, weight)) => one(
                "IODeviceWeight",
                self::amount(weight).map(|weight| on(device, weight)),
            ),
        },
        "io.max" => {
            let (device, rates) = value.split_once(' ').unwrap_or_default();
            let rate = |rate: &str| {
                let (key, value) = rate.split_once('=')?;
                let name = match key {
                    "rbps" => "IOReadBandwidthMax",
                    "wbps" => "IOWriteBandwidthMax",
                    "riops" => "IOReadIOPSMax",
                    "wiops" => "IOWriteIOPSMax",
                    _ => return None,
                };
                let value = on(device, self::amount(value)?);
                Some(Property { name, value })
            };
            rates.split_ascii_whitespace().filter_map(rate).collect()
        }
        _ => Vec::new(),
    }
}

/// A number for the block device `major:minor`.
fn on(device: &str, number: u64) -> Value {
    Value::Numbers(vec![(format!("/dev/block/{device}"), number)])
}

/// A number as the kernel takes it (memparse, lib/cmdline.c), `max` for none.
fn amount(value: &str) -> Option<u64> {
    if value == "max" {
        return Some(u64::MAX);
    }
    let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &*value[digits.len()..].to_ascii_uppercase() {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// The mask of a list like `0-3,8`, the lowest bit first.
fn mask(list: &str) -> Option<Vec<u8>> {
    let mut mask = Vec::new();
    for item in list.split(',') {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last >= MAX_BITS {
            return None;
        }
        mask.resize(mask.len().max(last / 8 + 1), 0);
        for bit in first..=last {
            *mask.get_mut(bit / 8)? |= 1 << (bit % 8);
        }
    }
    Some(mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(file: &str, value: &str) -> Vec<(&'static str, Value)> {
        let all = properties(file, value).into_iter();
        all.map(|property| (property.name, property.value))
            .collect()
    }

    #[test]
    fn files_have_their_properties() {
        let number = |name, number| vec![(name, Value::Number(number))];
        let device = |name, number| {
            vec![(
                name,
                Value::Numbers(vec![("/dev/block/8:16".into(), number)]),
            )]
        };
        for (file, value, expected) in [
            ("memory.max", "1048576", number("MemoryMax", 1 << 20)),
            ("memory.max", "max", number("MemoryMax", u64::MAX)),
            ("memory.high", "2M", number("MemoryHigh", 2 << 20)),
            ("memory.swap.max", "0", number("MemorySwapMax", 0)),
            ("memory.low", "4096", number("MemoryLow", 4096)),
            ("pids.max", "100", number("TasksMax", 100)),
            ("pids.max", "0", number("TasksMax", 1)),
            ("cpu.weight", "100", number("CPUWeight", 100)),
            ("cpu.idle", "1", number("CPUWeight", 0)),
            ("cpu.idle", "0", vec![]),
            ("io.weight", "default 50", number("IOWeight", 50)),
            ("io.weight", "8:16 70", device("IODeviceWeight", 70)),
            ("io.max", "8:16 rbps=9", device("IOReadBandwidthMax", 9)),
            (
                "io.max",
                "8:16 wiops=max",
                device("IOWriteIOPSMax", u64::MAX),
            ),
            (
                "cpuset.cpus",
                "0-1,8",
                vec![("AllowedCPUs", Value::Bytes(vec![3, 1]))],
            ),
            (
                "cpuset.mems",
                "0",
                vec![("AllowedMemoryNodes", Value::Bytes(vec![1]))],
            ),
            // The kernel says what is wrong with these, and there is no property of those.
            ("cpuset.cpus", "0-4000000000", vec![]),
            ("memory.max", "much", vec![]),
            ("hugetlb.2MB.max", "0", vec![]),
        ] {
            assert_eq!(of(file, value), expected, "{file} {value}");
        }
    }

    #[test]
    fn a_quota_is_what_systemd_makes_of_it() {
        let quota = |period, each_second| {
            vec![
                ("CPUQuotaPeriodUSec", Value::Number(period)),
                ("CPUQuotaPerSecUSec", Value::Number(each_second)),
            ]
        };
        assert_eq!(of("cpu.max", "150000 100000"), quota(100_000, 1_500_000));
        assert_eq!(rounded("150000 100000"), "150000 100000");
        // A third of a CPU is 34 percent.
        assert_eq!(of("cpu.max", "33333 100000"), quota(100_000, 340_000));
        assert_eq!(rounded("33333 100000"), "34000 100000");
        assert_eq!(of("cpu.max", "max 50000"), quota(50_000, u64::MAX));
        assert_eq!(rounded("max 50000"), "max 50000");
    }

    #[test]
    fn systemds_device_list_is_no_narrower_than_ours() {
        let properties = devices(&DeviceRule::defaults());
        assert_eq!(properties[0].value, Value::Text("strict".into()));
        assert_eq!(properties[1].value, Value::Pairs(Vec::new()));
        let Value::Pairs(allowed) = &properties[2].value else {
            panic!("{properties:?}");
        };
        for (device, access) in [
            ("char-*", "m"),
            ("block-*", "m"),
            ("char-136", "rwm"),
            ("/dev/char/1:3", "rwm"),
            ("/dev/char/10:229", "rwm"),
        ] {
            assert!(
                allowed.contains(&(device.into(), access.into())),
                "{device} {access}: {allowed:?}"
            );
        }
    }
}
