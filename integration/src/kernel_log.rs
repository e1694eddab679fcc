//! What the kernel complained about while tests ran (Documentation/ABI/testing/dev-kmsg).

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result};
use nix::fcntl::OFlag;

/// The least urgent level that counts: warnings (syslog(2), levels).
const WARNING: u32 = 4;

/// The number of the last record so far.
///
/// # Errors
/// If the log cannot be read.
pub fn position() -> Result<u64> {
    Ok(records()?.last().map_or(0, |record| record.number))
}

/// Warnings and worse that came after `position`.
///
/// # Errors
/// If the log cannot be read.
pub fn warnings_since(position: u64) -> Result<Vec<String>> {
    let later = records()?
        .into_iter()
        .filter(|record| record.number > position && record.level <= WARNING);
    Ok(later.map(|record| record.text).collect())
}

struct Record {
    level: u32,
    number: u64,
    text: String,
}

fn records() -> Result<Vec<Record>> {
    let mut log = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open("/dev/kmsg")
        .context("open /dev/kmsg")?;
    let mut records = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        match log.read(&mut buffer) {
            Ok(length) => records.extend(parse(&String::from_utf8_lossy(
                buffer.get(..length).unwrap_or_default(),
            ))),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(records),
            // The record that was next is overwritten; reading goes on behind it.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            Err(error) => return Err(error).context("read /dev/kmsg"),
        }
    }
}

/// `PREFIX,NUMBER,TIME,FLAGS;TEXT`, the prefix being facility and level; lines after the first are its dictionary.
fn parse(record: &str) -> Option<Record> {
    let (head, text) = record.split_once(';')?;
    let mut head = head.split(',');
    let level = head.next()?.parse::<u32>().ok()? & 7;
    let number = head.next()?.parse().ok()?;
    Some(Record {
        level,
        number,
        text: text.lines().next()?.to_owned(),
    })
}

/// What an inner dockerd draws from the kernel when it tries whether overlay needs `userxattr` here, as it does in every
/// user namespace (moby, daemon/graphdriver/overlayutils/userxattr.go). No mount of ours says it: `run_true` alone is silent.
const PROBING: [&str; 3] = [
    "overlayfs: failed to set xattr on upper",
    "overlayfs: ...falling back to redirect_dir=nofollow.",
    "overlayfs: ...falling back to uuid=null.",
];

/// What a virtual machine draws whose host did not run it for a while (kernel/time/hrtimer.c).
const STOLEN: &str = "hrtimer: interrupt took ";

/// A client that mounts the layers of a stopped container for `cp` and `commit`, as nerdctl does. Under runc, whose root
/// file system is mounted until the container is deleted, the kernel says this each time; under ours if the dead
/// container's mounts are not gone yet. ctr's `task exec --user` looks the user up in such a mount over a running container's
/// layers.
#[must_use]
pub fn is_of_stopped_layers(line: &str) -> bool {
    line.contains("is in-use as upperdir/workdir of another mount")
}

/// What the kernel said since `position` that no test may cause, one line each; that its log cannot be read is one, too.
#[must_use]
pub fn complaints_since(position: u64) -> Vec<String> {
    match warnings_since(position) {
        Ok(lines) => lines
            .into_iter()
            .filter(|line| !PROBING.contains(&line.as_str()) && !line.starts_with(STOLEN))
            .map(|line| format!("the kernel says: {line}"))
            .collect(),
        Err(error) => vec![format!("{error:#}")],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_level_number_and_text() {
        let record =
            parse("28,339,5140900,-;overlay: trouble\n SUBSYSTEM=acpi\n").expect("a record");
        assert_eq!(
            (record.level, record.number, record.text.as_str()),
            (4, 339, "overlay: trouble")
        );
        assert!(parse(" SUBSYSTEM=acpi").is_none());
    }
}
