//! What the containers of a pod share, and whose they are.

use anyhow::{Result, ensure};
use integration::image::Image;
use serde_json::{Value, json};

use crate::bed::{ANY, ANY_AND_OLDEST, Bed, CONFIG, Case, NEWEST, OURS, OURS_AND_OLDEST, same};

pub(crate) const CASES: &[Case] = &[
    Case::new("containers_share_namespaces", ANY_AND_OLDEST, share),
    Case::new("a_shared_process_namespace", ANY, shared_pids),
    Case::new("pods_have_ids_of_their_own", OURS, ids),
    Case::new("chosen_ids_are_nobody_elses", NEWEST, chosen),
    Case::new("without_any_kernel_feature", NEWEST, older_kernel),
    Case::new("docker_inside", OURS_AND_OLDEST, docker),
    Case::new("dropped_capabilities", NEWEST, dropped),
    Case::new("host_namespaces_are_refused", OURS, refusals),
];

const NAMESPACES: &str = "for n in net ipc uts user pid mnt; do readlink /proc/self/ns/$n; done";

fn share(bed: &Bed<'_>) -> Result<()> {
    let pod = bed.pod(json!({}))?;
    let (one, two) = (pod.sleeper()?, pod.sleeper()?);
    let (a, b) = (one.shell(NAMESPACES)?, two.shell(NAMESPACES)?);
    let same: Vec<_> = a.lines().zip(b.lines()).map(|(a, b)| a == b).collect();
    ensure!(same == [true, true, true, true, false, false], "{a}\n{b}");
    one.shell("touch /dev/shm/shared")?;
    two.shell("test -e /dev/shm/shared; hostname | grep '^p[0-9]'")?;
    pod.remove()
}

/// As on a kernel without all that is used only where it is there.
fn older_kernel(bed: &Bed<'_>) -> Result<()> {
    let config = format!("pretend-missing = {:?}", bed.node.kernel_features()?);
    bed.node.with_config(&config, || {
        share(bed)?;
        let pod = bed.pod(json!({}))?;
        for container in [pod.sleeper()?, pod.sleeper()?] {
            container.shell("echo x >/dev/kmsg; ip addr show eth0 | grep -q 'inet '")?;
        }
        pod.remove()
    })
}

fn shared_pids(bed: &Bed<'_>) -> Result<()> {
    let pid = json!({"linux": {"security_context": {"namespace_options": {"pid": 0}}}});
    let pod = bed.pod(pid.clone())?;
    let mut sleeps = pid.clone();
    sleeps["command"] = json!(["/bin/sh", "-c", "sleep 77 & exec sleep 78"]);
    let first = pod.run(sleeps.clone())?;
    let second = pod.run(sleeps)?;
    let seen = second.shell("cat /proc/1/cmdline | tr '\\0' ' '; ps | grep -c 'sleep 7[78]$'")?;
    same(&seen, "/pause pause 4")?;
    // The end of one is not the end of the other, though nobody's init has died.
    first.remove()?;
    let left = second.shell("ps | grep -c 'sleep 7[78]$'")?;
    same(&left, "2")?;
    pod.remove()
}

fn ids(bed: &Bed<'_>) -> Result<()> {
    let (one, two) = (bed.pod(json!({}))?, bed.pod(json!({}))?);
    let map = "cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '";
    let (a, a2, b) = (
        one.sleeper()?.shell(map)?,
        one.sleeper()?.shell(map)?,
        two.sleeper()?.shell(map)?,
    );
    ensure!(
        a == a2 && a != b && !a.starts_with("0 0 "),
        "{a}\n{a2}\n{b}"
    );
    one.remove()?;
    two.remove()
}

/// A container that sleeps and from which capabilities are dropped.
fn dropping(names: &[&str]) -> Value {
    json!({
        "command": ["/probe", "sleep"],
        "linux": {"security_context": {"capabilities": {"drop_capabilities": names}}},
    })
}

