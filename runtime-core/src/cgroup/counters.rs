//! Counters read from a cgroup's own files.
//!
//! Formats: Documentation/admin-guide/cgroup-v2.rst, Documentation/accounting/psi.rst.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;

use super::file;
use super::stats::{
    Cpu, HugeTlb, Io, IoEntry, Memory, MemoryEvents, Pids, Psi, PsiData, Rdma, RdmaEntry, Stats,
};

/// Reads all counters below `dir`, a cgroup's directory. ENODEV: the cgroup has been removed.
pub(super) fn read(dir: BorrowedFd<'_>) -> rustix::io::Result<Stats> {
    let cpu = file::read_if_present(dir, "cpu.stat")?.map(|text| cpu(&text, psi(dir, "cpu")));
    let memory = match file::read_if_present(dir, "memory.stat")? {
        Some(text) => Some(Memory {
            usage: number(dir, "memory.current")?,
            usage_limit: number(dir, "memory.max")?,
            swap_usage: number(dir, "memory.swap.current")?,
            swap_limit: number(dir, "memory.swap.max")?,
            max_usage: number(dir, "memory.peak")?,
            swap_max_usage: number(dir, "memory.swap.peak")?,
            psi: psi(dir, "memory"),
            ..memory(&text)
        }),
        None => None,
    };
    let memory_events =
        file::read_if_present(dir, "memory.events")?.map(|text| memory_events(&text));
    let pids = match file::read_if_present(dir, "pids.current")? {
        Some(text) => Some(Pids {
            current: parse_number(&text),
            limit: number(dir, "pids.max")?,
        }),
        None => None,
    };
    let io = file::read_if_present(dir, "io.stat")?.map(|text| Io {
        usage: io(&text),
        psi: psi(dir, "io"),
    });
    let rdma = match file::read_if_present(dir, "rdma.current")? {
        Some(text) => Some(Rdma {
            current: rdma(&text),
            limit: rdma(&file::read_if_present(dir, "rdma.max")?.unwrap_or_default()),
        }),
        None => None,
    };
    Ok(Stats {
        cpu,
        memory,
        memory_events,
        pids,
        io,
        hugetlb: hugetlb(dir)?,
        rdma,
    })
}

/// `oom_kill` of `memory.events`; `None` without the memory controller.
pub(super) fn oom_kills(dir: BorrowedFd<'_>) -> Option<u64> {
    let text = file::read_if_present(dir, "memory.events").ok()??;
    Some(memory_events(&text).oom_kill)
}

/// Huge page sizes are the host's: `/sys/kernel/mm/hugepages/hugepages-2048kB`. Listing the cgroup instead would make
/// the container, which may fill it with directories, set the cost.
fn hugetlb(dir: BorrowedFd<'_>) -> rustix::io::Result<Vec<HugeTlb>> {
    let Ok(sizes) = std::fs::read_dir("/sys/kernel/mm/hugepages") else {
        return Ok(Vec::new());
    };
    let mut entries = Vec::new();
    for size in sizes.flatten() {
        let Some(pagesize) = size.file_name().to_str().and_then(pagesize) else {
            continue;
        };
        let Some(current) = file::read_if_present(dir, &format!("hugetlb.{pagesize}.current"))?
        else {
            continue;
        };
        let events = file::read_if_present(dir, &format!("hugetlb.{pagesize}.events"))?;
        entries.push(HugeTlb {
            current: parse_number(&current),
            max: number(dir, &format!("hugetlb.{pagesize}.max"))?,
            failcnt: events.map_or(0, |text| get(&pairs(&text), "max")),
            pagesize,
        });
    }
    entries.sort_by(|a, b| a.pagesize.cmp(&b.pagesize));
    Ok(entries)
}

/// The cgroup's spelling of a directory of `/sys/kernel/mm/hugepages` (mem_fmt of mm/hugetlb_cgroup.c).
fn pagesize(name: &str) -> Option<String> {
    let kib: u64 = name
        .strip_prefix("hugepages-")?
        .strip_suffix("kB")?
        .parse()
        .ok()?;
    Some(match kib {
        kib if kib >= 1 << 20 => format!("{}GB", kib >> 20),
        kib if kib >= 1 << 10 => format!("{}MB", kib >> 10),
        kib => format!("{kib}KB"),
    })
}

