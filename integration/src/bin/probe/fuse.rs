//! A FUSE server that is hostile to whoever touches it, by the kernel's own protocol (linux/fuse.h).
//!
//! Its directory has one file, `program`, a copy of this one. Looking up any other name takes for ever, and so does reading
//! [`BAIT`] in the program.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use rustix::fs::RawDir;

/// Opcodes.
const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

/// Length of `fuse_in_header`.
const HEADER: usize = 40;
/// Node ids.
const ROOT: u64 = 1;
const PROGRAM: u64 = 2;
pub(crate) const PAGE: usize = 4096;
/// Every byte of [`BAIT`].
pub(crate) const MARK: u8 = 0xa5;

/// Memory of the program that is read from its file when it is first touched.
static BAIT: Mutex<[MaybeUninit<u8>; 32 * PAGE]> = Mutex::new([MaybeUninit::new(MARK); 32 * PAGE]);

/// Mounts it on `dir`, says so by its name, and serves until it is killed. A client that waits in it can be killed only
/// after the server, whose name says that there is one.
pub(crate) fn silent(dir: &str) -> Result<()> {
    let mut server = Server::new(dir)?;
    nix::sys::prctl::set_name(c"ready").context("rename this process")?;
    loop {
        match server.answer()? {
            Answer::Ended => return Ok(()),
            Answer::Swallowed => {
                nix::sys::prctl::set_name(c"held").context("rename this process")?;
            }
            Answer::Given | Answer::Initialised => {}
        }
    }
}

/// The same with a client in the same process, and a server that ends at the client's first request: the client keeps the
/// connection open, on which nobody answers.
pub(crate) fn locked_up(dir: &str) -> Result<()> {
    let mut server = Server::new(dir)?;
    while server.answer()? != Answer::Initialised {}
    let path = Path::new(dir).join("x");
    thread::Builder::new()
        .name("client".into())
        .spawn(move || path.metadata().is_ok())
        .context("start the client")?;
    while server.answer()? != Answer::Swallowed {}
    nix::sys::prctl::set_name(c"ready").context("rename this process")?;
    // Its end does not close the device, which the client's thread has open.
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}

/// Serves, and has a program of the file system read directory `held` into memory that never comes: it holds the
/// directory's lock. Then tries to make something there, so that who comes later waits behind it.
pub(crate) fn hold(dir: &str, held: &str) -> Result<()> {
    let mut server = Server::new(dir)?;
    while server.answer()? != Answer::Initialised {}
    let program = Path::new(dir).join("program");
    let mut command = Command::new(program);
    command.args(["fuse-read", held]).process_group(0);
    // Its start is served below.
    thread::Builder::new()
        .name("start".into())
        .spawn(move || command.status())
        .context("start the program's starter")?;
    while server.answer()? != Answer::Swallowed {}
    let new = Path::new(held).join("made-behind-the-lock");
    thread::Builder::new()
        .name("writer".into())
        .spawn(move || fs::create_dir(new))
        .context("start the writer")?;
    // The writer has nothing to tell before it is through.
    thread::sleep(Duration::from_millis(200));
    nix::sys::prctl::set_name(c"ready").context("rename this process")?;
    while server.answer()? != Answer::Ended {}
    Ok(())
}

