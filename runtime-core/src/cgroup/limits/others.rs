//! `pids`, `hugepageLimits`, `rdma`, `network` and `unified`.

use std::collections::HashMap;

use oci_spec::runtime as oci;

use super::{Convert, bounded, max_or, name};
use crate::error::{Error, Result};

impl Convert {
    pub(super) fn pids(&mut self, pids: Option<&oci::LinuxPids>) {
        if let Some(pids) = pids {
            // 0 cannot mean "no process at all"; runc and crun, too, take it as no limit.
            let limit = if pids.limit() > 0 { pids.limit() } else { -1 };
            self.write("pids.max", max_or(limit), "pids.limit");
        }
    }

    pub(super) fn hugetlb(&mut self, limits: &[oci::LinuxHugepageLimit]) -> Result<()> {
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

    pub(super) fn rdma(&mut self, devices: Option<&HashMap<String, oci::LinuxRdma>>) -> Result<()> {
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

    pub(super) fn unified(&mut self, files: Option<&HashMap<String, String>>) -> Result<()> {
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

pub(super) fn network(network: Option<&oci::LinuxNetwork>) -> Result<()> {
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

/// Entries of a table in one order, whatever the map's.
fn sorted<V>(table: &HashMap<String, V>) -> Vec<(&String, &V)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    entries
}
