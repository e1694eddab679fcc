//! Paths inside the root file system, which is hostile: every one is resolved by openat2(2) with
//! RESOLVE_IN_ROOT, so no symbolic link leads out, and used as a descriptor from then on.

use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};
use rustix::io::Errno;

use crate::error::{Error, OsContext, Result};

/// How often a path is resolved again where a rename or a mount anywhere on the host has raced with its `..` (openat2(2),
/// EAGAIN): a neighbour that renames without end must not hold a create up.
const RACES: usize = 128;

/// What a mount target must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// A directory, made with this mode if missing.
    Directory(u32),
    /// A file, made with this mode if missing.
    File(u32),
}

/// Opens `path` below `root`; an absolute path means from `root`.
pub(super) fn open(root: impl AsFd, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = path.trim_start_matches('/');
    let path = if path.is_empty() { "." } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..RACES {
        match openat2(&root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            opened => return opened,
        }
    }
    Err(Errno::AGAIN)
}

/// O_PATH descriptor of `path`, `None` where nothing is there.
pub(super) fn existing(root: impl AsFd, path: &str) -> Result<Option<OwnedFd>> {
    match open(root, path, OFlags::PATH) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(errno).os("open in the root file system", path),
    }
}

/// O_PATH descriptor of `path` to mount on, made with its parents if missing.
pub(super) fn target(root: impl AsFd, path: &str, kind: Target) -> Result<OwnedFd> {
    let root = root.as_fd();
    if let Some(fd) = existing(root, path)? {
        let stat = rustix::fs::fstat(&fd).os("stat", path)?;
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        return match kind {
            Target::Directory(_) if !is_dir => {
                Err(wrong_kind(path, "is not a directory in the image"))
            }
            Target::File(_) if is_dir => Err(wrong_kind(
                path,
                "is a directory in the image, the source is not",
            )),
            _ => Ok(fd),
        };
    }
    let path = Path::new(path);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(wrong_kind("/", "cannot be made"));
    };
    let parent = directory(root, parent)?;
    make(&parent, name, kind, path)
}

/// Opens directory `path`, making what is missing with mode 0755.
///
/// Each component is resolved below `root` before the next is made, so links in the image count as
/// they would inside.
pub(super) fn directory(root: impl AsFd, path: &Path) -> Result<OwnedFd> {
    let root = root.as_fd();
    if let Some(whole) = path.to_str()
        && let Ok(fd) = open(root, whole, OFlags::PATH | OFlags::DIRECTORY)
    {
        return Ok(fd);
    }
    let mut done = String::new();
    let mut fd =
        open(root, ".", OFlags::PATH | OFlags::DIRECTORY).os("open", "root file system")?;
    for component in path.components() {
        let Component::Normal(name) = component else {
            continue;
        };
        let name_text = name
            .to_str()
            .ok_or_else(|| wrong_kind(&path.to_string_lossy(), "is not UTF-8"))?;
        done.push('/');
        done.push_str(name_text);
        fd = match open(root, &done, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => make(&fd, name, Target::Directory(0o755), Path::new(&done))?,
            Err(errno) => return Err(errno).os("open directory in the root file system", &done),
        };
    }
    Ok(fd)
}

/// Makes `name` in `parent`; never follows a link there.
fn make(parent: &OwnedFd, name: &OsStr, kind: Target, path: &Path) -> Result<OwnedFd> {
    match kind {
        Target::Directory(mode) => {
            mkdirat(parent, name, Mode::from_raw_mode(mode)).os("mkdir", path.display())?;
        }
        Target::File(mode) => {
            let flags =
                OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(parent, name, flags, Mode::from_raw_mode(mode))
                .os("create file", path.display())?;
        }
    }
    openat(
        parent,
        name,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .os("open", path.display())
}

fn wrong_kind(path: &str, what: &str) -> Error {
    Error::invalid(
        "mounts[].destination",
        path,
        format!("{what}: choose another destination or source"),
    )
}

/// The first `limit` bytes of regular file `path`, `None` where there is none.
///
/// The kind is checked on an O_PATH descriptor first: opening a device or FIFO that an image ships
/// would act with the host's rights.
pub(super) fn read_regular(root: impl AsFd, path: &str, limit: u64) -> Option<Vec<u8>> {
    let fd = open(root, path, OFlags::PATH).ok()?;
    let stat = rustix::fs::fstat(&fd).ok()?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return None;
    }
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let file = rustix::fs::open(link, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut content = Vec::new();
    std::fs::File::from(file)
        .take(limit)
        .read_to_end(&mut content)
        .ok()?;
    Some(content)
}
