//! The server's side, in a process of its own.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use fuser::{Session, SessionACL};
use rustix::net::{Shutdown, shutdown};

use super::server::Server;
use super::tree::Tree;
use super::workers::Workers;
use crate::error::{OsContext, Result};

/// How long an operation may take. One may copy a file of a lower layer, so it is longer than one thinks.
const PATIENCE: Duration = Duration::from_secs(10);

/// A root file system that is to be served.
#[derive(Debug)]
pub(crate) struct Service(Arc<Tree>);

impl AsFd for Service {
    /// The root that is served.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Service {
    /// Of the file system at `root`, a mount. Files get numbers above `last`.
    pub(crate) fn new(root: OwnedFd, last: u64) -> Result<Service> {
        Tree::new(root, last)
            .map(|tree| Service(Arc::new(tree)))
            .os("stat", "root file system")
    }

    /// Answers what comes from `socket`, until its end.
    pub(crate) fn run(&self, socket: BorrowedFd<'_>) -> Result<()> {
        let copy = || socket.try_clone_to_owned().os("dup", "view's socket");
        let own = copy()?;
        // Whoever is at the other end kills us then: the threads that hang may keep our end open.
        let give_up = move || {
            let _ = shutdown(own.as_fd(), Shutdown::Both);
        };
        let server = Server::new(Arc::clone(&self.0), Workers::new(PATIENCE, give_up));
        let config = fuser::Config::default();
        let session =
            Session::from_fd(server, copy()?, SessionACL::Owner, config).os("serve", "view")?;
        // The end of the socket is no request, and so an error.
        let _ = session.run();
        Ok(())
    }
}
