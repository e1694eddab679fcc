//! A command with a terminal of its own, as a person has one.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::pty::{OpenptyResult, Winsize, openpty};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::process;

/// A script that prints the terminal's size (rows, columns): clients set it when the process runs already.
pub const SIZE: &str = "until stty size 2>/dev/null | grep -v '^0 0'; do sleep 0.05; done";

/// A running command and the terminal that is its standard streams.
#[derive(Debug)]
pub struct Session {
    master: File,
    child: Child,
    shown: Vec<u8>,
}

impl Session {
    /// Starts `command` with a terminal of this size.
    ///
    /// # Errors
    /// If there is no terminal, or the command cannot be started.
    pub fn start(command: &mut Command, columns: u16, rows: u16) -> Result<Self> {
        let size = Winsize {
            ws_col: columns,
            ws_row: rows,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let OpenptyResult { master, slave } = openpty(&size, None).context("open a terminal")?;
        let copy = |slave: &OwnedFd| slave.try_clone().context("copy a descriptor");
        let child = command
            .stdin(copy(&slave)?)
            .stdout(copy(&slave)?)
            .stderr(copy(&slave)?)
            .spawn()
            .context("start the command")?;
        // The command holds copies of the terminal: kept here, they would keep it open past its end.
        drop(slave);
        command.stdin(std::process::Stdio::null());
        command.stdout(std::process::Stdio::null());
        command.stderr(std::process::Stdio::null());
        Ok(Self {
            master: File::from(master),
            child,
            shown: Vec::new(),
        })
    }

    /// Gives the terminal another size; the command hears of it if it is its controlling terminal.
    ///
    /// # Errors
    /// Of the ioctl.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        let size = rustix::termios::Winsize {
            ws_col: columns,
            ws_row: rows,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&self.master, size).context("resize the terminal")
    }

    /// Types `bytes`.
    ///
    /// # Errors
    /// Of the write.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.master.write_all(bytes).context("type")
    }

    /// Waits until the terminal has shown `text`.
    ///
    /// # Errors
    /// If it has not in time, or the command ends before.
    pub fn until(&mut self, text: &str, patience: Duration) -> Result<()> {
        let begin = Instant::now();
        while !String::from_utf8_lossy(&self.shown).contains(text) {
            let left = patience.saturating_sub(begin.elapsed());
            let left = Timespec::try_from(left).unwrap_or_default();
            let mut fds = [PollFd::new(&self.master, PollFlags::IN)];
            let mut part = [0; 4096];
            let read = match poll(&mut fds, Some(&left)) {
                Ok(1..) => self.master.read(&mut part).unwrap_or(0),
                _ => 0,
            };
            self.shown.extend(part.get(..read).unwrap_or_default());
            if read == 0 {
                bail!(
                    "{text:?} was not shown but {:?}",
                    String::from_utf8_lossy(&self.shown)
                );
            }
        }
        Ok(())
    }

    /// Waits for the end: the exit code and all that was shown.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub fn finish(mut self) -> Result<(i32, String)> {
        // A terminal whose other end is closed reads as EIO; what came before is kept.
        drop(self.master.read_to_end(&mut self.shown));
        let status = self.child.wait().context("wait for the command")?;
        Ok((
            process::code(status),
            String::from_utf8_lossy(&self.shown).into_owned(),
        ))
    }
}
