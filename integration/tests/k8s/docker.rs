//! The users' story: a pod with Docker in it that the Pod Security Standard "baseline" admits.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use integration::image::Image;
use serde_json::{Value, json};

use crate::cluster::{Cluster, deploy, until};
use crate::pod::{Kind, Pod, over, same};

/// The example of `deploy/` with the tests' image: nothing else is changed but what `kind` says.
pub(crate) fn example(cluster: &Cluster, kind: Kind) -> Result<Pod<'_>> {
    example_with(cluster, kind, json!({}))
}

/// The same with `more` put over its container.
pub(crate) fn example_with(cluster: &Cluster, kind: Kind, more: Value) -> Result<Pod<'_>> {
    let yaml = deploy("example-pod.yaml")?;
    let json = cluster.try_create(
        &["create", "--dry-run=client", "-o", "json", "-f", "-"],
        &yaml,
    )?;
    let mut manifest: Value =
        serde_json::from_str(&json.ok()?.stdout).context("read the example")?;
    manifest["metadata"] = json!({"name": format!("dind-{}", kind.name())});
    let container = &mut manifest["spec"]["containers"][0];
    over(
        container,
        json!({"image": Image::Dind.reference(), "imagePullPolicy": "Never"}),
    );
    over(container, more);
    if kind == Kind::Runc {
        // What it takes without us.
        container["securityContext"] = json!({"privileged": true});
        container["volumeMounts"] = json!([{"name": "docker", "mountPath": "/var/lib/docker"}]);
        manifest["spec"]["volumes"] = json!([{"name": "docker", "emptyDir": {}}]);
        return cluster.pod_of(kind, "free", manifest);
    }
    cluster.pod_of(kind, "ci", manifest)
}

/// Ready by its own probe; `docker run`, `docker build`, published ports; the kubelet's streams, forwarded ports and figures.
pub(crate) fn docker(cluster: &Cluster, kind: Kind) -> Result<()> {
    let begin = Instant::now();
    let pod = example(cluster, kind)?;
    pod.ready()?;
    println!(
        "{}: Ready {:.1} s after its creation",
        pod.name,
        begin.elapsed().as_secs_f64()
    );
    let known = pod.get()?;
    if kind != Kind::Runc {
        same(
            &known["spec"]["overhead"].to_string(),
            r#"{"cpu":"10m","memory":"8Mi"}"#,
        )?;
        ensure!(
            known["spec"]["containers"][0]["securityContext"].is_null(),
            "{known}"
        );
    }
    pod.shell(
        "docker import /root/bb.tar bb >/dev/null; docker run --rm bb echo inner | grep -x inner; \
         docker build -q -t built /root/ctx; docker run --rm built | grep -x built; \
         docker run -d --name web -p 8081:81 bb httpd -f -p 81 -h /etc",
    )?;
    let said = pod.kubectl(&["logs", &pod.name])?;
    ensure!(said.contains("API listen on"), "{said}");
    // From the node's side through the inner published port: as a probe, and forwarded by the kubelet.
    let address = known["status"]["podIP"]
        .as_str()
        .context("the pod has no address")?;
    let get = "get() { bash -c \"exec 3<>/dev/tcp/$1/$2; printf 'GET /passwd HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3\" | grep root; }";
    cluster
        .node
        .shell(&format!("{get}; get {address} 8081"))?
        .ok()?;
    let forward = format!(
        "{get}; kubectl -n {} port-forward {} 18081:8081 >/dev/null & p=$!
         for i in $(seq 50); do get 127.0.0.1 18081 && break; sleep 0.1; done; get 127.0.0.1 18081; kill $p; wait $p || true",
        pod.namespace(),
        pod.name
    );
    cluster.node.shell(&forward)?.ok()?;
    until("the kubelet to have figures of it", || {
        figures(cluster, &pod)
    })?;
    // Its shell would keep dockerd's end waiting for ten seconds.
    pod.shell("docker rm -f web")?;
    pod.delete()?;
    if kind == Kind::Runc {
        // A privileged dockerd makes its cgroups at the node's root, and nobody removes them.
        cluster
            .node
            .shell("rmdir /sys/fs/cgroup/docker/buildkit /sys/fs/cgroup/docker")?
            .ok()?;
    }
    Ok(())
}

/// Whether the kubelet's summary says that its container has used some processor time.
fn figures(cluster: &Cluster, pod: &Pod<'_>) -> Result<bool> {
    let path = format!("/api/v1/nodes/{}/proxy/stats/summary", cluster.node.name());
    let summary = cluster.kubectl(&["get", "--raw", &path])?;
    let summary: Value = serde_json::from_str(&summary).context("read the summary")?;
    let pods = summary["pods"].as_array().context("no list of pods")?;
    let ours = pods
        .iter()
        .find(|one| one["podRef"]["name"] == pod.name.as_str());
    let used = ours.and_then(|one| one["containers"][0]["cpu"]["usageCoreNanoSeconds"].as_u64());
    Ok(used.is_some_and(|nanoseconds| nanoseconds > 1_000_000))
}
