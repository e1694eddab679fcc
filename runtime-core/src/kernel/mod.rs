//! What the kernel offers, in the words of the rooms above: its optional features, mounts by descriptor, id maps, netlink, FUSE, children.

pub(crate) mod features;
pub(crate) mod fs;
pub(crate) mod fuse;
pub(crate) mod fuse_control;
pub(crate) mod idmap;
pub(crate) mod mountinfo;
pub(crate) mod netlink;
pub(crate) mod reap;
