//! Whiteouts and opaque directories of inner overlays, kept from the engine that commits the layer.
//!
//! To overlayfs a character device 0:0 deletes a name (Documentation/filesystems/overlayfs.rst), in whichever layer it
//! lies: a commit takes an inner layer's for one of the outer layer's, or stumbles over it, and the attributes of inner
//! overlays are in no engine's archive. So while data are in the layer, a file there tells of all marks, and the whiteouts
//! are kept beside. Moved, not removed: inner overlays that are mounted in a frozen container hold on to them.

use std::ffi::OsStr;
use std::io::Read;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RawDir, RenameFlags, ResolveFlags, Timestamps, XattrFlags,
    fgetxattr, fsetxattr, fstat, futimens, linkat, mknodat, openat, openat2, renameat_with, statat,
    unlinkat,
};
use rustix::io::Errno;

use super::marks::{self, Directory, Mark};
use super::{make_dir, open_dir, remove};
use crate::error::{Error, OsContext, Result};
use crate::rootfs::data_roots::copy::timestamps;

/// What a mount with `userxattr` marks its opaque directories with, the only kind that a user namespace can have.
const OPAQUE: &str = "user.overlay.opaque";
const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
/// What getdents64(2) fills at once.
const BUFFER: usize = 64 * 1024;

/// Names in the directory beside the layer for data root `name`. No data root has one that begins with a single dash.
struct Beside {
    marks: String,
    whiteouts: String,
}

impl Beside {
    fn of(name: &str) -> Beside {
        Beside {
            marks: format!("-marks-{name}"),
            whiteouts: format!("-whiteouts-{name}"),
        }
    }
}

/// Takes the marks of data root `name` out of `data`, its directory: of whiteouts only the file there is left.
///
/// # Errors
/// With half of it done: [`show`] undoes it.
pub(super) fn hide(beside: &OwnedFd, name: &str, data: &OwnedFd) -> Result<()> {
    let found = find(data)?;
    if found.is_empty() {
        return Ok(());
    }
    let names = Beside::of(name);
    write(beside, &names.marks, data, &marks::written(&found))?;
    match linkat(beside, &*names.marks, data, marks::FILE, AtFlags::empty()) {
        // An image's, which has been read, or a forgery.
        Err(Errno::EXIST) => {
            remove(data, marks::FILE)?;
            linkat(beside, &*names.marks, data, marks::FILE, AtFlags::empty())
        }
        linked => linked,
    }
    .os("link", marks::FILE)?;
    let kept = make_dir(beside, &names.whiteouts, 0o700)?;
    let mut numbers = 0_u64..;
    for directory in found.iter().filter(|found| !found.whiteouts.is_empty()) {
        let dir = below(data, &directory.path).os("open", directory.path.display())?;
        let times = times(&dir)?;
        for (whiteout, number) in directory.whiteouts.iter().zip(&mut numbers) {
            let to = number.to_string();
            renameat_with(&dir, &**whiteout, &kept, to, RenameFlags::NOREPLACE)
                .os("move whiteout", directory.path.join(whiteout).display())?;
        }
        futimens(&dir, &times).os("utimens", directory.path.display())?;
    }
    Ok(())
}

/// Undoes [`hide`], or what was done of it. Doing it twice is doing it once.
pub(super) fn show(beside: &OwnedFd, name: &str, data: &OwnedFd) -> Result<()> {
    let names = Beside::of(name);
    let Some(text) = read_file(beside, &names.marks)? else {
        return Ok(());
    };
    // A crash may have left part of it, and then no whiteout has been moved.
    if let Some(marks) = marks::read(&text)
        && let Ok(kept) = open_dir(beside, &names.whiteouts)
    {
        apply(data, marks, |dir, name, number| {
            let from = number.to_string();
            let Some(dir) = dir else {
                return remove(&kept, &from);
            };
            match renameat_with(&kept, &*from, dir, name, RenameFlags::NOREPLACE) {
                // The name is taken: what was deleted there has been put back meanwhile.
                Err(Errno::EXIST) => remove(&kept, &from),
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(errno) => Err(errno).os("move whiteout", name.display()),
            }
        })?;
        match unlinkat(beside, &*names.whiteouts, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno).os("rmdir", names.whiteouts),
        }
    }
    remove(data, marks::FILE)?;
    remove(beside, &names.marks)
}

/// Makes the marks that are written down in `data`, which have come with an image, and removes the file. A problem with it
/// is the image's, and returned.
pub(crate) fn make(data: &OwnedFd) -> Result<Option<&'static str>> {
    let Some(text) = read_file(data, marks::FILE)? else {
        return Ok(None);
    };
    let Some(marks) = marks::read(&text) else {
        remove(data, marks::FILE)?;
        return Ok(Some("they cannot be read"));
    };
    let mut missing = None;
    apply(data, marks, |dir, name, _| {
        let Some(dir) = dir else {
            missing = Some("some are for directories that are not there");
            return Ok(());
        };
        match mknodat(dir, name, FileType::CharacterDevice, Mode::empty(), 0) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(errno).os("mknod whiteout", name.display()),
        }
    })?;
    remove(data, marks::FILE)?;
    Ok(missing)
}

