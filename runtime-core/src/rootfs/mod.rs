//! The root file system (design D6, D7) as the host sees it: where it comes from, what an engine has mounted already, the
//! host's view of it, and the data roots beside its layer. What the container gets of it the stage mounts.

pub(crate) mod data_roots;
mod host_view;
pub(crate) mod mounted;
mod source;
mod superblock;

pub(crate) use host_view::{Service, Start};
pub use source::RootfsMount;
pub(crate) use source::{Overlay, RootfsSource, parse};
