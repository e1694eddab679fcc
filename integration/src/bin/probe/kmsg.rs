//! Uses `/dev/kmsg` as journald, dmesg and the kubelet do (Documentation/ABI/testing/dev-kmsg).

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::fcntl::OFlag;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use serde_json::{Value, json};

/// More than any buffer holds, far more than a boot writes, and what a burst may have at once.
const FLOOD: usize = 1 << 20;
/// A line, the longest that the kernel takes.
const LINE: usize = 1000;

/// What is seen, as JSON.
pub(crate) fn all() -> Result<Value> {
    let path = "/dev/kmsg";
    let open = |flags: OFlag| {
        OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags((flags | OFlag::O_NOCTTY).bits())
            .open(path)
    };
    let metadata = std::fs::symlink_metadata(path).context("stat")?;
    let mut watched = open(OFlag::O_NONBLOCK).context("open")?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &watched, EventData::new_u64(0), EventFlags::IN).context("epoll_ctl")?;
    let mut line = [b'x'; LINE];
    line[LINE - 1] = b'\n';
    let begin = Instant::now();
    let mut writer = open(OFlag::empty()).context("open")?;
    for _ in 0..FLOOD / LINE {
        writer.write_all(&line).context("write")?;
    }
    Ok(json!({
        "character device": metadata.file_type().is_char_device(),
        "owner": [metadata.uid(), metadata.gid()],
        "mode": format!("{:o}", metadata.mode() & 0o777),
        "opened for reading only": File::open(path).map(drop).map_err(|e| e.to_string()).is_ok(),
        "read": read(&mut watched),
        "events": events(&epoll)?,
        "flooded in seconds": begin.elapsed().as_secs(),
    }))
}

fn read(file: &mut File) -> String {
    match file.read(&mut [0; 8192]) {
        Ok(length) => format!("{length} bytes"),
        Err(error) => format!("{:?}", error.kind()),
    }
}

/// How often it says within a moment that there is something to read.
fn events(epoll: &impl std::os::fd::AsFd) -> Result<usize> {
    let mut seen = Vec::with_capacity(8);
    let moment = Duration::from_millis(100).try_into()?;
    Ok(epoll::wait(
        epoll,
        spare_capacity(&mut seen),
        Some(&moment),
    )?)
}
