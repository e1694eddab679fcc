//! Counters of a cgroup: what `io.containerd.cgroups.v2.Metrics` can hold.

/// Counters of one cgroup; `None` where the controller is not enabled for it.
///
/// A limit of `max` is `u64::MAX`, as containerd's own runtime reports it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    /// Processor time; always there.
    pub cpu: Option<Cpu>,
    /// Memory.
    pub memory: Option<Memory>,
    /// `memory.events`, of the whole subtree.
    pub memory_events: Option<MemoryEvents>,
    /// Number of processes and threads.
    pub pids: Option<Pids>,
    /// Block devices.
    pub io: Option<Io>,
    /// Huge pages, one entry a page size; empty without the controller.
    pub hugetlb: Vec<HugeTlb>,
    /// RDMA devices.
    pub rdma: Option<Rdma>,
}

/// Pressure of one kind, averages in per cent.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PsiData {
    /// Over 10 s.
    pub avg10: f64,
    /// Over 60 s.
    pub avg60: f64,
    /// Over 300 s.
    pub avg300: f64,
    /// Stall time in µs.
    pub total: u64,
}

/// Pressure stall information.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Psi {
    /// At least one task stalled.
    pub some: Option<PsiData>,
    /// All tasks stalled.
    pub full: Option<PsiData>,
}

/// `cpu.stat`, times in µs.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[allow(missing_docs)] // the kernel's own names
pub struct Cpu {
    pub usage_usec: u64,
    pub user_usec: u64,
    pub system_usec: u64,
    pub nr_periods: u64,
    pub nr_throttled: u64,
    pub throttled_usec: u64,
    pub nr_bursts: u64,
    pub burst_usec: u64,
    pub psi: Option<Psi>,
}

/// `memory.stat` and its neighbours, in bytes or events.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[allow(missing_docs)] // the kernel's own names
pub struct Memory {
    pub anon: u64,
    pub file: u64,
    pub kernel_stack: u64,
    pub slab: u64,
    pub sock: u64,
    pub shmem: u64,
    pub file_mapped: u64,
    pub file_dirty: u64,
    pub file_writeback: u64,
    pub anon_thp: u64,
    pub inactive_anon: u64,
    pub active_anon: u64,
    pub inactive_file: u64,
    pub active_file: u64,
    pub unevictable: u64,
    pub slab_reclaimable: u64,
    pub slab_unreclaimable: u64,
    pub pgfault: u64,
    pub pgmajfault: u64,
    /// Of anonymous and of file pages together.
    pub workingset_refault: u64,
    /// Of anonymous and of file pages together.
    pub workingset_activate: u64,
    pub workingset_nodereclaim: u64,
    pub pgrefill: u64,
    pub pgscan: u64,
    pub pgsteal: u64,
    pub pgactivate: u64,
    pub pgdeactivate: u64,
    pub pglazyfree: u64,
    pub pglazyfreed: u64,
    pub thp_fault_alloc: u64,
    pub thp_collapse_alloc: u64,
    /// `memory.current`
    pub usage: u64,
    /// `memory.max`
    pub usage_limit: u64,
    /// `memory.swap.current`
    pub swap_usage: u64,
    /// `memory.swap.max`
    pub swap_limit: u64,
    /// `memory.peak`
    pub max_usage: u64,
    /// `memory.swap.peak`
    pub swap_max_usage: u64,
    pub psi: Option<Psi>,
}

/// `memory.events`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the kernel's own names
pub struct MemoryEvents {
    pub low: u64,
    pub high: u64,
    pub max: u64,
    pub oom: u64,
    pub oom_kill: u64,
    pub oom_group_kill: u64,
}

/// `pids.current` and `pids.max`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the kernel's own names
pub struct Pids {
    pub current: u64,
    pub limit: u64,
}

/// `io.stat`
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs)] // the kernel's own names
pub struct Io {
    pub usage: Vec<IoEntry>,
    pub psi: Option<Psi>,
}

/// One device of `io.stat`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the kernel's own names
pub struct IoEntry {
    pub major: u64,
    pub minor: u64,
    pub rbytes: u64,
    pub wbytes: u64,
    pub rios: u64,
    pub wios: u64,
}

/// `hugetlb.<size>.*`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HugeTlb {
    /// Page size as the kernel spells it in the file's name (`2MB`).
    pub pagesize: String,
    /// Bytes in use.
    pub current: u64,
    /// Limit in bytes.
    pub max: u64,
    /// Allocations that failed for the limit.
    pub failcnt: u64,
}

/// `rdma.current` and `rdma.max`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the kernel's own names
pub struct Rdma {
    pub current: Vec<RdmaEntry>,
    pub limit: Vec<RdmaEntry>,
}

/// One device of `rdma.current` or `rdma.max`; `max` is `u32::MAX`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the kernel's own names
pub struct RdmaEntry {
    pub device: String,
    pub hca_handles: u32,
    pub hca_objects: u32,
}
