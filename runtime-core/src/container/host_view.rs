//! Starting the process that serves the host's view of a root file system.

use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::cgroup::{Cgroup, Hierarchy};
use crate::rootfs::Start;
use crate::stage;
use crate::stage::parent::{self, Fds};
use crate::stage::proto::{FdKind, HostViewRequest, Message, unexpected};

/// How long it may take until it serves.
const PATIENCE: Duration = Duration::from_secs(10);

/// Starts servers of the mount `root` in user namespace `userns`, in a cgroup beside `cgroup`, the container's, that is made for the
/// first of them and goes with what is returned.
pub(super) fn starter(root: OwnedFd, userns: OwnedFd, cgroup: &str) -> Start {
    let relative = cgroup.to_owned();
    let mut cgroup = None;
    Box::new(move |requests, last| {
        let dir = match &cgroup {
            None => {
                let made = Cgroup::create_beside(&Hierarchy::find()?, &relative)?;
                cgroup.insert(made).open_dir()?
            }
            Some(made) => made.open_dir()?,
        };
        let mut fds = Fds::default();
        fds.add(FdKind::Cgroup, Some(&dir));
        fds.add(FdKind::Rootfs, Some(&root));
        fds.add(FdKind::Userns, Some(&userns));
        fds.add(FdKind::Requests, Some(&requests));
        let request = HostViewRequest {
            last,
            fds: fds.kinds,
        };
        let (channel, mut children) = parent::spawn(stage::HOST_VIEW)?;
        children.request(&request, &fds.fds)?;
        match parent::news(&channel, &mut children, PATIENCE)? {
            (Message::Ready { .. }, _) => {}
            (other, _) => return Err(unexpected(&format!("{other:?} from the host's view"))),
        }
        let started = children.into_pidfds().pop();
        started.ok_or_else(|| unexpected("no process"))
    })
}
