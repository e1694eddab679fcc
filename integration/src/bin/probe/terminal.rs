//! Holds locks of a terminal for ever: programs of a FUSE that does not answer, with memory that never comes ([`crate::fuse`]).

use std::fs::{File, OpenOptions};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use rustix::fs::OFlags;
use std::os::unix::fs::OpenOptionsExt;

use crate::fuse::{MARK, PAGE};

/// Memory of the program that is read from its file when it is first touched, and never comes.
static BAIT: Mutex<[u8; 16 * PAGE]> = Mutex::new([MARK; 16 * PAGE]);
/// A page of it, not the one that the lock is on, to its end.
const BAITED: usize = 4 * PAGE;

fn open(tty: &str) -> Result<File> {
    let mut options = OpenOptions::new();
    let options = options
        .read(true)
        .write(true)
        .custom_flags(OFlags::NOCTTY.bits().cast_signed());
    options.open(tty).with_context(|| format!("open {tty}"))
}

/// Writes it: holds what keeps the terminal's line discipline from being taken away.
pub(crate) fn write(tty: &str) -> Result<()> {
    let tty = open(tty)?;
    let bait = BAIT.lock().unwrap_or_else(PoisonError::into_inner);
    let bait = bait.get(BAITED..).context("too short")?;
    rustix::io::write(&tty, bait).context("write")?;
    bail!("written")
}

/// Asks for the terminal's size with it as the answer's place: holds the lock of the size. Has a child do so, whose call it
/// changes on its way, for there is no function with a place of the caller's choice.
pub(crate) fn size(tty: &str) -> Result<()> {
    let program = std::env::current_exe().context("find this program")?;
    let child = Command::new(program)
        .args(["tty-size-of", tty])
        .spawn()
        .context("start the child")?;
    let child = Pid::from_raw(child.id().cast_signed());
    waitpid(child, None).context("wait for its stop")?;
    let length = 16 * PAGE - BAITED;
    loop {
        ptrace::syscall(child, None).context("let it go on")?;
        waitpid(child, None).context("wait for its next call")?;
        let mut registers = ptrace::getregs(child).context("read its registers")?;
        if registers.rdx == u64::try_from(length)? {
            registers.orig_rax = u64::try_from(nix::libc::SYS_ioctl)?;
            registers.rdx = registers.rsi;
            registers.rsi = nix::libc::TIOCGWINSZ;
            ptrace::setregs(child, registers).context("change its call")?;
            ptrace::detach(child, None).context("let it go")?;
            break;
        }
    }
    waitpid(child, None).context("wait for its end")?;
    bail!("the size has come")
}

/// The child of [`size`].
pub(crate) fn size_of(tty: &str) -> Result<()> {
    let tty = open(tty)?;
    let mut bait = BAIT.lock().unwrap_or_else(PoisonError::into_inner);
    let bait = bait.get_mut(BAITED..).context("too short")?;
    ptrace::traceme().context("be traced")?;
    raise(Signal::SIGSTOP).context("stop")?;
    rustix::io::read(&tty, bait).context("read")?;
    Ok(())
}
