//! `blockIO`.

use oci_spec::runtime as oci;

use super::{Convert, bounded, name};
use crate::error::{Error, Result};

impl Convert {
    pub(super) fn block_io(&mut self, io: Option<&oci::LinuxBlockIo>) -> Result<()> {
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
