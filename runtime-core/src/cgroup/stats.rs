//! Counters of a cgroup.

/// Counters of one cgroup, absent controllers as `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {}