/// What an operator chooses for capabilities that a pod drops.
fn dropped(bed: &Bed<'_>) -> Result<()> {
    // Of the container's program and of one that exec starts.
    let sets = "grep -h Cap[EB] /proc/1/status /proc/self/status | cut -f 2 | sort -u";
    let all = format!("{:016x}", (1_u64 << 41) - 1);
    let pod = bed.pod(json!({}))?;
    same(&pod.run(dropping(&["NET_RAW"]))?.shell(sets)?, &all)?;
    let log = std::fs::read_to_string(bed.node.containerd_log())?;
    let warned = log
        .lines()
        .any(|line| line.contains("process.capabilities") && line.contains("CAP_NET_RAW"));
    ensure!(warned, "no warning that NET_RAW stays");
    pod.remove()?;

    let file = "/etc/containerd-shim-sysbox/config.toml";
    let set = format!("mkdir -p $(dirname {file}); echo 'dropped-capabilities = \"drop\"' >{file}");
    bed.node.shell(&set)?.ok()?;
    let pod = bed.pod(json!({}))?;
    let less = format!("{:016x}", (1_u64 << 41) - 1 - (1 << 13));
    same(&pod.run(dropping(&["NET_RAW"]))?.shell(sets)?, &less)?;
    same(&pod.run(dropping(&["ALL"]))?.shell(sets)?, &"0".repeat(16))?;
    same(&pod.sleeper()?.shell(sets)?, &all)?;
    pod.remove()?;
    bed.node
        .shell(&format!("rm {CONFIG}; rmdir $(dirname {CONFIG})"))?
        .ok()?;
    Ok(())
}

/// A kubelet without a range of its own gives pods any ids, those of our pool too.
fn chosen(bed: &Bed<'_>) -> Result<()> {
    // Room for one pod.
    bed.node
        .shell(&format!(
            "mkdir -p $(dirname {CONFIG}); printf '[ids]\\nfirst = 1073741824\\ncount = 1048576\\n' >{CONFIG}"
        ))?
        .ok()?;
    let line = json!([{"host_id": 1_073_741_824 + 65536, "container_id": 0, "length": 65536}]);
    let pod = |users: Value| {
        bed.pod(json!({"linux": {"security_context": {"namespace_options": {"userns_options": users}}}}))
    };
    let chosen = || pod(json!({"mode": 0, "uids": line, "gids": line}));
    let plain = || pod(Value::Null);
    for (first, second, remedy) in [
        (
            &chosen as &dyn Fn() -> _,
            &plain as &dyn Fn() -> _,
            "every range",
        ),
        (&plain, &chosen, "/etc/subuid"),
    ] {
        let one = first()?;
        let Err(error) = second() else {
            anyhow::bail!("two pods have the same ids");
        };
        ensure!(format!("{error:#}").contains(remedy), "{error:#}");
        one.remove()?;
        second()?.remove()?;
    }
    bed.node
        .shell(&format!("rm -r {CONFIG} /srv/*; rmdir $(dirname {CONFIG})"))?
        .ok()?;
    Ok(())
}

/// A dind pod as the users' story has it: nothing but the handler, no privilege, and less NET_RAW, which GitLab Runner drops
/// from every container.
fn docker(bed: &Bed<'_>) -> Result<()> {
    let pod = bed.pod(json!({}))?;
    let mut config = dropping(&["NET_RAW"]);
    config["image"] = json!({"image": Image::Dind.reference()});
    config["command"] = json!([]);
    let dind = pod.run(config)?;
    dind.shell("for i in $(seq 300); do docker info >/dev/null 2>&1 && break; sleep 0.1; done; docker info >/dev/null")?;
    dind.shell(
        "docker import /root/bb.tar bb >/dev/null; docker run --rm bb echo inner | grep -x inner",
    )?;
    // Through the inner bridge and the pod's own interface.
    let address = pod.address()?;
    dind.shell("docker run -d -p 8081:81 bb httpd -f -p 81 -h /etc")?;
    bed.node
        .shell(&format!(
            "bash -c 'exec 3<>/dev/tcp/{address}/8081; printf \"GET /passwd HTTP/1.0\\r\\n\\r\\n\" >&3; grep root <&3'"
        ))?
        .ok()?;
    pod.remove()
}

fn refusals(bed: &Bed<'_>) -> Result<()> {
    for (key, remedy) in [
        ("network", "hostNetwork"),
        ("pid", "hostPID"),
        ("ipc", "hostIPC"),
    ] {
        let host = json!({"linux": {"security_context": {"namespace_options": {key: 2}}}});
        let Err(error) = bed.pod(host) else {
            anyhow::bail!("a pod in the host's {key} namespace was made");
        };
        let said = format!("{error:#}");
        // containerd 2.1 itself cannot have a pod with a user namespace in the host's network.
        let engine = said.contains("failed to pin user namespace");
        ensure!(said.contains(remedy) || engine, "{said}");
    }
    bed.node.shell("rm -rf /srv/*")?.ok()?;
    Ok(())
}
