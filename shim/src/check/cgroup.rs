//! cgroup v2: where it is, which controllers it has, and whether a container's cgroup can be made, policed and killed.

use std::path::Path;

use runtime_core::CgroupConfig;
use runtime_core::DeviceRule;
use runtime_core::{Cgroup, Hierarchy};

use super::Finding;

/// What is lost without a controller.
const CONTROLLERS: &[(&str, &str)] = &[
    ("cpu", "CPU limits and weights"),
    ("cpuset", "pinning to CPUs"),
    ("io", "I/O limits and statistics"),
    ("memory", "memory limits, OOM events and memory statistics"),
    ("pids", "limits on the number of processes"),
];

/// The hierarchy itself.
pub(super) fn hierarchy(found: &runtime_core::Result<Hierarchy>) -> Finding {
    const NAME: &str = "cgroup v2";
    const UNIFIED: &str = "/sys/fs/cgroup";
    match found {
        Ok(found) if found.root() == Path::new(UNIFIED) => Finding::ok(NAME, UNIFIED),
        Ok(found) => Finding::degraded(
            NAME,
            format!("{}, beside cgroup v1", found.root().display()),
            "controllers that cgroup v1 holds limit nothing, and the kubelet does not start",
            "boot with systemd.unified_cgroup_hierarchy=1",
        ),
        Err(error) => Finding::missing(
            NAME,
            error.chain(),
            "boot with systemd.unified_cgroup_hierarchy=1",
        ),
    }
}

/// Its controllers.
pub(super) fn controllers(hierarchy: &Hierarchy) -> Finding {
    match hierarchy.controllers() {
        Ok(present) => judge_controllers(&present),
        Err(error) => Finding::missing("controllers", error.chain(), "mount cgroup v2 again"),
    }
}

fn judge_controllers(present: &[String]) -> Finding {
    const NAME: &str = "controllers";
    let lacking: Vec<_> = CONTROLLERS
        .iter()
        .filter(|(name, _)| !present.iter().any(|p| p == name))
        .collect();
    if lacking.is_empty() {
        return Finding::ok(NAME, present.join(" "));
    }
    let names: Vec<_> = lacking.iter().map(|(name, _)| *name).collect();
    let costs: Vec<_> = lacking.iter().map(|(_, cost)| *cost).collect();
    Finding::degraded(
        NAME,
        format!("without {}", names.join(", ")),
        format!(
            "not there: {}; a container that asks for them starts, with a warning",
            costs.join("; ")
        ),
        "boot with systemd.unified_cgroup_hierarchy=1, so that cgroup v1 does not hold them",
    )
}

/// A container's cgroup: made, delegated, a device policy put in force, killed, removed.
pub(super) fn container(hierarchy: &Hierarchy) -> Finding {
    const NAME: &str = "container's cgroup";
    if !rustix::process::geteuid().is_root() {
        return Finding::needs_root(NAME);
    }
    let relative = format!(
        "sysbox-check-{}",
        rustix::process::getpid().as_raw_nonzero()
    );
    let tried = Cgroup::create(
        hierarchy,
        &relative,
        (0, 0),
        &CgroupConfig::default(),
        &DeviceRule::defaults(),
    )
    .and_then(|cgroup| {
        if !cgroup.dir().join("cgroup.kill").exists() {
            return Err(runtime_core::Error::NotFound("cgroup.kill".into()));
        }
        cgroup.remove()
    });
    match tried {
        Ok(()) => Finding::ok(NAME, "delegated, with a device policy"),
        Err(error) => Finding::missing(
            NAME,
            error.chain(),
            "let containerd's service write cgroups and load eBPF (CONFIG_CGROUP_BPF, no lockdown)",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Status;
    use super::*;

    #[test]
    fn each_lacking_controller_has_its_cost() {
        let present = |names: &str| -> Vec<String> { names.split(' ').map(String::from).collect() };
        let all = judge_controllers(&present("cpuset cpu io memory hugetlb pids rdma misc"));
        assert_eq!(
            (all.status, all.detail.as_str()),
            (Status::Ok, "cpuset cpu io memory hugetlb pids rdma misc")
        );
        let some = judge_controllers(&present("cpu io hugetlb cpuset"));
        assert_eq!(
            (some.status, some.detail.as_str()),
            (Status::Degraded, "without memory, pids")
        );
        assert!(
            some.cost.starts_with(
                "not there: memory limits, OOM events and memory statistics; limits on the number"
            ),
            "{}",
            some.cost
        );
    }
}
