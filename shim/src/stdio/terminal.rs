//! Our ends of a process's terminal.
//!
//! Whoever in the container writes to a terminal, or asks for its size, with memory that never comes, holds locks of it for
//! as long. Reading and writing the master do not take them; setting the size, and closing either end, do, and can be neither
//! interrupted nor made not to wait (drivers/tty: `pty_resize`, `pty_close`). So threads do these, with places of their own.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex};

use runtime_core::OsContext;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer};
use rustix::termios::{Winsize, tcsetwinsize};

use super::lock;
use crate::error::Result;
use crate::places::Places;

/// A terminal.
#[derive(Debug)]
pub(crate) struct Terminal {
    /// There until this is dropped.
    master: Option<OwnedFd>,
    /// A slave of it: without it the master would hang up whenever the container closes the last of its own, as systemd does
    /// between two uses of its console.
    peer: Mutex<Option<OwnedFd>>,
    places: Arc<Places>,
}

impl Terminal {
    /// That of `master`; may wait, unless no process of the container has come to run since it was made.
    pub(crate) fn new(master: OwnedFd, places: Arc<Places>) -> Arc<Terminal> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let peer = Mutex::new(ioctl_tiocgptpeer(&master, flags).ok());
        Arc::new(Terminal {
            master: Some(master),
            peer,
            places,
        })
    }

    /// Its size; may wait.
    pub(crate) fn resize(&self, columns: u32, rows: u32) -> Result<()> {
        let Some(master) = &self.master else {
            return Ok(());
        };
        let clamp = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
        let size = Winsize {
            ws_col: clamp(columns),
            ws_row: clamp(rows),
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        Ok(tcsetwinsize(master, size).os("TIOCSWINSZ", format_args!("{columns}x{rows}"))?)
    }

    /// The process is gone: it hangs up when nothing in the container has it open.
    pub(super) fn let_go(&self) {
        if let Some(peer) = lock(&self.peer).take() {
            self.places.close(peer);
        }
    }

    /// A descriptor to read from or to write to.
    pub(super) fn end(self: &Arc<Self>) -> std::io::Result<End> {
        let Some(master) = &self.master else {
            return Err(rustix::io::Errno::BADF.into());
        };
        Ok(End {
            fd: master.try_clone()?,
            _terminal: Some(self.clone()),
        })
    }

    #[cfg(test)]
    pub(super) fn peer(&self) -> OwnedFd {
        lock(&self.peer).as_ref().unwrap().try_clone().unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.places
            .close((self.master.take(), lock(&self.peer).take()));
    }
}

/// What is copied from or to. One of a terminal is never the last of its descriptors.
#[derive(Debug)]
pub(super) struct End {
    // Closed first.
    fd: OwnedFd,
    _terminal: Option<Arc<Terminal>>,
}

impl From<OwnedFd> for End {
    fn from(fd: OwnedFd) -> End {
        End {
            fd,
            _terminal: None,
        }
    }
}

impl AsFd for End {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for End {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
