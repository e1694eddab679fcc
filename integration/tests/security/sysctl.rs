//! Sysctls of a spec change what belongs to the container, whatever is in their names and values (CVE-2022-0811,
//! 2025-52881).

use anyhow::{Result, ensure};
use integration::bed::ctr::Runtime;
use integration::bed::{cri, docker};
use integration::node::Node;
use serde_json::json;

use crate::case::Case;

pub(crate) const CASES: &[Case] = &[
    Case::docker("by_docker", by_docker),
    Case::pod("by_cri", by_cri),
];

const HOSTS: &str = "cd /proc/sys; cat kernel/core_pattern kernel/panic vm/swappiness kernel/shm_rmid_forced net/ipv4/ip_forward";

/// Names that lead elsewhere and values that hold a second setting.
const BAD: [(&str, &str); 9] = [
    ("kernel.core_pattern", "|/srv/evil"),
    ("kernel/core_pattern", "|/srv/evil"),
    ("kernel.shm_rmid_forced", "1+kernel.core_pattern=|/srv/evil"),
    (
        "kernel.shm_rmid_forced",
        "1\nkernel.core_pattern=|/srv/evil",
    ),
    ("net.ipv4/../../kernel/core_pattern", "|/srv/evil"),
    ("net/../kernel/core_pattern", "|/srv/evil"),
    ("net...kernel.core_pattern", "|/srv/evil"),
    ("kernel.shm_rmid_forced/../core_pattern", "|/srv/evil"),
    ("vm.swappiness", "1"),
];

/// runc writes two lines as they are, and the kernel takes the first.
fn kernel_stops_at(value: &str) -> bool {
    value.contains('\n')
}

fn values(node: &Node) -> Result<String> {
    Ok(node.shell(HOSTS)?.ok()?.stdout)
}

fn by_docker(bed: &docker::Bed<'_>) -> Result<()> {
    let before = values(bed.node)?;
    for (key, value) in BAD {
        let setting = format!("{key}={value}");
        let output = bed.run(&["--sysctl", &setting], &["/bin/true"])?;
        let taken = bed.runtime == Runtime::Runc && kernel_stops_at(value);
        ensure!(output.code != 0 || taken, "{setting}: {output:?}");
        ensure!(values(bed.node)? == before, "{setting} changed the host");
    }
    // One that is the container's own is set there, and only there.
    let output = bed.run(
        &["--sysctl", "net.ipv4.ip_default_ttl=77"],
        &["cat", "/proc/sys/net/ipv4/ip_default_ttl"],
    )?;
    ensure!(output.ok()?.text() == "77", "it is not set");
    ensure!(values(bed.node)? == before, "it is set outside");
    Ok(())
}

fn by_cri(bed: &cri::Bed<'_>) -> Result<()> {
    let before = values(bed.node)?;
    for (key, value) in BAD {
        if let Ok(pod) = bed.pod(json!({"linux": {"sysctls": {key: value}}})) {
            let taken = bed.kind.handler == "runc" && kernel_stops_at(value);
            ensure!(taken, "a pod with {key}={value} was made");
            pod.remove()?;
        }
        ensure!(
            values(bed.node)? == before,
            "{key}={value} changed the host"
        );
    }
    bed.node.shell("rm -rf /srv/*")?.ok().map(drop)
}
