//! The connections of all mounted FUSE file systems (Documentation/filesystems/fuse.rst, "Control filesystem").
//!
//! A request that a server has read and does not answer waits for ever, and whoever waits for it cannot be killed. The
//! server's end would end it, but a server can have its own client hold its descriptor. What is left is the control
//! file system, which only the host's root can mount: we do so for ourselves, detached, so that nobody sees it.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, statat};
use rustix::io::Errno;

use crate::error::{OsContext, Result};
use crate::kernel::fs;

const NAME: &str = "fusectl";

/// The root of the control file system, which is mounted as long as this is open.
#[derive(Debug)]
pub(crate) struct Control(OwnedFd);

/// A connection: the one of a superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Connection {
    /// Minor number of the superblock's device, whose major number is 0.
    pub(crate) device: u32,
    /// Host's id of the user that the mount's option `user_id` names, one of those of the mounter's user namespace
    /// (fs/fuse/inode.c).
    pub(crate) owner: u32,
}

impl Control {
    /// Mounts it.
    pub(crate) fn open() -> Result<Control> {
        let mount = fs::new(NAME, &[], fs::PLAIN)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(&mount, ".", flags, Mode::empty()).os("open", NAME)?;
        Ok(Control(root))
    }

    /// All connections of this kernel. A mount whose server has ended has none.
    pub(crate) fn connections(&self) -> Result<Vec<Connection>> {
        let mut found = Vec::new();
        for entry in Dir::read_from(&self.0).os("read directory", NAME)? {
            let entry = entry.os("read directory", NAME)?;
            let Some(device) = entry
                .file_name()
                .to_str()
                .ok()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            match statat(&self.0, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => found.push(Connection {
                    device,
                    owner: stat.st_uid,
                }),
                // Ended meanwhile.
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno).os("stat connection", device),
            }
        }
        Ok(found)
    }

    /// Ends one: everybody who waits in it gets ECONNABORTED. Ended already is success.
    pub(crate) fn abort(&self, device: u32) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = match openat(&self.0, format!("{device}/abort"), flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(errno).os("open abort of connection", device),
        };
        rustix::io::write(&file, b"1").os("write abort of connection", device)?;
        Ok(())
    }
}