/// What the program of [`hold`] does.
pub(crate) fn read_directory(held: &str) -> Result<()> {
    let directory = File::open(held).with_context(|| format!("open {held}"))?;
    let mut bait = BAIT.lock().unwrap_or_else(PoisonError::into_inner);
    // Not the page that the lock is on.
    let buffer = bait.get_mut(8 * PAGE..).context("too short")?;
    let mut entries = RawDir::new(&directory, buffer);
    match entries.next() {
        Some(entry) => bail!("read {:?}", entry?.file_name()),
        None => bail!("{held} is empty"),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Given,
    Initialised,
    /// The client waits for ever.
    Swallowed,
    /// The file system is unmounted, or its connection aborted.
    Ended,
}

struct Server {
    device: File,
    program: File,
    size: u64,
}

impl Server {
    fn new(dir: &str) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("make {dir}"))?;
        let program = File::open("/proc/self/exe").context("open this program")?;
        let size = program.metadata().context("stat this program")?.len();
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .context("open /dev/fuse")?;
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other",
            device.as_raw_fd()
        );
        mount(
            Some("hostile"),
            dir,
            Some("fuse"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .with_context(|| format!("mount on {dir}"))?;
        Ok(Self {
            device,
            program,
            size,
        })
    }

    /// Reads one request and answers it.
    fn answer(&mut self) -> Result<Answer> {
        let mut request = vec![0; 1 << 18];
        let length = match self.device.read(&mut request) {
            Ok(length) => length,
            Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => {
                return Ok(Answer::Ended);
            }
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::NotFound) => {
                return Ok(Answer::Given);
            }
            Err(error) => return Err(error).context("read a request"),
        };
        let request = request.get(..length).context("a short request")?;
        let (opcode, unique, node) = (
            u32_at(request, 4)?,
            u64_at(request, 8)?,
            u64_at(request, 16)?,
        );
        let body = request.get(HEADER..).context("a short request")?;
        let mut answer = Answer::Given;
        let reply = match opcode {
            INIT => {
                answer = Answer::Initialised;
                initialised(u32_at(body, 4)?)
            }
            LOOKUP => {
                let name = body.split(|byte| *byte == 0).next().unwrap_or_default();
                if name != b"program" {
                    return Ok(Answer::Swallowed);
                }
                let mut entry = Vec::new();
                for word in [PROGRAM, 0, 0, 0, 0] {
                    push_u64(&mut entry, word);
                }
                entry.extend(self.attributes(PROGRAM));
                Ok(entry)
            }
            GETATTR => Ok([vec![0; 16], self.attributes(node)].concat()),
            OPEN | OPENDIR => Ok(vec![0; 16]),
            READ => {
                let mut data = vec![0; usize::try_from(u32_at(body, 16)?)?];
                let got = self
                    .program
                    .read_at(&mut data, u64_at(body, 8)?)
                    .context("read this program")?;
                data.truncate(got);
                if got > 0 && data.iter().all(|byte| *byte == MARK) {
                    return Ok(Answer::Swallowed);
                }
                Ok(data)
            }
            FORGET | BATCH_FORGET | INTERRUPT => return Ok(answer),
            _ => Err(nix::libc::ENOSYS),
        };
        let (error, data) = match reply {
            Ok(data) => (0, data),
            Err(error) => (-error, Vec::new()),
        };
        let mut message = Vec::new();
        push_u32(&mut message, u32::try_from(16 + data.len())?);
        message.extend(error.to_ne_bytes());
        push_u64(&mut message, unique);
        message.extend(data);
        match self.device.write(&message) {
            // Who asked has been killed meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(answer),
            written => written.map(|_| answer).context("answer"),
        }
    }

    /// `fuse_attr`.
    fn attributes(&self, node: u64) -> Vec<u8> {
        let (mode, links, size) = match node {
            ROOT => (0o040_755, 2, 0),
            _ => (0o100_755, 1, self.size),
        };
        let mut attributes = Vec::new();
        for word in [node, size, size.div_ceil(512), 0, 0, 0] {
            push_u64(&mut attributes, word);
        }
        for word in [0, 0, 0, mode, links, 0, 0, 0, 4096, 0] {
            push_u32(&mut attributes, word);
        }
        attributes
    }
}

/// `fuse_init_out`: nothing is read ahead, no flag is taken.
fn initialised(minor: u32) -> std::result::Result<Vec<u8>, i32> {
    let mut reply = Vec::new();
    for word in [7, minor.min(31), 0, 0] {
        push_u32(&mut reply, word);
    }
    // Background requests, the number that counts as congestion; then the longest write, granularity of times.
    reply.extend(16_u16.to_ne_bytes());
    reply.extend(12_u16.to_ne_bytes());
    for word in [65536, 1] {
        push_u32(&mut reply, word);
    }
    reply.resize(64, 0);
    Ok(reply)
}

fn push_u32(bytes: &mut Vec<u8>, word: u32) {
    bytes.extend(word.to_ne_bytes());
}

fn push_u64(bytes: &mut Vec<u8>, word: u64) {
    bytes.extend(word.to_ne_bytes());
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    let word = bytes.get(at..at + 4).context("a short request")?;
    Ok(u32::from_ne_bytes(word.try_into()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64> {
    let word = bytes.get(at..at + 8).context("a short request")?;
    Ok(u64::from_ne_bytes(word.try_into()?))
}
