//! Tries what container root must not be able to do to the host. Nothing here damages a host that lets it pass, beyond
//! what the attempt itself says: values written are the ones already there, or refused by the kernel's own checks.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde_json::{Value, json};

/// `{attempt: outcome}`; an outcome is `ok` or the name of the error. `disk` is the host's root device, `MAJOR:MINOR`.
pub(crate) fn all(disk: &str) -> Result<Value> {
    let (major, minor) = disk.split_once(':').context("the disk is MAJOR:MINOR")?;
    let disk = makedev(major.parse()?, minor.parse()?);
    let mut rows = serde_json::Map::new();
    let mut row = |attempt: String, outcome: String| drop(rows.insert(attempt, json!(outcome)));
    let dir = Path::new("/dev/shm/probe");
    fs::create_dir_all(dir).context("create a directory to work in")?;

    for (name, kind, device) in [
        ("the host's disk", SFlag::S_IFBLK, disk),
        ("mem", SFlag::S_IFCHR, makedev(1, 1)),
        ("kmsg", SFlag::S_IFCHR, makedev(1, 11)),
        ("loop-control", SFlag::S_IFCHR, makedev(10, 237)),
    ] {
        let node = dir.join("node");
        row(
            format!("mknod {name}"),
            outcome(mknod(&node, kind, Mode::S_IRWXU, device)),
        );
        if node.exists() {
            row(format!("open {name}"), outcome(File::open(&node).map(drop)));
            row(format!("mount {name}"), mounted(node.to_str(), dir, "ext4"));
            fs::remove_file(&node).context("remove the node")?;
        }
    }
    for kind in [
        "debugfs",
        "tracefs",
        "securityfs",
        "configfs",
        "pstore",
        "efivarfs",
        "fusectl",
        "devtmpfs",
        "hugetlbfs",
        "selinuxfs",
        "cgroup",
    ] {
        row(format!("mount -t {kind}"), mounted(Some("none"), dir, kind));
    }
    for path in [
        "/proc/kcore",
        "/proc/kmsg",
        "/proc/timer_list",
        "/proc/kpagecount",
        "/proc/kpageflags",
        "/proc/kpagecgroup",
        "/proc/vmallocinfo",
        "/proc/slabinfo",
        "/proc/1/mem",
    ] {
        row(format!("read {path}"), first_byte(path));
    }
    row("see a key of others".to_owned(), key_of_others());
    row(
        "set the clock".to_owned(),
        outcome(
            nix::time::ClockId::CLOCK_REALTIME
                .now()
                .and_then(|now| nix::time::clock_settime(nix::time::ClockId::CLOCK_REALTIME, now)),
        ),
    );
    row(
        "disable ctrl-alt-del".to_owned(),
        outcome(nix::sys::reboot::set_cad_enabled(true)),
    );
    row(
        "load a module".to_owned(),
        outcome(nix::kmod::init_module(b"", c"")),
    );
    row(
        "account processes".to_owned(),
        outcome(nix::unistd::acct::disable()),
    );
    fs::remove_dir_all(dir).context("remove the directory")?;
    Ok(Value::Object(rows))
}

/// `ok` where /proc/keys lists a key of an id that is not of this user namespace (proc_keys(5): the sixth column). Those of the
/// container's own, its session keyring above all, are its to see.
fn key_of_others() -> String {
    const NOBODY: &str = "65534";
    let listed = fs::read_to_string("/proc/keys").unwrap_or_default();
    let of_others = listed
        .lines()
        .filter_map(|line| line.split_whitespace().nth(5))
        .any(|uid| uid == NOBODY || uid == "-1");
    outcome(if of_others {
        Ok(())
    } else {
        Err(Errno::ENOKEY)
    })
}

/// Every file below `top` that opens for writing; nothing is written. Directories in `skip` are left out, links not followed.
pub(crate) fn writable(top: &str, skip: &[&str]) -> Value {
    let mut found = Vec::new();
    let mut rest = vec![Path::new(top).to_owned()];
    while let Some(dir) = rest.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            // Not the entry's own type: what is mounted over it counts.
            let Ok(kind) = fs::symlink_metadata(&path).map(|meta| meta.file_type()) else {
                continue;
            };
            if kind.is_dir() && !skip.iter().any(|name| path == Path::new(name)) {
                rest.push(path);
            } else if kind.is_file()
                && OpenOptions::new()
                    .write(true)
                    .custom_flags(OFlag::O_NONBLOCK.bits())
                    .open(&path)
                    .is_ok()
            {
                found.push(path);
            }
        }
    }
    found.sort();
    json!(found)
}

/// How `path` opens for reading and for writing, each `ok` or the name of the error. Nothing is read or written.
pub(crate) fn open(path: &str) -> String {
    let mut options = OpenOptions::new();
    options.custom_flags(OFlag::O_NONBLOCK.bits());
    let reading = outcome(options.clone().read(true).open(path).map(drop));
    let writing = outcome(options.write(true).open(path).map(drop));
    format!("{reading} {writing}")
}

/// Writes `value` to `path`: `ok` or the name of the error.
pub(crate) fn write(path: &str, value: &str) -> String {
    outcome(
        OpenOptions::new()
            .write(true)
            .open(path)
            .and_then(|mut file| file.write_all(value.as_bytes())),
    )
}

fn mounted(source: Option<&str>, dir: &Path, kind: &str) -> String {
    let result = mount(source, dir, Some(kind), MsFlags::MS_RDONLY, None::<&str>);
    if result.is_ok() {
        // What is found mounted is reported; a failed unmount changes nothing about that.
        umount2(dir, MntFlags::MNT_DETACH).ok();
    }
    outcome(result)
}

/// Whether a file gives a byte: `ok`, `empty` or the name of the error.
fn first_byte(path: &str) -> String {
    let read = || -> std::io::Result<usize> {
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(path)?;
        file.read(&mut [0])
    };
    match read() {
        Ok(0) => "empty".to_owned(),
        result => outcome(result.map(drop)),
    }
}

fn outcome<E: Into<std::io::Error>>(result: Result<(), E>) -> String {
    match result.map_err(Into::into) {
        Ok(()) => "ok".to_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => "ENOENT".to_owned(),
        Err(error) => error.raw_os_error().map_or_else(
            || error.to_string(),
            |number| format!("{:?}", Errno::from_raw(number)),
        ),
    }
}
