//! Nodes that tests borrow: one test at a time has a node for itself, and gives it back only as it found it.

use std::fs;
use std::ops::Deref;
use std::sync::{Mutex, PoisonError};

use anyhow::{Error, Result, anyhow};

use crate::debian::Release;
use crate::image::Image;
use crate::leak::{self, Snapshot};
use crate::node::Node;

static IDLE: Mutex<Vec<Idle>> = Mutex::new(Vec::new());

/// How much of a log comes with an error.
const LOG_LINES: usize = 40;

/// A node that nobody uses, how it was when it was new, and what it was made as.
type Idle = (Node, Snapshot, String);

/// A node for one test. Dropped without [`Lease::give_back`] it is killed and removed.
#[derive(Debug)]
pub struct Lease {
    node: Node,
    before: Snapshot,
    kind: String,
    log: usize,
}

impl Lease {
    /// An idle node of `release`, else a new one, with all images imported.
    ///
    /// # Errors
    /// If a new one is needed and cannot be started.
    pub fn new(release: Release) -> Result<Self> {
        Self::of(release.suite(), || {
            let node = Node::builder(release).images(&Image::PACKAGED).start()?;
            node.import(Image::Busybox)?;
            Ok(node)
        })
    }

    /// An idle node that was made as `kind`, else the one that `make` makes.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn of(kind: &str, make: impl FnOnce() -> Result<Node>) -> Result<Self> {
        let (node, before, kind) = match take(kind) {
            Some(idle) => idle,
            None => {
                let node = make()?;
                let before = Snapshot::of_node(&node);
                (node, before, kind.to_owned())
            }
        };
        let log = fs::metadata(node.containerd_log())
            .map_or(0, |meta| usize::try_from(meta.len()).unwrap_or(0));
        Ok(Self {
            node,
            before,
            kind,
            log,
        })
    }

    /// Checks that the test left nothing, and lets the next one have the node.
    ///
    /// # Errors
    /// If something is left; the node is removed then.
    pub fn give_back(self) -> Result<()> {
        leak::settled(&self.node, &self.before)?;
        IDLE.lock().unwrap_or_else(PoisonError::into_inner).push((
            self.node,
            self.before,
            self.kind,
        ));
        Ok(())
    }

    /// The error with what containerd and its shims logged since the lease began, at most the last [`LOG_LINES`].
    #[must_use]
    pub fn explain(&self, error: &Error) -> Error {
        let bytes = fs::read(self.node.containerd_log()).unwrap_or_default();
        let text = String::from_utf8_lossy(bytes.get(self.log..).unwrap_or_default()).into_owned();
        let all: Vec<_> = text.lines().collect();
        let last = all.get(all.len().saturating_sub(LOG_LINES)..);
        let log = last.unwrap_or_default().join("\n");
        anyhow!("{error:#}\n--- the engine's log since the test began\n{log}")
    }
}

impl Deref for Lease {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

/// Stops all idle nodes. Without it they stop when the process ends, and remove themselves a moment later.
pub fn drain() {
    IDLE.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

fn take(kind: &str) -> Option<Idle> {
    let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
    let found = idle.iter().position(|(.., made_as)| made_as == kind)?;
    Some(idle.swap_remove(found))
}
