//! What hardened clusters ask of their pods.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::cluster::Cluster;
use crate::docker;
use crate::pod::{Kind, container, same};

/// A pod that the Pod Security Standard "restricted" admits has what that asks for.
pub(crate) fn restricted(cluster: &Cluster, kind: Kind) -> Result<()> {
    let manifest = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("restricted-{}", kind.name())},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container(json!({
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }))],
        },
    });
    let pod = cluster.pod_of(kind, "strict", manifest)?;
    pod.ready()?;
    let seen = "id -u; for key in NoNewPrivs Seccomp CapEff; do grep -h $key: /proc/1/status | cut -f 2; done";
    same(&pod.shell(seen)?, "1000\n1\n2\n0000000000000000")?;
    pod.delete()
}

/// `RuntimeDefault`, which a kubelet can make everybody's, leaves Docker inside what it needs.
pub(crate) fn docker(cluster: &Cluster, kind: Kind) -> Result<()> {
    let profile = json!({"securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}});
    let pod = docker::example_with(cluster, kind, profile)?;
    pod.ready()?;
    let seen = pod.shell("docker import /root/bb.tar bb >/dev/null; docker run --rm bb echo inner; grep Seccomp: /proc/1/status | cut -f 2")?;
    ensure!(seen == "inner\n2", "{seen}");
    pod.delete()
}
