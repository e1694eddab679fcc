//! What the installer did and what `check` says on a real host.

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::host::Host;

/// What the kernel has since when (`runtime-core/src/kernel/features.rs`).
const FEATURES: [(&str, (u32, u32)); 5] = [
    ("overlay-append", (6, 7)),
    ("overlay-descriptors", (6, 13)),
    ("clone-detached", (6, 15)),
    ("overlay-detached", (6, 15)),
    ("proc-pidns", (6, 18)),
];

#[derive(Debug, Deserialize)]
struct Finding {
    name: String,
    status: String,
    detail: String,
}

/// The installer's last lines are those of `check`; the engines have restarted with what it wrote.
pub(crate) fn install(host: &mut Host) -> Result<()> {
    ensure!(
        host.installed.code == 0 && host.installed.stdout.contains("containers can run here"),
        "{:?}",
        host.installed
    );
    host.shell(
        "set -x
         containerd config dump | grep -A1 'containerd.runtimes.runc]'
         containerd config dump | grep -A12 'containerd.runtimes.sysbox]' | grep io.containerd.sysbox.v2
         ctr plugins ls | grep -E 'cri .* ok'
         docker info -f '{{json .Runtimes}}' | grep sysbox-runc",
    )?;
    let again = host.shell("/vm/deploy/install.sh install --containerd --docker --sysctl")?;
    ensure!(
        !again.contains("change ") && !again.contains("install "),
        "{again}"
    );
    Ok(())
}

pub(crate) fn every_line_is_true(host: &mut Host) -> Result<()> {
    let findings = host.shell("containerd-shim-sysbox-v2 check --json")?;
    let findings: Vec<Finding> = serde_json::from_str(&findings).context("read check's answer")?;
    let found = |name: &str| {
        let finding = findings.iter().find(|finding| finding.name == name);
        finding.with_context(|| format!("nothing of {name} in {findings:?}"))
    };
    let release = host.shell("uname -r")?;
    ensure!(found("kernel")?.detail == release, "{findings:?}");
    let mut numbers = release.split('.').map_while(|word| word.parse().ok());
    let kernel = numbers.next().zip(numbers.next()).context("a version")?;
    for (name, since) in FEATURES {
        let expected = if kernel >= since { "ok" } else { "degraded" };
        let finding = found(name)?;
        ensure!(finding.status == expected, "{release}: {finding:?}");
    }
    let controllers = host.shell("cat /sys/fs/cgroup/cgroup.controllers")?;
    ensure!(controllers.contains("cpu") && controllers.contains("memory"));
    ensure!(found("controllers")?.detail == controllers, "{findings:?}");
    let modules = &found("security modules")?.detail;
    let enabled = host.shell("cat /sys/module/apparmor/parameters/enabled")? == "Y";
    ensure!(modules.contains("AppArmor enabled") == enabled, "{modules}");
    // All else is as it should be on a host that was just made.
    for finding in findings
        .iter()
        .filter(|finding| !FEATURES.iter().any(|(name, _)| finding.name == *name))
    {
        ensure!(finding.status == "ok", "{finding:?}");
    }
    Ok(())
}