fn number(dir: BorrowedFd<'_>, name: &str) -> rustix::io::Result<u64> {
    Ok(file::read_if_present(dir, name)?.map_or(0, |text| parse_number(&text)))
}

fn parse_number(text: &str) -> u64 {
    match text.trim() {
        "max" => u64::MAX,
        digits => digits.parse().unwrap_or(0),
    }
}

/// `key value` lines.
fn pairs(text: &str) -> HashMap<&str, u64> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(key, value)| (key, parse_number(value)))
        .collect()
}

fn get(pairs: &HashMap<&str, u64>, key: &str) -> u64 {
    pairs.get(key).copied().unwrap_or(0)
}

fn cpu(text: &str, psi: Option<Psi>) -> Cpu {
    let pairs = pairs(text);
    let get = |key| get(&pairs, key);
    Cpu {
        usage_usec: get("usage_usec"),
        user_usec: get("user_usec"),
        system_usec: get("system_usec"),
        nr_periods: get("nr_periods"),
        nr_throttled: get("nr_throttled"),
        throttled_usec: get("throttled_usec"),
        nr_bursts: get("nr_bursts"),
        burst_usec: get("burst_usec"),
        psi,
    }
}

fn memory(text: &str) -> Memory {
    let pairs = pairs(text);
    let get = |key: &str| get(&pairs, key);
    // Linux 5.9 split the working-set counters into _anon and _file.
    let split = |key: &str| match pairs.get(key) {
        Some(value) => *value,
        None => get(&format!("{key}_anon")).saturating_add(get(&format!("{key}_file"))),
    };
    Memory {
        anon: get("anon"),
        file: get("file"),
        kernel_stack: get("kernel_stack"),
        slab: get("slab"),
        sock: get("sock"),
        shmem: get("shmem"),
        file_mapped: get("file_mapped"),
        file_dirty: get("file_dirty"),
        file_writeback: get("file_writeback"),
        anon_thp: get("anon_thp"),
        inactive_anon: get("inactive_anon"),
        active_anon: get("active_anon"),
        inactive_file: get("inactive_file"),
        active_file: get("active_file"),
        unevictable: get("unevictable"),
        slab_reclaimable: get("slab_reclaimable"),
        slab_unreclaimable: get("slab_unreclaimable"),
        pgfault: get("pgfault"),
        pgmajfault: get("pgmajfault"),
        workingset_refault: split("workingset_refault"),
        workingset_activate: split("workingset_activate"),
        workingset_nodereclaim: get("workingset_nodereclaim"),
        pgrefill: get("pgrefill"),
        pgscan: get("pgscan"),
        pgsteal: get("pgsteal"),
        pgactivate: get("pgactivate"),
        pgdeactivate: get("pgdeactivate"),
        pglazyfree: get("pglazyfree"),
        pglazyfreed: get("pglazyfreed"),
        thp_fault_alloc: get("thp_fault_alloc"),
        thp_collapse_alloc: get("thp_collapse_alloc"),
        ..Memory::default()
    }
}

