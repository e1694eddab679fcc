//! Copying a tree of the image: owners, modes, times, xattrs, links, devices. Descriptors only; no
//! link is followed.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
    chownat, fgetxattr, flistxattr, fsetxattr, linkat, mkdirat, mknodat, openat, readlinkat,
    statat, symlinkat, utimensat,
};
use rustix::io::Errno;

use crate::error::{Error, OsContext, Result};

/// Deepest directory that is copied: what a path of PATH_MAX can name, well within the descriptors
/// of a process.
const MAX_DEPTH: usize = 400;

/// Copies what is in directory `from` into directory `to`, and `from`'s own attributes if `top`.
pub(crate) fn tree(from: &OwnedFd, to: &OwnedFd, top: bool) -> Result<()> {
    let reopen = |fd: &OwnedFd| {
        openat(
            fd,
            ".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .os("open", "directory to copy")
    };
    let (from, to) = (reopen(from)?, reopen(to)?);
    directory(&from, &to, &mut HashMap::new(), 0)?;
    if top {
        attributes_of_directory(&from, &to)
    } else {
        Ok(())
    }
}

type Links = HashMap<(u64, u64), (OwnedFd, CString)>;

fn directory(from: &OwnedFd, to: &OwnedFd, links: &mut Links, depth: usize) -> Result<()> {
    if depth == MAX_DEPTH {
        return Err(Error::Os {
            op: "copy",
            target: "directories nested too deep".into(),
            source: std::io::Error::from_raw_os_error(libc::ELOOP),
        });
    }
    for entry in Dir::read_from(from).os("read", "directory to copy")? {
        let entry = entry.os("read", "directory to copy")?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            copy_entry(from, to, name, links, depth)?;
        }
    }
    Ok(())
}

fn copy_entry(
    from: &OwnedFd,
    to: &OwnedFd,
    name: &CStr,
    links: &mut Links,
    depth: usize,
) -> Result<()> {
    let shown = name.to_string_lossy();
    let stat = match statat(from, name, AtFlags::SYMLINK_NOFOLLOW) {
        // overlayfs lists the whiteouts in a directory that only one layer has, and says that they do not exist.
        Err(Errno::NOENT) => return Ok(()),
        stat => stat.os("stat", &shown)?,
    };
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind != FileType::Directory && stat.st_nlink > 1 {
        if let Some((dir, first)) = links.get(&(stat.st_dev, stat.st_ino)) {
            return linkat(dir, first, to, name, AtFlags::empty()).os("link", &shown);
        }
        let dir = to.try_clone().os("dup", &shown)?;
        links.insert((stat.st_dev, stat.st_ino), (dir, name.to_owned()));
    }
    match kind {
        FileType::Directory => {
            mkdirat(to, name, Mode::from_raw_mode(0o700)).os("mkdir", &shown)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let below = openat(from, name, flags, Mode::empty()).os("open", &shown)?;
            let made = openat(to, name, flags, Mode::empty()).os("open", &shown)?;
            directory(&below, &made, links, depth + 1)?;
            attributes_of_directory(&below, &made)
        }
        FileType::RegularFile => {
            let flags = OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let source = openat(
                from,
                name,
                OFlags::RDONLY | OFlags::NONBLOCK | flags,
                Mode::empty(),
            )
            .os("open", &shown)?;
            let target = openat(
                to,
                name,
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | flags,
                Mode::from_raw_mode(0o600),
            )
            .os("create", &shown)?;
            let (mut source, mut target) =
                (std::fs::File::from(source), std::fs::File::from(target));
            std::io::copy(&mut source, &mut target).os("copy", &shown)?;
            let (source, target) = (OwnedFd::from(source), OwnedFd::from(target));
            owner_and_mode(to, name, &stat)?;
            xattrs(&source, &target, &shown)?;
            times(to, name, &stat)
        }
        FileType::Symlink => {
            let text = readlinkat(from, name, Vec::new()).os("readlink", &shown)?;
            symlinkat(&text, to, name).os("symlink", &shown)?;
            owner(to, name, &stat)?;
            times(to, name, &stat)
        }
        _ => {
            mknodat(to, name, kind, Mode::from_raw_mode(0o600), stat.st_rdev)
                .os("mknod", &shown)?;
            owner_and_mode(to, name, &stat)?;
            times(to, name, &stat)
        }
    }
}

fn attributes_of_directory(from: &OwnedFd, to: &OwnedFd) -> Result<()> {
    let stat = rustix::fs::fstat(from).os("stat", "directory to copy")?;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::fchown(to, Some(uid), Some(gid)).os("chown", "copied directory")?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode)).os("chmod", "copied directory")?;
    xattrs(from, to, "directory")?;
    rustix::fs::futimens(to, &timestamps(&stat)).os("utimens", "copied directory")
}

fn owner(dir: &OwnedFd, name: &CStr, stat: &Stat) -> Result<()> {
    chownat(
        dir,
        name,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .os("chown", name.to_string_lossy())
}

/// chown(2) clears set-id bits, so the mode comes second.
fn owner_and_mode(dir: &OwnedFd, name: &CStr, stat: &Stat) -> Result<()> {
    owner(dir, name, stat)?;
    rustix::fs::chmodat(
        dir,
        name,
        Mode::from_raw_mode(stat.st_mode),
        AtFlags::empty(),
    )
    .os("chmod", name.to_string_lossy())
}

fn times(dir: &OwnedFd, name: &CStr, stat: &Stat) -> Result<()> {
    utimensat(dir, name, &timestamps(stat), AtFlags::SYMLINK_NOFOLLOW)
        .os("utimens", name.to_string_lossy())
}

/// Times of what `stat` is of, to be set again.
pub(crate) fn timestamps(stat: &Stat) -> Timestamps {
    let time = |sec: i64, nsec: u64| Timespec {
        tv_sec: sec,
        tv_nsec: nsec.try_into().unwrap_or(0),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

fn xattrs(from: impl AsFd, to: impl AsFd, shown: &str) -> Result<()> {
    let (from, to) = (from.as_fd(), to.as_fd());
    let mut names = vec![0; 64 * 1024];
    let length = match flistxattr(from, &mut names) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(errno) => return Err(errno).os("listxattr", shown),
    };
    for name in names[..length].split_inclusive(|b| *b == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else {
            continue;
        };
        let mut value = vec![0; 64 * 1024];
        let length = match fgetxattr(from, name, &mut value) {
            Ok(length) => length,
            Err(Errno::NODATA) => continue,
            Err(errno) => return Err(errno).os("getxattr", shown),
        };
        match fsetxattr(to, name, &value[..length], XattrFlags::empty()) {
            // The image's file system knew an xattr that this one does not.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(errno).os("setxattr", shown),
        }
    }
    Ok(())
}

/// Path of `fd` in this mount namespace, for messages and for paths relative to the root.
pub(crate) fn path_of(fd: impl AsFd) -> Result<String> {
    let link = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    let path = rustix::fs::readlink(&link, Vec::new()).os("readlink", &link)?;
    path.into_string()
        .map_err(std::io::Error::other)
        .os("decode", &link)
}
