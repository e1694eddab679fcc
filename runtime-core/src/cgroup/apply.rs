//! Limits onto the container's directory.

use rustix::io::Errno;

use super::limits::{Limits, Write};
use super::scope::rounded;
use super::{Cgroup, file, hierarchy};
use crate::error::{Error, OsContext, Result, Warning};
use std::os::fd::AsFd;

impl Cgroup {
    /// Does the writes of `limits` in order, at create and at update. The device policy is [`Cgroup::set_devices`]'s.
    ///
    /// A limit whose controller or file this host does not offer is not done, with a warning: the container runs without
    /// it. A value that the kernel refuses is an error.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the field and the value that the kernel refused; writes before it stay done.
    pub fn apply(&self, limits: &Limits) -> Result<Vec<Warning>> {
        let mut warnings = Vec::new();
        if limits.writes.is_empty() {
            return Ok(warnings);
        }
        let enabled = hierarchy::words(self.dir.as_fd(), "cgroup.controllers")
            .os("read", self.path.join("cgroup.controllers").display())?;
        for write in &limits.writes {
            if !write.controller.is_empty() && !enabled.contains(&write.controller) {
                warnings.push(not_done(write, &self.why_disabled(&write.controller)));
                continue;
            }
            if write.file.contains('/') {
                return Err(Error::invalid(
                    &write.field,
                    &write.file,
                    "name a file of the cgroup",
                ));
            }
            let value = match self.unit {
                Some(_) if write.file == "cpu.max" => rounded(&write.value),
                _ => write.value.clone(),
            };
            match file::write(self.dir.as_fd(), &write.file, &value) {
                Ok(()) => {}
                Err(Errno::NOENT) => {
                    warnings.push(not_done(
                        write,
                        &format!("this kernel offers no {}", write.file),
                    ));
                }
                Err(error @ (Errno::INVAL | Errno::RANGE | Errno::NODEV | Errno::OVERFLOW)) => {
                    return Err(refused(write, error));
                }
                Err(error) => {
                    return Err(error).os(
                        "write",
                        format!(
                            "{} {:?} ({})",
                            self.path.join(&write.file).display(),
                            write.value,
                            write.field
                        ),
                    );
                }
            }
        }
        Ok(warnings)
    }

    /// Why `controller` is not enabled for the container.
    fn why_disabled(&self, controller: &str) -> String {
        if let Some(refusal) = self.refused.iter().find(|r| r.controller == controller) {
            return format!(
                "an ancestor does not enable the controller: {}",
                refusal.reason
            );
        }
        let file = self.root.join("cgroup.controllers");
        let host = std::fs::read_to_string(&file).unwrap_or_default();
        if host.split_ascii_whitespace().any(|name| name == controller) {
            "an ancestor does not enable the controller in its cgroup.subtree_control".into()
        } else {
            format!(
                "{} does not list the controller: the kernel lacks it, or a cgroup v1 mount holds it",
                file.display()
            )
        }
    }
}

fn not_done(write: &Write, why: &str) -> Warning {
    Warning::new(
        &write.field,
        format!("{} {:?} is not done: {why}", write.file, write.value),
    )
}

fn refused(write: &Write, error: Errno) -> Error {
    let error = std::io::Error::from(error);
    Error::invalid(
        &write.field,
        &write.value,
        format!("the kernel refuses it for {}: {error}", write.file),
    )
}