fn memory_events(text: &str) -> MemoryEvents {
    let pairs = pairs(text);
    let get = |key| get(&pairs, key);
    MemoryEvents {
        low: get("low"),
        high: get("high"),
        max: get("max"),
        oom: get("oom"),
        oom_kill: get("oom_kill"),
        oom_group_kill: get("oom_group_kill"),
    }
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0` lines; a device without counters has a bare line.
fn io(text: &str) -> Vec<IoEntry> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let (major, minor) = words.next()?.split_once(':')?;
            let mut entry = IoEntry {
                major: major.parse().ok()?,
                minor: minor.parse().ok()?,
                ..IoEntry::default()
            };
            for (key, value) in words.filter_map(|word| word.split_once('=')) {
                let value = parse_number(value);
                match key {
                    "rbytes" => entry.rbytes = value,
                    "wbytes" => entry.wbytes = value,
                    "rios" => entry.rios = value,
                    "wios" => entry.wios = value,
                    _ => {}
                }
            }
            Some(entry)
        })
        .collect()
}

/// `mlx4_0 hca_handle=2 hca_object=2000` lines.
fn rdma(text: &str) -> Vec<RdmaEntry> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let mut entry = RdmaEntry {
                device: words.next()?.to_owned(),
                ..RdmaEntry::default()
            };
            for (key, value) in words.filter_map(|word| word.split_once('=')) {
                let value = u32::try_from(parse_number(value)).unwrap_or(u32::MAX);
                match key {
                    "hca_handle" => entry.hca_handles = value,
                    "hca_object" => entry.hca_objects = value,
                    _ => {}
                }
            }
            Some(entry)
        })
        .collect()
}

/// `<resource>.pressure`; `None` where the kernel does not account it (`psi=0`, `cgroup.pressure` 0).
fn psi(dir: BorrowedFd<'_>, resource: &str) -> Option<Psi> {
    let text = file::read_if_present(dir, &format!("{resource}.pressure")).ok()??;
    Some(parse_psi(&text))
}

fn parse_psi(text: &str) -> Psi {
    let mut psi = Psi::default();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let kind = words.next();
        let mut data = PsiData::default();
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let average = || value.parse().unwrap_or(0.0);
            match key {
                "avg10" => data.avg10 = average(),
                "avg60" => data.avg60 = average(),
                "avg300" => data.avg300 = average(),
                "total" => data.total = parse_number(value),
                _ => {}
            }
        }
        match kind {
            Some("some") => psi.some = Some(data),
            Some("full") => psi.full = Some(data),
            _ => {}
        }
    }
    psi
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_stat_with_and_without_the_controller() {
        let without = cpu("usage_usec 7\nuser_usec 4\nsystem_usec 3\n", None);
        assert_eq!(
            (without.usage_usec, without.user_usec, without.system_usec),
            (7, 4, 3)
        );
        assert_eq!(without.nr_periods, 0);
        let with = cpu(
            "usage_usec 7\nnice_usec 0\nnr_periods 5\nnr_throttled 2\nthrottled_usec 9\nnr_bursts 1\nburst_usec 8\n",
            None,
        );
        assert_eq!(
            (
                with.nr_periods,
                with.nr_throttled,
                with.throttled_usec,
                with.nr_bursts,
                with.burst_usec
            ),
            (5, 2, 9, 1, 8)
        );
    }

    #[test]
    fn memory_stat_adds_up_split_counters() {
        let new = memory(
            "anon 1\nworkingset_refault_anon 10\nworkingset_refault_file 5\nworkingset_activate_file 2\npgfault 3\n",
        );
        assert_eq!(
            (
                new.anon,
                new.workingset_refault,
                new.workingset_activate,
                new.pgfault
            ),
            (1, 15, 2, 3)
        );
        assert_eq!(memory("workingset_refault 4\n").workingset_refault, 4);
    }

    #[test]
    fn events_limits_and_devices() {
        let events = memory_events("low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\noom_group_kill 6\n");
        assert_eq!(
            events,
            MemoryEvents {
                low: 1,
                high: 2,
                max: 3,
                oom: 4,
                oom_kill: 5,
                oom_group_kill: 6
            }
        );
        assert_eq!(parse_number("max\n"), u64::MAX);
        assert_eq!(parse_number("42\n"), 42);
        assert_eq!(
            io("8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n259:0\nnonsense\n"),
            [
                IoEntry {
                    major: 8,
                    minor: 16,
                    rbytes: 1,
                    wbytes: 2,
                    rios: 3,
                    wios: 4
                },
                IoEntry {
                    major: 259,
                    ..IoEntry::default()
                }
            ]
        );
        assert_eq!(
            rdma("mlx4_0 hca_handle=2 hca_object=max\n"),
            [RdmaEntry {
                device: "mlx4_0".into(),
                hca_handles: 2,
                hca_objects: u32::MAX
            }]
        );
    }

    #[test]
    fn pressure() {
        let psi = parse_psi("some avg10=1.50 avg60=0.25 avg300=0.00 total=77\n");
        assert_eq!(
            psi.some,
            Some(PsiData {
                avg10: 1.5,
                avg60: 0.25,
                avg300: 0.0,
                total: 77
            })
        );
        assert_eq!(psi.full, None);
    }

    #[test]
    fn page_sizes_are_spelt_as_the_kernel_does() {
        assert_eq!(pagesize("hugepages-64kB").as_deref(), Some("64KB"));
        assert_eq!(pagesize("hugepages-2048kB").as_deref(), Some("2MB"));
        assert_eq!(pagesize("hugepages-1048576kB").as_deref(), Some("1GB"));
        assert_eq!(pagesize("other"), None);
    }
}
