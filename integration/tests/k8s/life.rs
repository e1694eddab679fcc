//! What the kubelet does with a pod while it lives.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::cluster::{Cluster, until};
use crate::docker;
use crate::pod::{Kind, Pod, container, same, status};

/// Init containers and a sidecar, then a container that a failing liveness probe has restarted, in the same pod.
pub(crate) fn restart(cluster: &Cluster, kind: Kind) -> Result<()> {
    let pod = cluster.pod(
        kind,
        json!({
            "terminationGracePeriodSeconds": 1,
            "volumes": [{"name": "shared", "emptyDir": {}}],
            "initContainers": [
                container(json!({
                    "name": "first", "command": ["sh", "-c", "echo made >/shared/first"],
                    "volumeMounts": [{"name": "shared", "mountPath": "/shared"}],
                })),
                container(json!({"name": "sidecar", "restartPolicy": "Always"})),
            ],
            "containers": [container(json!({
                "command": ["sh", "-c", "grep made /shared/first && touch /healthy && exec /probe sleep"],
                "volumeMounts": [{"name": "shared", "mountPath": "/shared"}],
                "livenessProbe": {"exec": {"command": ["test", "-e", "/healthy"]}, "periodSeconds": 1, "failureThreshold": 2,
                                  "initialDelaySeconds": 2, "timeoutSeconds": 20},
            }))],
        }),
    )?;
    pod.ready()?;
    let before = pod.get()?;
    pod.shell("echo kept >/shared/later; rm /healthy")?;
    let after = pod.until("the restart", |pod| {
        status(pod, "main").is_ok_and(|main| main["restartCount"] == 1 && main["ready"] == true)
    })?;
    ensure!(status(&before, "main")?["containerID"] != status(&after, "main")?["containerID"]);
    ensure!(
        before["status"]["podIP"] == after["status"]["podIP"],
        "{}",
        after["status"]
    );
    let sidecar = |pod: &Value| pod["status"]["initContainerStatuses"][1]["containerID"].clone();
    ensure!(
        sidecar(&before).is_string() && sidecar(&before) == sidecar(&after),
        "{}",
        after["status"]
    );
    same(
        &pod.shell("cat /shared/later; ls /healthy")?,
        "kept\n/healthy",
    )?;
    same(
        &pod.kubectl(&["logs", "--previous", &pod.name])?,
        "made\nready",
    )?;
    pod.delete()
}

/// The kubelet's own connections to the pod, as probes make them, and a port of the node.
pub(crate) fn network(cluster: &Cluster, kind: Kind) -> Result<()> {
    let server = "mkdir /www; echo served >/www/index.html; exec httpd -f -p 8080 -h /www";
    let manifest = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("web-{}", kind.name())},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [container(json!({
                "command": ["sh", "-c", server],
                "ports": [{"containerPort": 8080, "hostPort": 18080}],
                "readinessProbe": {"httpGet": {"port": 8080, "path": "/"}, "periodSeconds": 1, "timeoutSeconds": 20},
                "livenessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1, "timeoutSeconds": 20},
            }))],
        },
    });
    // The standard admits no port of the node.
    let refused = cluster.try_create(&["-n", "ci", "create", "-f", "-"], &manifest.to_string())?;
    ensure!(
        refused.code != 0 && refused.stderr.contains("PodSecurity"),
        "{refused:?}"
    );
    let pod = cluster.pod_of(kind, "free", manifest)?;
    pod.ready()?;
    let get = "bash -c \"exec 3<>/dev/tcp/192.0.2.1/18080; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3\" | grep served";
    cluster.node.shell(get)?.ok()?;
    pod.delete()
}

/// Who does not listen is killed when the time is up; who does is not kept waiting; a `preStop` hook runs before.
pub(crate) fn grace(cluster: &Cluster, kind: Kind) -> Result<()> {
    let deaf = cluster.pod(
        kind,
        json!({
            "terminationGracePeriodSeconds": 4,
            "containers": [container(json!({"command": ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"]}))],
        }),
    )?;
    let polite = cluster.pod(
        kind,
        json!({
            "terminationGracePeriodSeconds": 600,
            "containers": [container(json!({
                "command": ["sh", "-c", "trap 'cat /hook; exit 0' TERM; while :; do sleep 0.1; done"],
                "lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", "echo before >/hook"]}}},
            }))],
        }),
    )?;
    deaf.ready()?;
    polite.ready()?;
    let log = polite.follow_log()?;
    let begin = Instant::now();
    deaf.delete()?;
    ensure!(
        begin.elapsed() >= Duration::from_secs(4),
        "killed after {:?}",
        begin.elapsed()
    );
    polite.delete()?;
    let log = log.wait_with_output().context("wait for kubectl logs")?;
    same(String::from_utf8_lossy(&log.stdout).trim(), "before")
}

