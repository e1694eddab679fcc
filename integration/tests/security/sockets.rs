//! Doors to the runtime: no socket without a path (CVE-2020-15257), and no directory or file that others than root can
//! enter (CVE-2021-41103, 2024-25621).

use anyhow::{Result, ensure};
use integration::bed::ctr::Bed;
use integration::image::Image;

use crate::case::Case;
use crate::shim::Shim;

pub(crate) const CASES: &[Case] = &[
    Case::ctr("have_paths_of_roots", paths).ours("it looks into our shim"),
    Case::ctr("directories_are_closed", closed),
];

fn paths(bed: &Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    let shim = Shim::of(bed.node, "default", &container.id)?;
    let script = format!(
        "for fd in /proc/{pid}/fd/*; do readlink $fd || true; done | sed -n 's/socket:.\\([0-9]*\\)./\\1/p' | while read inode; do awk -v i=$inode '$7 == i {{ print $8 }}' /proc/net/unix; done
         echo tcp $(cat /proc/{pid}/net/tcp /proc/{pid}/net/tcp6 /proc/{pid}/net/udp /proc/{pid}/net/vsock 2>/dev/null | grep -vc local_address)",
        pid = shim.pid
    );
    let sockets = bed.node.shell(&script)?.ok()?;
    let mut named = 0;
    for name in sockets
        .stdout
        .lines()
        .map(str::trim)
        .filter(|name| !name.is_empty())
    {
        ensure!(!name.starts_with('@'), "an abstract socket: {name}");
        if name.starts_with("/run/containerd/s/") {
            named += 1;
            let mode = bed.node.shell(&format!("stat -c %a:%u {name}"))?.ok()?;
            ensure!(mode.text() == "600:0", "{name}: {}", mode.text());
        }
    }
    ensure!(named >= 1, "it listens nowhere: {sockets:?}");
    container.remove()
}

/// What a user of the host's who is nobody special gets at, by the names of bundle, record, root file system and data
/// roots.
fn closed(bed: &Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    container.shell("echo inner >/tmp/inner; chmod 777 /tmp/inner; echo inner >/var/lib/docker/inner 2>/dev/null || true")?;
    let find = "find /run/containerd-shim-sysbox /run/containerd/io.containerd.runtime.v2.task/default /run/containerd/s /run/containerd/runc \
        /var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots";
    let look = format!(
        "setpriv --reuid 12345 --regid 12345 --clear-groups sh -c '{find} -mindepth 1 -readable 2>/dev/null; {find} -writable 2>/dev/null; true'"
    );
    let seen = bed.node.shell(&look)?.ok()?;
    ensure!(
        seen.text().is_empty(),
        "a user of the host gets at:\n{}",
        seen.stdout
    );
    // Names can be read nowhere either, so the look above has seen something where it may.
    let all = bed
        .node
        .shell(&format!("{find} 2>/dev/null | wc -l"))?
        .ok()?;
    ensure!(all.text().parse::<usize>()? > 10, "{all:?}");
    container.remove()
}
