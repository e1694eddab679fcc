//! Counters of a cgroup as the protobuf message that containerd's clients know (`io.containerd.cgroups.v2.Metrics`).

use containerd_shim_protos::cgroups_v2::metrics as proto;
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};
use runtime_core::stats::{
    Cpu, HugeTlb, Io, IoEntry, Memory, MemoryEvents, Pids, Psi, PsiData, Rdma, RdmaEntry, Stats,
};

/// The bare name: dockerd and the CRI plugin compare it as it is.
const METRICS_URL: &str = "io.containerd.cgroups.v2.Metrics";

/// The message, packed.
///
/// What the cgroup has no controller for is there with zeroes, as from runc's shim: clients (`nerdctl stats`) read the
/// parts without asking for them.
pub(crate) fn metrics(stats: &Stats) -> Any {
    let message = proto::Metrics {
        pids: part(&stats.pids, pids),
        cpu: part(&stats.cpu, cpu),
        memory: part(&stats.memory, memory),
        rdma: part(&stats.rdma, rdma),
        io: part(&stats.io, io),
        hugetlb: stats.hugetlb.iter().map(hugetlb).collect(),
        memory_events: part(&stats.memory_events, memory_events),
        ..proto::Metrics::default()
    };
    Any {
        type_url: METRICS_URL.into(),
        // Encoding into memory fails only beyond 2 GiB.
        value: message.write_to_bytes().unwrap_or_default(),
        ..Any::default()
    }
}

fn part<From, To: Default>(from: &Option<From>, to: fn(&From) -> To) -> MessageField<To> {
    MessageField::some(from.as_ref().map(to).unwrap_or_default())
}

fn pids(from: &Pids) -> proto::PidsStat {
    proto::PidsStat {
        current: from.current,
        limit: from.limit,
        ..proto::PidsStat::default()
    }
}

fn psi(from: Option<Psi>) -> MessageField<proto::PSIStats> {
    let data = |data: PsiData| proto::PSIData {
        avg10: data.avg10,
        avg60: data.avg60,
        avg300: data.avg300,
        total: data.total,
        ..proto::PSIData::default()
    };
    from.map(|psi| proto::PSIStats {
        some: psi.some.map(data).into(),
        full: psi.full.map(data).into(),
        ..proto::PSIStats::default()
    })
    .into()
}

fn cpu(from: &Cpu) -> proto::CPUStat {
    proto::CPUStat {
        usage_usec: from.usage_usec,
        user_usec: from.user_usec,
        system_usec: from.system_usec,
        nr_periods: from.nr_periods,
        nr_throttled: from.nr_throttled,
        throttled_usec: from.throttled_usec,
        nr_bursts: from.nr_bursts,
        burst_usec: from.burst_usec,
        psi: psi(from.psi),
        ..proto::CPUStat::default()
    }
}

fn memory(from: &Memory) -> proto::MemoryStat {
    proto::MemoryStat {
        anon: from.anon,
        file: from.file,
        kernel_stack: from.kernel_stack,
        slab: from.slab,
        sock: from.sock,
        shmem: from.shmem,
        file_mapped: from.file_mapped,
        file_dirty: from.file_dirty,
        file_writeback: from.file_writeback,
        anon_thp: from.anon_thp,
        inactive_anon: from.inactive_anon,
        active_anon: from.active_anon,
        inactive_file: from.inactive_file,
        active_file: from.active_file,
        unevictable: from.unevictable,
        slab_reclaimable: from.slab_reclaimable,
        slab_unreclaimable: from.slab_unreclaimable,
        pgfault: from.pgfault,
        pgmajfault: from.pgmajfault,
        workingset_refault: from.workingset_refault,
        workingset_activate: from.workingset_activate,
        workingset_nodereclaim: from.workingset_nodereclaim,
        pgrefill: from.pgrefill,
        pgscan: from.pgscan,
        pgsteal: from.pgsteal,
        pgactivate: from.pgactivate,
        pgdeactivate: from.pgdeactivate,
        pglazyfree: from.pglazyfree,
        pglazyfreed: from.pglazyfreed,
        thp_fault_alloc: from.thp_fault_alloc,
        thp_collapse_alloc: from.thp_collapse_alloc,
        usage: from.usage,
        usage_limit: from.usage_limit,
        swap_usage: from.swap_usage,
        swap_limit: from.swap_limit,
        max_usage: from.max_usage,
        swap_max_usage: from.swap_max_usage,
        psi: psi(from.psi),
        ..proto::MemoryStat::default()
    }
}

fn memory_events(from: &MemoryEvents) -> proto::MemoryEvents {
    proto::MemoryEvents {
        low: from.low,
        high: from.high,
        max: from.max,
        oom: from.oom,
        oom_kill: from.oom_kill,
        oom_group_kill: from.oom_group_kill,
        ..proto::MemoryEvents::default()
    }
}

fn io(from: &Io) -> proto::IOStat {
    let entry = |entry: &IoEntry| proto::IOEntry {
        major: entry.major,
        minor: entry.minor,
        rbytes: entry.rbytes,
        wbytes: entry.wbytes,
        rios: entry.rios,
        wios: entry.wios,
        ..proto::IOEntry::default()
    };
    proto::IOStat {
        usage: from.usage.iter().map(entry).collect(),
        psi: psi(from.psi),
        ..proto::IOStat::default()
    }
}

fn hugetlb(from: &HugeTlb) -> proto::HugeTlbStat {
    proto::HugeTlbStat {
        pagesize: from.pagesize.clone(),
        current: from.current,
        max: from.max,
        failcnt: from.failcnt,
        ..proto::HugeTlbStat::default()
    }
}

fn rdma(from: &Rdma) -> proto::RdmaStat {
    let entry = |entry: &RdmaEntry| proto::RdmaEntry {
        device: entry.device.clone(),
        hca_handles: entry.hca_handles,
        hca_objects: entry.hca_objects,
        ..proto::RdmaEntry::default()
    };
    proto::RdmaStat {
        current: from.current.iter().map(entry).collect(),
        limit: from.limit.iter().map(entry).collect(),
        ..proto::RdmaStat::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_cri_plugin_and_docker_read() {
        let stats = Stats {
            cpu: Some(Cpu {
                usage_usec: 7,
                ..Cpu::default()
            }),
            memory_events: Some(MemoryEvents {
                oom_kill: 2,
                ..MemoryEvents::default()
            }),
            pids: Some(Pids {
                current: 3,
                limit: u64::MAX,
            }),
            ..Stats::default()
        };
        let any = metrics(&stats);
        assert_eq!(any.type_url, "io.containerd.cgroups.v2.Metrics");
        let message = proto::Metrics::parse_from_bytes(&any.value).unwrap();
        assert_eq!(message.cpu.usage_usec, 7);
        assert_eq!(message.memory_events.oom_kill, 2);
        assert_eq!((message.pids.current, message.pids.limit), (3, u64::MAX));
        assert_eq!(message.memory.usage, 0);
        let parts = [
            message.memory.is_some(),
            message.io.is_some(),
            message.rdma.is_some(),
        ];
        assert_eq!(parts, [true; 3], "clients read them without asking");
    }
}