/// Sets the attribute on opaque directories and calls `each` for every whiteout, with its directory in `data` if that is
/// there, its name, and its number. Times of directories stay as they are.
fn apply<'a>(
    data: &OwnedFd,
    marks: impl Iterator<Item = Mark<'a>>,
    mut each: impl FnMut(Option<&OwnedFd>, &OsStr, u64) -> Result<()>,
) -> Result<()> {
    let mut at: Option<(OwnedFd, Timestamps)> = None;
    let leave = |at: Option<(OwnedFd, Timestamps)>| match at {
        Some((dir, times)) => futimens(dir, &times).os("utimens", "directory of whiteouts"),
        None => Ok(()),
    };
    let mut number = 0;
    for mark in marks {
        match mark {
            Mark::Directory(path) => {
                leave(at.take())?;
                at = match below(data, path) {
                    Ok(dir) => {
                        let times = times(&dir)?;
                        Some((dir, times))
                    }
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => None,
                    Err(errno) => return Err(errno).os("open", path.display()),
                };
            }
            Mark::Opaque(value) => {
                if let Some((dir, _)) = &at {
                    fsetxattr(dir, OPAQUE, &[value], XattrFlags::empty()).os("setxattr", OPAQUE)?;
                }
            }
            Mark::Whiteout(name) => {
                each(at.as_ref().map(|(dir, _)| dir), name, number)?;
                number += 1;
            }
        }
    }
    leave(at)
}

/// Every directory in `data` with marks.
///
/// Looks everywhere: engines differ in where their layers are, a volume may be a data root in its turn, and to the outer
/// engine one whiteout is like another. It reads directories only, and no file's attributes but those of devices: 0.15 s
/// for 100 000 files in 10 000 directories.
fn find(data: &OwnedFd) -> Result<Vec<Directory>> {
    let mut found = Vec::new();
    let mut count = 0;
    let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
    let mut ahead = vec![PathBuf::from(".")];
    while let Some(path) = ahead.pop() {
        let shown = path.display();
        let dir = below(data, &path).os("open", &shown)?;
        let mut whiteouts = Vec::new();
        let mut entries = RawDir::new(&dir, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry.os("read directory", &shown)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            match entry.file_type() {
                FileType::Directory if name != "." && name != ".." => ahead.push(match &path {
                    path if path == Path::new(".") => name.into(),
                    path => path.join(name),
                }),
                FileType::CharacterDevice => {
                    let stat = statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW).os("stat", &shown)?;
                    if stat.st_rdev == 0 {
                        whiteouts.push(name.to_owned());
                    }
                }
                // Overlayfs needs file systems that tell the kind.
                _ => {}
            }
        }
        let opaque = opaque(&dir)?;
        if opaque.is_none() && whiteouts.is_empty() {
            continue;
        }
        count += 2 + whiteouts.len();
        if count > marks::MAX_MARKS {
            return Err(too_many());
        }
        found.push(Directory {
            path,
            opaque,
            whiteouts,
        });
    }
    Ok(found)
}

fn opaque(dir: &OwnedFd) -> Result<Option<u8>> {
    let mut value = [0; 8];
    match fgetxattr(dir, OPAQUE, &mut value) {
        Ok(1) => Ok(value.first().copied().filter(|v| matches!(v, b'y' | b'x'))),
        Ok(_) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(None),
        Err(errno) => Err(errno).os("getxattr", OPAQUE),
    }
}

/// Written whole to disk before a whiteout is moved: without it nobody knows where they belong.
fn write(beside: &OwnedFd, name: &str, data: &OwnedFd, text: &[u8]) -> Result<()> {
    if text.len() as u64 > marks::MAX_BYTES {
        return Err(too_many());
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat(beside, name, flags, Mode::from_raw_mode(0o600)).os("create", name)?;
    let stat = fstat(data).os("stat", "data root")?;
    std::os::unix::fs::fchown(&file, Some(stat.st_uid), Some(stat.st_gid)).os("chown", name)?;
    let mut file = std::fs::File::from(file);
    std::io::Write::write_all(&mut file, text).os("write", name)?;
    file.sync_data().os("fdatasync", name)
}

/// Regular file `name` in `dir`, `None` where there is none. Of one that is too long no more than tells so.
fn read_file(dir: &OwnedFd, name: &str) -> Result<Option<Vec<u8>>> {
    let is_file = match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile,
        Err(Errno::NOENT) => false,
        Err(errno) => return Err(errno).os("stat", name),
    };
    if !is_file {
        return Ok(None);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(dir, name, flags, Mode::empty()).os("open", name)?;
    let mut text = Vec::new();
    std::fs::File::from(file)
        .take(marks::MAX_BYTES + 1)
        .read_to_end(&mut text)
        .os("read", name)?;
    Ok(Some(text))
}

/// A directory in `data`, through no link and no mount.
fn below(data: &OwnedFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    openat2(data, path, DIRECTORY, Mode::empty(), resolve)
}

fn times(dir: &OwnedFd) -> Result<Timestamps> {
    Ok(timestamps(
        &fstat(dir).os("stat", "directory of whiteouts")?,
    ))
}

fn too_many() -> Error {
    Error::Os {
        op: "write down",
        target: "the marks of inner overlays".into(),
        source: std::io::Error::from_raw_os_error(libc::EFBIG),
    }
}

#[cfg(test)]
#[path = "whiteouts_tests.rs"]
mod tests;
