//! The host's unified hierarchy and the way down to a container's cgroup.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, XattrFlags, mkdirat, openat, unlinkat};
use rustix::io::Errno;

use super::{file, tree};
use crate::error::{Error, OsContext, Result};

/// `f_type` of cgroup2 (statfs(2)).
const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;

/// Marks a directory that we made above a container's, so that whichever shim empties it last removes it, also after the
/// one that made it was killed. Only host root can read or set it.
const MADE: &str = "trusted.containerd-shim-sysbox.made";

/// The mount of the unified hierarchy.
#[derive(Debug)]
pub struct Hierarchy {
    root: PathBuf,
    fd: OwnedFd,
}

/// A controller that an ancestor did not enable for its children.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) controller: String,
    /// The ancestor, and why.
    pub(super) reason: String,
}

/// Where a walk down ended.
pub(super) enum Down {
    /// At the directory that holds the last component.
    Parent(OwnedFd),
    /// A directory on the way was removed by somebody else: start again.
    Raced,
}

impl Hierarchy {
    /// Finds it: `/sys/fs/cgroup`, `/sys/fs/cgroup/unified`, or else the first whole cgroup2 of `/proc/thread-self/mountinfo`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where there is none.
    pub fn find() -> Result<Hierarchy> {
        for root in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
            if let Ok(hierarchy) = Hierarchy::at(Path::new(root)) {
                return Ok(hierarchy);
            }
        }
        const MOUNTINFO: &str = "/proc/thread-self/mountinfo";
        let mounts = std::fs::read(MOUNTINFO).os("read", MOUNTINFO)?;
        cgroup2_mounts(&String::from_utf8_lossy(&mounts))
            .find_map(|root| Hierarchy::at(&root).ok())
            .ok_or_else(|| Error::Unsupported {
                feature: "a container's cgroup".into(),
                needs: "cgroup v2: boot with systemd.unified_cgroup_hierarchy=1, or mount it: \
                        mount -t cgroup2 none /sys/fs/cgroup"
                    .into(),
            })
    }

    fn at(root: &Path) -> Result<Hierarchy> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(CWD, root, flags, Mode::empty()).os("open", root.display())?;
        let kind = rustix::fs::fstatfs(&fd).os("statfs", root.display())?;
        if kind.f_type != CGROUP2_SUPER_MAGIC {
            return Err(Error::NotFound(format!("cgroup2 at {}", root.display())));
        }
        Ok(Hierarchy {
            root: root.to_owned(),
            fd,
        })
    }

    /// Where it is mounted.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Controllers that this host has in the unified hierarchy.
    pub fn controllers(&self) -> Result<Vec<String>> {
        words(self.fd.as_fd(), "cgroup.controllers")
            .os("read", self.root.join("cgroup.controllers").display())
    }

    /// Opens the directory of `components`; `None` where it does not exist.
    pub(super) fn open(&self, components: &[&str]) -> Result<Option<OwnedFd>> {
        let mut dir = self.fd.try_clone().os("dup", self.root.display())?;
        for component in components {
            dir = match tree::open(dir.as_fd(), *component) {
                Ok(child) => child,
                Err(error) if tree::is_gone(error) => return Ok(None),
                Err(error) => return Err(error).os("open", self.path(components).display()),
            };
        }
        Ok(Some(dir))
    }

    /// Goes down to the parent of the last component, making what is missing and enabling in every ancestor all
    /// controllers it has. What does not go is added to `refused`.
    pub(super) fn make_parents(
        &self,
        components: &[&str],
        refused: &mut Vec<Refusal>,
    ) -> Result<Down> {
        let mut dir = self.fd.try_clone().os("dup", self.root.display())?;
        let parents = components.len().saturating_sub(1);
        for depth in 0..=parents {
            let above = components.get(..depth).unwrap_or_default();
            enable(dir.as_fd(), &self.path(above), refused)?;
            let Some(name) = components.get(depth).filter(|_| depth < parents) else {
                break;
            };
            let path = self.path(components.get(..=depth).unwrap_or_default());
            match mkdirat(&dir, *name, Mode::from_raw_mode(0o755)) {
                Ok(()) => {
                    if let Ok(made) = tree::open(dir.as_fd(), *name) {
                        // Without the mark the directory merely stays when it is empty.
                        let _ = rustix::fs::fsetxattr(&made, MADE, b"1", XattrFlags::empty());
                    }
                }
                Err(Errno::EXIST) => {}
                Err(error) if tree::is_gone(error) => return Ok(Down::Raced),
                Err(error) => return Err(error).os("mkdir", path.display()),
            }
            dir = match tree::open(dir.as_fd(), *name) {
                Ok(child) => child,
                Err(error) if tree::is_gone(error) => return Ok(Down::Raced),
                Err(error) => return Err(error).os("open", path.display()),
            };
        }
        Ok(Down::Parent(dir))
    }

    /// Opens the directory of `components`, enabling in every ancestor all controllers it has, as
    /// [`Hierarchy::make_parents`] does; `None` where there is none.
    pub(super) fn open_enabled(
        &self,
        components: &[&str],
        refused: &mut Vec<Refusal>,
    ) -> Result<Option<OwnedFd>> {
        for depth in 0..components.len() {
            let above = components.get(..depth).unwrap_or_default();
            let Some(dir) = self.open(above)? else {
                return Ok(None);
            };
            enable(dir.as_fd(), &self.path(above), refused)?;
        }
        self.open(components)
    }

    /// Absolute path of `components`.
    pub(super) fn path(&self, components: &[&str]) -> PathBuf {
        let mut path = self.root.clone();
        path.extend(components);
        path
    }
}

