//! The cgroup beside a container's, for a process of ours that works on its files: root inside can neither see nor freeze it, and
//! the container's limits are not used up by the host's work. Where the container's is a scope of systemd's, this is a directory
//! all the same: the controllers of the slice, and so its bounds, stay as long as a delegated scope is there.

use std::os::fd::AsFd;

use rustix::io::Errno;

use super::{Cgroup, Down, Hierarchy, file, hierarchy, make};
use crate::error::{Error, OsContext, Result};

/// What is appended to the container's path.
const SUFFIX: &str = ".view";
/// Bytes that it may hold, page cache of the files that it reads and writes included, which goes when there is need.
const MEMORY: u64 = 128 << 20;
/// Threads: those of a server, and of some that are dying.
const THREADS: u64 = 128;

impl Cgroup {
    /// Makes the cgroup beside that of the container at `relative`, bounded, the host's own. Like that one, it goes when it is
    /// dropped, with whatever is in it.
    pub(crate) fn create_beside(hierarchy: &Hierarchy, relative: &str) -> Result<Cgroup> {
        let relative = format!("{relative}{SUFFIX}");
        let components = hierarchy::components(&relative)?;
        let path = hierarchy.path(&components);
        let mut refused = Vec::new();
        let raced = || Error::NotFound(format!("parent of cgroup {}", path.display()));
        // The container's own keeps it there.
        let Down::Parent(parent) = hierarchy.make_parents(&components, &mut refused)? else {
            return Err(raced());
        };
        // Twice, where a dead shim has left one.
        let made = match make(parent.as_fd(), &components, &path)? {
            Some(dir) => Some(dir),
            None => make(parent.as_fd(), &components, &path)?,
        };
        let mut cgroup = Cgroup::at(hierarchy, &components, made.ok_or_else(raced)?);
        cgroup.remove_on_drop = true;
        for (name, value) in [("memory.max", MEMORY), ("pids.max", THREADS)] {
            match file::write(cgroup.dir.as_fd(), name, &value.to_string()) {
                // This host, or an ancestor, does not have the controller.
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno).os("write", cgroup.path.join(name).display()),
            }
        }
        Ok(cgroup)
    }

    /// Removes the cgroup beside that of the container at `relative`, which a dead shim has left, and kills who is in it. None is
    /// success.
    pub(crate) fn remove_beside(hierarchy: &Hierarchy, relative: &str) -> Result<()> {
        match Cgroup::open(hierarchy, &format!("{relative}{SUFFIX}")) {
            Ok(cgroup) => {
                cgroup.kill()?;
                cgroup.remove()
            }
            Err(Error::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
