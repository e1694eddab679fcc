//! The kernel's names for what it has looked up: numbers, and here the path that led to each last.
//!
//! Paths, not descriptors: an export looks at every file of an image, and a shim may have few descriptors. The container
//! changes its files meanwhile, so a path is only a hint, and what it leads to is compared with what it led to before.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use rustix::io::Errno;

/// The root's number (fuse(4)).
pub(super) const ROOT: u64 = 1;
/// Deepest path that is followed; the kernel takes 4096 bytes.
const MAX_DEPTH: usize = 2048;

/// Device and inode number: what is the same under every path.
pub(super) type Key = (u64, u64);

/// What the kernel knows.
#[derive(Debug)]
pub(super) struct Nodes {
    by_number: HashMap<u64, Node>,
    by_key: HashMap<Key, u64>,
    last: u64,
}

#[derive(Debug)]
struct Node {
    key: Key,
    parent: u64,
    name: OsString,
    /// How often the kernel was told of it, less what it has forgotten.
    lookups: u64,
}

impl Nodes {
    /// Nothing but the root; what is found gets numbers above `last`.
    pub(super) fn new(root: Key, last: u64) -> Nodes {
        let node = Node {
            key: root,
            parent: ROOT,
            name: OsString::new(),
            lookups: 1,
        };
        Nodes {
            by_number: HashMap::from([(ROOT, node)]),
            by_key: HashMap::from([(root, ROOT)]),
            last,
        }
    }

    /// The number of what was found as `name` in `parent`; the kernel is told of it.
    pub(super) fn found(&mut self, key: Key, parent: u64, name: &OsStr) -> u64 {
        let number = match self.by_key.get(&key) {
            Some(number) => *number,
            None => {
                self.last += 1;
                self.by_key.insert(key, self.last);
                self.last
            }
        };
        let node = self.by_number.entry(number).or_insert_with(|| Node {
            key,
            parent,
            name: name.into(),
            lookups: 0,
        });
        node.lookups += 1;
        if number != ROOT {
            (node.parent, node.name) = (parent, name.into());
        }
        number
    }

    /// The kernel forgets `count` tellings.
    pub(super) fn forget(&mut self, number: u64, count: u64) {
        let Some(node) = self.by_number.get_mut(&number) else {
            return;
        };
        node.lookups = node.lookups.saturating_sub(count);
        if node.lookups == 0 && number != ROOT {
            self.by_key.remove(&node.key);
            self.by_number.remove(&number);
        }
    }

    /// Where it was last, relative to the root, and what it was.
    pub(super) fn path(&self, number: u64) -> Result<(PathBuf, Key), Errno> {
        let key = self.by_number.get(&number).ok_or(Errno::STALE)?.key;
        let (mut names, mut at) = (Vec::new(), number);
        while at != ROOT {
            // Directories that the container has moved into each other's old places could form a ring.
            let node = self.by_number.get(&at).filter(|_| names.len() < MAX_DEPTH);
            let node = node.ok_or(Errno::STALE)?;
            names.push(node.name.as_os_str());
            at = node.parent;
        }
        let path = if names.is_empty() {
            ".".into()
        } else {
            names.into_iter().rev().collect()
        };
        Ok((path, key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> &OsStr {
        OsStr::new(text)
    }

    #[test]
    fn numbers_last_until_all_is_forgotten() {
        let mut nodes = Nodes::new((1, 2), ROOT);
        let dir = nodes.found((1, 3), ROOT, name("dir"));
        let file = nodes.found((1, 4), dir, name("file"));
        assert_eq!(nodes.path(file), Ok(("dir/file".into(), (1, 4))));
        assert_eq!(nodes.path(ROOT), Ok((".".into(), (1, 2))));
        assert_eq!(nodes.found((1, 4), ROOT, name("link")), file, "a hard link");
        assert_eq!(nodes.path(file), Ok(("link".into(), (1, 4))));
        nodes.forget(file, 1);
        assert!(nodes.path(file).is_ok());
        nodes.forget(file, 1);
        assert_eq!(nodes.path(file), Err(Errno::STALE));
        assert_ne!(nodes.found((1, 4), ROOT, name("link")), file);
        nodes.forget(ROOT, 9);
        assert!(nodes.path(ROOT).is_ok());
    }

    #[test]
    fn a_ring_of_moved_directories_is_stale() {
        let mut nodes = Nodes::new((1, 2), ROOT);
        let a = nodes.found((1, 3), ROOT, name("a"));
        let b = nodes.found((1, 4), a, name("b"));
        assert_eq!(nodes.found((1, 3), b, name("a")), a);
        assert_eq!(nodes.path(b), Err(Errno::STALE));
    }
}
