//! A /proc that is not the kernel's: on a volume (CVE-2019-16884, 2023-28642), or mounted by root inside before an exec (LXC's
//! CVE-2015-1334). Nothing of ours reads or writes there.

use anyhow::{Result, ensure};
use integration::bed::ctr::Bed;
use integration::image::Image;

use crate::case::Case;

pub(crate) const CASES: &[Case] = &[
    Case::ctr("on_a_volume", volume),
    Case::ctr("made_inside", inside).ours("its root may not mount"),
];

/// The files that a runtime would write of itself, of the program's process, and sysctls.
const FAKES: &str = "for dir in self/attr self/attr/apparmor thread-self/attr 1/attr self/fd sys/net/ipv4 self; do mkdir -p $dir; done
    for file in self/attr/exec self/attr/current self/attr/apparmor/exec thread-self/attr/exec self/oom_score_adj self/uid_map self/setgroups self/loginuid sys/net/ipv4/ip_forward; do echo fake >$file; done";

fn volume(bed: &Bed<'_>) -> Result<()> {
    bed.node
        .shell(&format!("mkdir /srv/proc; cd /srv/proc; {FAKES}"))?
        .ok()?;
    let files = "cd /srv/proc; find . -type f -exec cat {} + | sort -u; find . | sort | sha256sum";
    let before = bed.node.shell(files)?.ok()?.stdout;
    for target in [
        "/proc",
        "/proc/self/attr",
        "/proc/1",
        "/proc/sys/net",
        "/proc/../proc",
    ] {
        let mount = format!("type=bind,src=/srv/proc,dst={target},options=rbind:rw");
        let output = bed.run(&["--mount", &mount], &["/bin/true"])?;
        ensure!(output.code != 0, "{target} is a volume: {output:?}");
        let after = bed.node.shell(files)?.ok()?.stdout;
        ensure!(before == after, "{target}: {before}{after}");
    }
    bed.node.shell("rm -r /srv/proc")?.ok().map(drop)
}

fn inside(bed: &Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    container.shell(&format!(
        "mkdir /tmp/real; mount -t proc proc /tmp/real; mount -t tmpfs tmpfs /proc; cd /proc; {FAKES}"
    ))?;
    let look = "grep -Ei 'cap(inh|eff)|nonewprivs' /tmp/real/self/status; cat /tmp/real/self/oom_score_adj; find /proc -type f -exec cat {} + | sort -u; ls /tmp/real/$$/fd | tr '\\n' ' '";
    let seen = container.shell(look)?;
    let lines: Vec<_> = seen.lines().map(str::trim).collect();
    // Its capabilities are what an exec's are, and of the fakes none is written.
    ensure!(
        lines.contains(&"fake") && lines.iter().filter(|line| **line == "fake").count() == 1,
        "{seen}"
    );
    ensure!(
        lines
            .iter()
            .any(|line| line.starts_with("CapInh:") && line.ends_with("0000000000000000")),
        "{seen}"
    );
    let plain = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    let capabilities = plain.shell("grep CapEff /proc/self/status")?;
    ensure!(seen.contains(&capabilities), "{seen}\n{capabilities}");
    plain.remove()?;
    container.remove()
}