/// Nothing happens to a pod when the kubelet or containerd are killed and started again.
pub(crate) fn killed(cluster: &Cluster, kind: Kind) -> Result<()> {
    let pod = docker::example(cluster, kind)?;
    pod.ready()?;
    pod.shell(
        "docker import /root/bb.tar bb >/dev/null; docker run -d --name stays bb sleep 10000",
    )?;
    let before = status(&pod.get()?, "dind")?.clone();
    let unchanged = |pod: &Pod<'_>| -> Result<()> {
        // A kubelet that has just started learns of its pods first.
        until("the inner container to answer", || {
            Ok(pod.try_shell("docker exec stays echo still")?.text() == "still")
        })?;
        // To a kubelet a container is not ready before its own first probe.
        pod.ready()?;
        let now = pod.get()?;
        let now = status(&now, "dind")?;
        ensure!(
            now["containerID"] == before["containerID"] && now["restartCount"] == 0,
            "{now}"
        );
        Ok(())
    };
    cluster.kill_kubelet()?;
    cluster.start_kubelet()?;
    unchanged(&pod)?;
    cluster.node.kill_containerd("KILL")?;
    std::thread::sleep(Duration::from_secs(1));
    cluster.node.start_containerd()?;
    until("the kubelet to reach containerd again", || {
        Ok(pod.try_shell("true")?.code == 0)
    })?;
    unchanged(&pod)?;
    cluster.kill_kubelet()?;
    cluster.node.kill_containerd("KILL")?;
    cluster.node.start_containerd()?;
    cluster.start_kubelet()?;
    unchanged(&pod)?;
    pod.delete()
}

/// `kubectl debug`: a container that joins the running one's processes.
pub(crate) fn debug(cluster: &Cluster, kind: Kind) -> Result<()> {
    let pod = cluster.pod(
        kind,
        json!({"terminationGracePeriodSeconds": 1, "containers": [container(json!({"command": ["/probe", "sleep"]}))]}),
    )?;
    pod.ready()?;
    pod.kubectl(&[
        "debug",
        &pod.name,
        "--image",
        "localhost/busybox:latest",
        "--image-pull-policy",
        "Never",
        "--target",
        "main",
        "-c",
        "look",
        "--profile",
        "baseline",
        "--",
        "sh",
        "-c",
        "tr '\\0' ' ' </proc/1/cmdline",
    ])?;
    pod.until("the debugging container's end", |pod| {
        pod["status"]["ephemeralContainerStatuses"][0]["state"]["terminated"].is_object()
    })?;
    same(
        &pod.kubectl(&["logs", &pod.name, "-c", "look"])?,
        "/probe sleep",
    )?;
    pod.delete()
}

/// Namespaces of the node are refused with one event that names the field; nothing is made.
pub(crate) fn refused(cluster: &Cluster, kind: Kind) -> Result<()> {
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        let manifest = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("refused-{}", field.to_lowercase())},
            "spec": {field: true, "containers": [container(json!({}))]},
        });
        let pod = cluster.pod_of(kind, "free", manifest)?;
        let name = pod.name.clone();
        until("the refusal", || {
            Ok(pod
                .events()?
                .iter()
                .any(|event| event.starts_with("FailedCreatePodSandBox")))
        })?;
        let events = pod.events()?;
        let said: Vec<_> = events
            .iter()
            .filter(|event| event.starts_with("Failed"))
            .collect();
        ensure!(said.iter().all(|event| event.contains(field)), "{said:#?}");
        println!("{name}: {}", said.first().context("an event")?);
        // Between two attempts of the kubelet there is nothing of it.
        let made = format!("crictl pods -q --name {name}");
        until("the attempt to leave nothing", || {
            Ok(cluster.node.shell(&made)?.ok()?.text().is_empty())
        })?;
        pod.delete()?;
    }
    Ok(())
}

/// A pod whose shim dies is cleaned up after, and made anew by the kubelet.
pub(crate) fn shim(cluster: &Cluster, kind: Kind) -> Result<()> {
    let pod = docker::example(cluster, kind)?;
    pod.ready()?;
    pod.shell("docker import /root/bb.tar bb >/dev/null; docker run -d bb sleep 10000")?;
    let before = status(&pod.get()?, "dind")?["containerID"].clone();
    let kill = format!(
        "pod=$(crictl pods -q --state Ready --name {}); kill -KILL $(pgrep -f \"^[^ ]*/containerd-shim-sysbox-v2 .*-id $pod\")",
        pod.name
    );
    cluster.node.shell(&kill)?.ok()?;
    pod.until("another container to be ready", |pod| {
        status(pod, "dind").is_ok_and(|dind| dind["containerID"] != before && dind["ready"] == true)
    })?;
    pod.shell("docker import /root/bb.tar bb >/dev/null; docker run --rm bb true")?;
    pod.delete()
}

/// Ten pods of two containers come and go together. They say what they may use, which this machine may not be able to hold
/// them to: that is a warning.
pub(crate) fn crowd(cluster: &Cluster, kind: Kind) -> Result<()> {
    let limits = json!({"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "1", "memory": "64Mi"}});
    let spec = json!({
        "terminationGracePeriodSeconds": 1,
        "containers": [container(json!({"resources": limits})), container(json!({"name": "second"}))],
    });
    let begin = Instant::now();
    let pods: Vec<_> = (0..10)
        .map(|_| cluster.pod(kind, spec.clone()))
        .collect::<Result<_>>()?;
    for pod in &pods {
        pod.ready()?;
    }
    println!(
        "ten pods: Ready after {:.1} s",
        begin.elapsed().as_secs_f64()
    );
    let names: Vec<_> = pods.iter().map(|pod| pod.name.as_str()).collect();
    let words = ["-n", "ci", "delete", "pod", "--wait", "--timeout=170s"];
    cluster.kubectl(&[&words[..], &names].concat()).map(drop)
}
