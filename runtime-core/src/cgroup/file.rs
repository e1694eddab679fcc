//! Reads and writes of a cgroup's files, relative to its directory.

use std::io::Read;
use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

/// The whole of file `name`.
pub(super) fn read(dir: BorrowedFd<'_>, name: &str) -> rustix::io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut file = std::fs::File::from(openat(dir, name, flags, Mode::empty())?);
    let mut text = String::new();
    match file.read_to_string(&mut text) {
        Ok(_) => Ok(text),
        Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
    }
}

/// The whole of file `name`, `None` where the kernel offers no such file here: its controller is not enabled
/// (ENOENT), or switched off at boot (EOPNOTSUPP of `psi=0`).
pub(super) fn read_if_present(
    dir: BorrowedFd<'_>,
    name: &str,
) -> rustix::io::Result<Option<String>> {
    match read(dir, name) {
        Ok(text) => Ok(Some(text)),
        Err(Errno::NOENT | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes `value` in one write(2): the kernel takes each as one command.
pub(super) fn write(dir: BorrowedFd<'_>, name: &str, value: &str) -> rustix::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = openat(dir, name, flags, Mode::empty())?;
    let written = rustix::io::retry_on_intr(|| rustix::io::write(&file, value.as_bytes()))?;
    if written == value.len() {
        Ok(())
    } else {
        Err(Errno::IO)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn absent_files_are_no_error_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("cpu.stat"), "usage_usec 1\n").unwrap();
        std::os::unix::fs::symlink("cpu.stat", dir.path().join("link")).unwrap();
        let fd = std::fs::File::open(dir.path()).unwrap();
        assert_eq!(read(fd.as_fd(), "cpu.stat").unwrap(), "usage_usec 1\n");
        assert_eq!(read_if_present(fd.as_fd(), "memory.stat"), Ok(None));
        assert_eq!(read_if_present(fd.as_fd(), "link"), Err(Errno::LOOP));
        assert_eq!(write(fd.as_fd(), "memory.max", "1"), Err(Errno::NOENT));
    }
}