/// Removes `dir` and its parents, `components` being its path, as long as they are marked as ours and empty.
pub(super) fn remove_made(mut dir: OwnedFd, components: &[&str]) {
    for name in components.iter().rev() {
        let mut mark = [0; 8];
        if rustix::fs::fgetxattr(&dir, MADE, &mut mark).is_err() {
            return;
        }
        let Ok(parent) = tree::open(dir.as_fd(), "..") else {
            return;
        };
        // Somebody else's may be there by now.
        if !tree::is_at(parent.as_fd(), name, dir.as_fd())
            || unlinkat(&parent, *name, AtFlags::REMOVEDIR).is_err()
        {
            return;
        }
        dir = parent;
    }
}

/// Enables for the children of `dir` every controller it has. Domains with processes (EBUSY), threaded ones and
/// controllers that vanish meanwhile refuse: noted, because only a limit that needs one makes it matter.
fn enable(dir: BorrowedFd<'_>, path: &Path, refused: &mut Vec<Refusal>) -> Result<()> {
    let has = match words(dir, "cgroup.controllers") {
        Ok(has) => has,
        Err(error) if tree::is_gone(error) => return Ok(()),
        Err(error) => return Err(error).os("read", path.join("cgroup.controllers").display()),
    };
    if has.is_empty() {
        return Ok(());
    }
    let on = words(dir, "cgroup.subtree_control").unwrap_or_default();
    let missing: Vec<_> = has.into_iter().filter(|name| !on.contains(name)).collect();
    let commands: Vec<_> = missing.iter().map(|name| format!("+{name}")).collect();
    if commands.is_empty()
        || file::write(dir, "cgroup.subtree_control", &commands.join(" ")).is_ok()
    {
        return Ok(());
    }
    for (controller, command) in missing.into_iter().zip(&commands) {
        if let Err(error) = file::write(dir, "cgroup.subtree_control", command) {
            let file = path.join("cgroup.subtree_control");
            let error = std::io::Error::from(error);
            refused.push(Refusal {
                reason: format!("write {command:?} to {}: {error}", file.display()),
                controller,
            });
        }
    }
    Ok(())
}

/// The words of a one-line file.
pub(super) fn words(dir: BorrowedFd<'_>, name: &str) -> rustix::io::Result<Vec<String>> {
    Ok(file::read(dir, name)?
        .split_ascii_whitespace()
        .map(str::to_owned)
        .collect())
}

/// Mount points of whole cgroup2 hierarchies in the text of `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).
fn cgroup2_mounts(mountinfo: &str) -> impl Iterator<Item = PathBuf> {
    mountinfo.lines().filter_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (root, point) = (mount.next()?, mount.next()?);
        let whole = root == "/" && file_system.split(' ').next()? == "cgroup2";
        whole.then(|| PathBuf::from(unescape(point)))
    })
}

/// Octal escapes of mountinfo: space, tab, newline, backslash.
fn unescape(text: &str) -> String {
    [
        (r"\040", " "),
        (r"\011", "\t"),
        (r"\012", "\n"),
        (r"\134", r"\"),
    ]
    .iter()
    .fold(text.to_owned(), |text, (code, plain)| {
        text.replace(code, plain)
    })
}

/// The components of a path relative to the root of the hierarchy.
///
/// # Errors
/// [`Error::Invalid`] names `linux.cgroupsPath` when it is the root itself or climbs.
pub(super) fn components(relative: &str) -> Result<Vec<&str>> {
    let components: Vec<_> = relative
        .split('/')
        .filter(|part| !part.is_empty())
        .collect();
    let bad = components.iter().any(|part| matches!(*part, "." | ".."));
    if components.is_empty() || bad || relative.contains('\0') {
        return Err(Error::invalid(
            "linux.cgroupsPath",
            relative,
            "give a path of its own below the root of the hierarchy, without . and ..",
        ));
    }
    Ok(components)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_cgroup2_mounts_are_found() {
        let text = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                    40 31 0:38 /sub /bound rw - cgroup2 cgroup2 rw\n\
                    41 31 0:38 / /a\\040b rw,nosuid shared:1 master:2 - cgroup2 cgroup2 rw\n\
                    42 31 0:39 / /v1 rw - cgroup cgroup rw,cpu\n";
        assert_eq!(
            cgroup2_mounts(text).collect::<Vec<_>>(),
            [PathBuf::from("/a b")]
        );
    }

    #[test]
    fn paths_are_below_the_root() {
        assert_eq!(components("/a//b/c.scope").unwrap(), ["a", "b", "c.scope"]);
        for bad in ["", "/", "a/../b", "./a", "a\0b"] {
            let error = components(bad).unwrap_err();
            assert!(
                matches!(error, Error::Invalid { ref field, .. } if field == "linux.cgroupsPath")
            );
        }
    }
}
