//! Copying a tree of the image: owners, modes, times, xattrs, links, devices. Descriptors only, and few; no
//! link is followed.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid,
    XattrFlags, chownat, fgetxattr, flistxattr, fsetxattr, linkat, mkdirat, mknodat, openat,
    readlinkat, statat, symlinkat, utimensat,
};
use rustix::io::Errno;

use super::walk::{Visitor, walk};
use crate::error::{OsContext, Result};

/// Deepest directory that is copied: half of what a crash may leave to `std::fs::remove_dir_all`, which opens each level.
const MAX_DEPTH: usize = 400;
/// Files with further names, remembered until the last of these has come. Beyond that each name gets a copy.
const MAX_LINKS: usize = 1 << 18;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Copies what is in directory `from` into directory `to`, and `from`'s own attributes if `top`. Returns what is not
/// as it was.
pub(crate) fn tree(from: &OwnedFd, to: &OwnedFd, top: bool) -> Result<Option<String>> {
    let reopen =
        |fd: &OwnedFd| openat(fd, ".", DIRECTORY, Mode::empty()).os("open", "directory to copy");
    let (from, to) = (reopen(from)?, reopen(to)?);
    let mut copy = Copy {
        top: reopen(&to)?,
        place: Rc::default(),
        depth: 0,
        to,
        links: HashMap::new(),
        apart: 0,
    };
    walk(&from, ResolveFlags::NO_SYMLINKS, &mut copy)?;
    if top {
        attributes_of_directory(&from, &copy.to)?;
    }
    let apart = copy.apart;
    Ok((apart > 0).then(|| format!("{apart} further names of files are files of their own")))
}

struct Copy {
    top: OwnedFd,
    /// The directory that is being filled.
    to: OwnedFd,
    place: Rc<Place>,
    depth: usize,
    /// By device and inode of the image.
    links: HashMap<(u64, u64), Linked>,
    apart: u64,
}

/// Where a directory is in the copy.
#[derive(Default)]
struct Place {
    /// The directory that it is in, and its name there; none: the top.
    above: Option<(Rc<Place>, CString)>,
}

/// A file that has been copied and has further names.
struct Linked {
    place: Rc<Place>,
    name: CString,
    further: u64,
}

impl Place {
    /// Opens it below `top`, which nobody else changes.
    fn open(&self, top: &OwnedFd) -> rustix::io::Result<OwnedFd> {
        let mut names = Vec::new();
        let mut place = self;
        while let Some((above, name)) = &place.above {
            names.push(name);
            place = above;
        }
        let mut dir = openat(top, ".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        for name in names.into_iter().rev() {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            dir = openat(&dir, &**name, flags, Mode::empty())?;
        }
        Ok(dir)
    }
}

impl Visitor for Copy {
    fn entry(&mut self, from: &OwnedFd, name: &CStr, _: FileType) -> Result<()> {
        let shown = name.to_string_lossy();
        let stat = match statat(from, name, AtFlags::SYMLINK_NOFOLLOW) {
            // overlayfs lists the whiteouts in a directory that only one layer has, and says that they do not exist.
            Err(Errno::NOENT) => return Ok(()),
            stat => stat.os("stat", &shown)?,
        };
        if self.link(name, &stat)? {
            return Ok(());
        }
        let to = &self.to;
        match FileType::from_raw_mode(stat.st_mode) {
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
            kind => {
                mknodat(to, name, kind, Mode::from_raw_mode(0o600), stat.st_rdev)
                    .os("mknod", &shown)?;
                owner_and_mode(to, name, &stat)?;
                times(to, name, &stat)
            }
        }
    }

    fn enter(&mut self, _: &OwnedFd, name: &CStr) -> Result<bool> {
        if self.depth == MAX_DEPTH {
            return Err(Errno::LOOP).os("copy", "directories nested too deep");
        }
        let shown = name.to_string_lossy();
        mkdirat(&self.to, name, Mode::from_raw_mode(0o700)).os("mkdir", &shown)?;
        self.to = openat(&self.to, name, DIRECTORY, Mode::empty()).os("open", &shown)?;
        let above = std::mem::take(&mut self.place);
        self.place = Rc::new(Place {
            above: Some((above, name.to_owned())),
        });
        self.depth += 1;
        Ok(true)
    }

    fn leave(&mut self, from: &OwnedFd) -> Result<()> {
        attributes_of_directory(from, &self.to)?;
        // Nobody else has a hand in the copy yet.
        self.to =
            openat(&self.to, "..", DIRECTORY, Mode::empty()).os("open", "copied directory")?;
        if let Some((above, _)) = &self.place.above {
            self.place = Rc::clone(above);
        }
        self.depth -= 1;
        Ok(())
    }
}

impl Copy {
    /// Whether `name` could be made a further name of a file that has been copied.
    fn link(&mut self, name: &CStr, stat: &Stat) -> Result<bool> {
        if stat.st_nlink < 2 {
            return Ok(false);
        }
        let key = (stat.st_dev, stat.st_ino);
        if let Some(first) = self.links.get_mut(&key) {
            let shown = name.to_string_lossy();
            let linked = if Rc::ptr_eq(&first.place, &self.place) {
                linkat(&self.to, &*first.name, &self.to, name, AtFlags::empty())
            } else {
                let dir = first.place.open(&self.top).os("open", &shown)?;
                linkat(dir, &*first.name, &self.to, name, AtFlags::empty())
            };
            linked.os("link", &shown)?;
            first.further = first.further.saturating_sub(1);
            if first.further == 0 {
                self.links.remove(&key);
            }
            return Ok(true);
        }
        if self.links.len() == MAX_LINKS {
            self.apart += 1;
            return Ok(false);
        }
        let first = Linked {
            place: Rc::clone(&self.place),
            name: name.to_owned(),
            further: stat.st_nlink - 1,
        };
        self.links.insert(key, first);
        Ok(false)
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use super::*;

    #[test]
    fn names_of_one_file_stay_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = |path: &str| dir.path().join(path);
        let open = |path: &Path| rustix::fs::open(path, DIRECTORY, Mode::empty()).unwrap();
        for made in ["from/a/b", "from/c", "to"] {
            std::fs::create_dir_all(path(made)).unwrap();
        }
        // More files than descriptors.
        for number in 0..1200 {
            let first = path(&format!("from/a/b/{number}"));
            std::fs::write(&first, number.to_string()).unwrap();
            for further in [format!("from/a/b/{number}-"), format!("from/c/{number}")] {
                std::fs::hard_link(&first, path(&further)).unwrap();
            }
        }
        let copied = tree(&open(&path("from")), &open(&path("to")), true).unwrap();
        assert_eq!(copied, None);
        for number in 0..1200 {
            let names = ["a/b/{}", "a/b/{}-", "c/{}"].map(|name| {
                let name = name.replace("{}", &number.to_string());
                std::fs::metadata(path(&format!("to/{name}"))).unwrap()
            });
            let inodes = names.each_ref().map(MetadataExt::ino);
            assert_eq!((names[0].nlink(), inodes), (3, [inodes[0]; 3]));
        }
    }
}
