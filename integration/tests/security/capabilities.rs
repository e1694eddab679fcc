//! No program begins with inheritable capabilities that nobody asked for: a file's own inheritable set would give them to
//! a user who has none (CVE-2022-29162, CVE-2022-27650).

use anyhow::{Result, ensure};
use integration::bed::{cri, ctr, docker};
use integration::image::Image;

use crate::case::Case;

pub(crate) const CASES: &[Case] = &[
    Case::ctr("inheritable_by_ctr", by_ctr),
    Case::docker("inheritable_by_docker", by_docker),
    Case::pod("inheritable_by_cri", by_cri),
];

const SETS: &str = "grep -h CapInh /proc/1/status /proc/self/status";

/// Both are empty.
fn empty(seen: &str) -> Result<()> {
    let sets: Vec<_> = seen
        .split_whitespace()
        .filter(|word| *word != "CapInh:")
        .collect();
    let none = "0".repeat(16);
    ensure!(sets == [&none, &none], "{seen}");
    Ok(())
}

fn by_ctr(bed: &ctr::Bed<'_>) -> Result<()> {
    for options in [&[] as &[&str], &["--user", "1000"], &["--privileged"]] {
        let container = bed.detached(options, Image::Busybox, &["/probe", "sleep"])?;
        empty(&container.shell(SETS)?)?;
        container.remove()?;
    }
    Ok(())
}

fn by_docker(bed: &docker::Bed<'_>) -> Result<()> {
    for options in [
        &["--privileged"] as &[&str],
        &["--cap-add", "ALL", "-u", "1000"],
    ] {
        let container = bed.detached(options, &["/probe", "sleep"])?;
        empty(&container.shell(SETS)?)?;
        container.remove()?;
    }
    Ok(())
}

fn by_cri(bed: &cri::Bed<'_>) -> Result<()> {
    let pod = bed.pod(serde_json::json!({}))?;
    let container = pod.run(serde_json::json!({
        "command": ["/probe", "sleep"],
        "linux": {"security_context": {"capabilities": {"add_capabilities": ["NET_ADMIN"]}}},
    }))?;
    empty(&container.shell(SETS)?)?;
    pod.remove()
}
