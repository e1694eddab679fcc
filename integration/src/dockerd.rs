//! dockerd in a node: Debian's, or the one that comes first in its PATH.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::image::Image;
use crate::node::Node;
use crate::process;

/// Where dockerd keeps its data: on the host's disk, an overlay could not be its layers' upper directory.
pub const DATA_ROOT: &str = "/var/lib/containerd/docker";
const LOG: &str = "/srv/dockerd.log";
/// How long dockerd may take to answer or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who keeps images and mounts root file systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// dockerd's own overlay2 driver.
    Overlay2,
    /// containerd, which dockerd asks for snapshots that it mounts itself.
    Containerd,
}

/// Starts dockerd on the node's containerd with the runtimes `sysbox` and `sysbox-runc`, both ours, and live restore.
///
/// # Errors
/// If it does not answer: with the end of its log.
pub fn start(node: &Node, store: Store) -> Result<()> {
    let store = match store {
        Store::Overlay2 => r#""storage-driver": "overlay2""#,
        Store::Containerd => r#""features": {"containerd-snapshotter": true}"#,
    };
    let config = format!(
        r#"{{"containerd": "/run/containerd/containerd.sock", "data-root": "{DATA_ROOT}", "live-restore": true, {store},
"runtimes": {{"sysbox": {{"runtimeType": "io.containerd.sysbox.v2"}}, "sysbox-runc": {{"runtimeType": "io.containerd.sysbox.v2"}}}}}}"#
    );
    node.shell(&format!(
        "mkdir -p /etc/docker; echo '{config}' >/etc/docker/daemon.json"
    ))?
    .ok()?;
    again(node)
}

/// Starts dockerd as it is configured.
///
/// # Errors
/// As [`start`].
pub fn again(node: &Node) -> Result<()> {
    again_with(node, "")
}

/// The same with words in front of its command.
///
/// # Errors
/// As [`start`].
pub fn again_with(node: &Node, wrapper: &str) -> Result<()> {
    // Of a daemon that was killed: the number may be another's by now.
    node.shell(&format!(
        "rm -f /run/docker.pid; setsid {wrapper} dockerd </dev/null >>{LOG} 2>&1 &"
    ))?
    .ok()?;
    let begin = Instant::now();
    while node.exec(&["docker", "version"])?.code != 0 {
        if begin.elapsed() > PATIENCE {
            bail!("dockerd does not answer:\n{}", log_tail(node)?);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Ends dockerd by `signal` (a name that kill(1) knows) and waits for it.
///
/// # Errors
/// If it is not running or does not end.
pub fn kill(node: &Node, signal: &str) -> Result<()> {
    node.shell(&format!(
        "pid=$(cat /run/docker.pid); kill -{signal} $pid; i=0
         while [ -e /proc/$pid ]; do sleep 0.05; i=$((i + 1)); [ $i -lt 600 ]; done"
    ))?
    .ok()?;
    Ok(())
}

/// Makes `image` known to dockerd.
///
/// # Errors
/// If the image cannot be built or loaded.
pub fn load(node: &Node, image: Image) -> Result<&'static str> {
    let layout = image.layout(node.release())?;
    let mut load = node.command(&["docker", "load", "--quiet"]);
    crate::node::pipe_layout(&mut load, &layout)?;
    Ok(image.reference())
}

/// The last lines of its log.
///
/// # Errors
/// If it cannot be read.
pub fn log_tail(node: &Node) -> Result<String> {
    let mut tail = node.command(&["tail", "-n", "30", LOG]);
    Ok(process::run(&mut tail, b"", Duration::from_secs(10))?.stdout)
}
