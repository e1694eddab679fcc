//! dockerd and containerd in mount namespaces of their own, as PrivateMounts= makes them: what the one mounts the other
//! does not see, or cannot unmount. Refused before anything is made.

use anyhow::Result;
use integration::dockerd;

use crate::bed::Bed;

const REFUSED: &str = r#"refused() { no ours --rm $B true 2>err; grep "$1" err || { cat err; return 1; }; no grep -E "sysbox-view" /proc/self/mountinfo; same "$(ls /run/containerd-shim-sysbox/ranges)" ""; }
export -f refused"#;
/// In front of a daemon: it sees the node's mounts, the node does not see its.
const APART: &str = "unshare --mount --propagation slave";

/// Each apart from the other.
pub(crate) fn apart(bed: &Bed) -> Result<()> {
    let node = &bed.node;
    dockerd::kill(node, "TERM")?;
    dockerd::again_with(node, APART)?;
    bed.script(&format!(
        "{REFUSED}\nt 'dockerd apart' bash -ec 'refused \"nothing is mounted there in containerd.s mount namespace\"'"
    ))?;
    dockerd::kill(node, "TERM")?;
    node.kill_containerd("TERM")?;
    node.shell(&format!(
        "{APART} sh -c 'echo $$ >/run/apart.pid; exec containerd' </dev/null >>/srv/dockerd.log 2>&1 & until ctr version >/dev/null 2>&1; do sleep 0.05; done"
    ))?
    .ok()?;
    dockerd::again(node)?;
    bed.script(&format!(
        "{REFUSED}\nt 'containerd apart' bash -ec 'refused \"another mount namespace holds it\"'"
    ))?;
    dockerd::kill(node, "TERM")?;
    node.shell("kill $(cat /run/apart.pid); while [ -e /proc/$(cat /run/apart.pid) ]; do sleep 0.05; done; rm /run/apart.pid")?
        .ok()?;
    node.start_containerd()?;
    dockerd::again(node)?;
    bed.script("t 'together again' bash -ec 'ours --rm $B true'")
}
