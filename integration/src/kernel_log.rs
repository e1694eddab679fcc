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

const UPPER_IN_USE: &str = "upperdir is in-use as upperdir/workdir of another mount";
/// What an engine draws that builds images, inside or outside: the layer of one step lies below the next while it is mounted still. A
/// runtime's layers below are finished ones.
const LOWER_IN_USE: &str = "lowerdir is in-use as upperdir/workdir of another mount";
const WORK_IN_USE: &str = "workdir is in-use as upperdir/workdir of another mount";

/// What is left of complaints without those that clients draw who mount a container's layers themselves, all of them, the work
/// directory too: nerdctl for `cp` and `commit`, containerd's clients to look up a user (`ctr task exec --user`), dockerd for a
/// second `cp` of a stopped container. The kernel complains of both directories then. Ours beside dockerd's has a work directory
/// of its own, so that it is complained of alone; two of ours are seen by `tests/containers`, where no client does this.
#[must_use]
pub fn but_of_clients(complaints: Vec<String>) -> Vec<String> {
    let of = |what: &str, line: &str| line.contains(what);
    let count = |what| complaints.iter().filter(|line| of(what, line)).count();
    let both = count(UPPER_IN_USE).min(count(WORK_IN_USE));
    let (mut upper, mut work) = (both, both);
    let mut excused = |line: &String| {
        let left = match line {
            line if of(UPPER_IN_USE, line) => &mut upper,
            line if of(WORK_IN_USE, line) => &mut work,
            line => return of(LOWER_IN_USE, line),
        };
        let one = *left > 0;
        *left = left.saturating_sub(1);
        one
    };
    complaints
        .into_iter()
        .filter(|line| !excused(line))
        .collect()
}

/// What the kernel says whatever the runtime does.
#[must_use]
pub fn is_nobodys(line: &str) -> bool {
    PROBING.contains(&line) || line.starts_with(STOLEN)
}

/// What the kernel said since `position` that no test may cause, one line each; that its log cannot be read is one, too.
#[must_use]
pub fn complaints_since(position: u64) -> Vec<String> {
    match warnings_since(position) {
        Ok(lines) => lines
            .into_iter()
            .filter(|line| !is_nobodys(line))
            .map(|line| format!("the kernel says: {line}"))
            .collect(),
        Err(error) => vec![format!("{error:#}")],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_use_alone_is_no_clients() {
        let lines = |all: &[&str]| -> Vec<String> {
            all.iter()
                .map(|line| format!("overlayfs: {line}"))
                .collect()
        };
        let clients = [
            UPPER_IN_USE,
            UPPER_IN_USE,
            LOWER_IN_USE,
            WORK_IN_USE,
            WORK_IN_USE,
        ];
        assert!(but_of_clients(lines(&clients)).is_empty());
        let ours = lines(&[UPPER_IN_USE, "other", UPPER_IN_USE, WORK_IN_USE]);
        assert_eq!(but_of_clients(ours), lines(&["other", UPPER_IN_USE]));
    }

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
