//! What the kubelet waits for: from `RunPodSandbox` to a running container, by crictl, whose own start is in it.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::command;
use crate::measure::Metric;
use crate::runtime::Runtime;

const POD: &str = "/srv/bench-pod.json";
const CONTAINER: &str = "/srv/bench-container.json";

/// First host id of a pod's user namespace, as the kubelet hands them out.
const FIRST_ID: usize = 655_360;

/// `cri-pod` with `hostUsers: false`, and `cri-pod-move` of a plain pod, whose network ours moves into its own namespace.
pub(crate) fn both(rounds: usize, image: &str) -> Result<[Metric; 2]> {
    Ok([
        pods("cri-pod", true, rounds, image)?,
        pods("cri-pod-move", false, rounds, image)?,
    ])
}

fn pods(name: &str, users: bool, rounds: usize, image: &str) -> Result<Metric> {
    let mut metric = Metric::new(name, "ms");
    for round in 0..rounds + 1 {
        for runtime in Runtime::pair(round) {
            let number = round * 2 + runtime.index();
            let options = namespaces(users, number);
            let pod = json!({
                "metadata": {"name": format!("p{number}"), "namespace": "default", "uid": format!("u{name}{number}"), "attempt": 0},
                "linux": options,
            });
            let container = json!({
                "metadata": {"name": "c", "attempt": 0},
                "image": {"image": image},
                "command": ["sleep", "100000"],
                "linux": options,
            });
            for (file, config) in [(POD, pod), (CONTAINER, container)] {
                fs::write(file, config.to_string()).with_context(|| format!("write {file}"))?;
            }
            let handler = if runtime == Runtime::Ours {
                "sysbox"
            } else {
                "runc"
            };
            let begin = Instant::now();
            crictl(&["run", "--no-pull", "--runtime", handler, CONTAINER, POD])?;
            // The first round makes what the engine keeps.
            if round > 0 {
                metric.since(runtime, begin);
            }
            crictl(&["rmp", "--all", "--force"])?;
        }
    }
    Ok(metric)
}

/// Namespaces and mappings, as the kubelet sets them for a pod and again for each container.
fn namespaces(users: bool, number: usize) -> Value {
    let mut options = json!({"pid": 1});
    if users {
        let line =
            json!([{"host_id": FIRST_ID + 65536 * number, "container_id": 0, "length": 65536}]);
        options["userns_options"] = json!({"mode": 0, "uids": line, "gids": line});
    }
    json!({"security_context": {"namespace_options": options}})
}

fn crictl(words: &[&str]) -> Result<()> {
    command::run(&[&["crictl", "--timeout", "40s"], words].concat()).map(drop)
}
