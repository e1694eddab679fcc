//! cgroup v2 (design D8): one directory for the container, delegated, with a leaf `init.scope` for its first process and
//! for exec'd ones.

pub mod limits;
pub mod stats;
