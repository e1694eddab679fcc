//! The probe's hostile FUSE in a node's container: waiting until it is there, and ending it where a test did not.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::node::Node;
use crate::process;

/// Longer than any of it takes on a busy machine.
const BOUND: Duration = Duration::from_secs(20);

/// The hostile FUSE connections of a node. At a case's end they are aborted: nothing else would end what waits in them,
/// nor the node.
#[derive(Debug)]
pub struct Rescue<'a> {
    node: &'a Node,
    devices: RefCell<BTreeSet<u32>>,
}

impl<'a> Rescue<'a> {
    fn new(node: &'a Node) -> Self {
        let devices = RefCell::default();
        Self { node, devices }
    }

    /// Notes what threads of the node see mounted now.
    fn note(&self) -> Result<()> {
        // The first thread may have ended; and a cgroup's directory may be what is held.
        let script = format!(
            "for cgroup in $(grep -ls '{}/' /proc/[0-9]*/cgroup); do
               cat ${{cgroup%cgroup}}task/*/mountinfo
             done 2>/dev/null; true",
            self.node.name()
        );
        let mut command = Command::new("/bin/sh");
        let mounts = process::run(command.args(["-c", &script]), b"", BOUND)?.ok()?;
        self.devices
            .borrow_mut()
            .extend(mounts.stdout.lines().filter_map(hostile_device));
        Ok(())
    }
}

/// Minor number of the device in a line of mountinfo.
fn hostile_device(line: &str) -> Option<u32> {
    line.contains(" - fuse hostile ")
        .then(|| line.split(' ').nth(2)?.strip_prefix("0:")?.parse().ok())?
}

impl Drop for Rescue<'_> {
    fn drop(&mut self) {
        let devices = self.devices.borrow();
        let words: Vec<_> = devices.iter().map(u32::to_string).collect();
        let script = format!(
            "mount -t fusectl fusectl /sys/fs/fuse/connections
             for n in {}; do echo 1 >/sys/fs/fuse/connections/$n/abort; done",
            words.join(" ")
        );
        let mut command = Command::new("unshare");
        // A case that failed says why itself.
        let _ = process::run(
            command.args(["--mount", "/bin/sh", "-c", &script]),
            b"",
            BOUND,
        );
    }
}

/// Waits for the probe's process `name` (`ready`, `held`) beside `init`, a process of the node.
///
/// # Errors
/// If there is none in time.
pub fn meet<'a>(node: &'a Node, init: u32, name: &str) -> Result<Rescue<'a>> {
    let script = format!(
        "i=0; until grep -qx {name} $(ls /proc/{init}/root/proc/[0-9]*/comm | grep -v /proc/1/comm); do
           sleep 0.05; i=$((i + 1)); [ $i -lt 200 ]; done"
    );
    let rescue = Rescue::new(node);
    let met = node.shell(&script)?;
    rescue.note()?;
    met.ok()?;
    Ok(rescue)
}
