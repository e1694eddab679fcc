//! What an image's maker, or whoever may create a pod, writes decides nothing: labels (CVE-2026-53488) and annotations
//! (CVE-2026-53492, 2024-3154, 2026-44210, 2026-50540).

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use integration::bed::{cri, ctr, docker};
use integration::image::Image;
use serde_json::{Value, json};

use crate::case::Case;

pub(crate) const CASES: &[Case] = &[
    Case::ctr("of_images_by_ctr", images),
    Case::docker("of_images_by_docker", images_of_docker),
    Case::ctr("annotations_of_ours_are_refused", refused)
        .differs("they mean nothing there and are ignored"),
    Case::ctr("annotations_of_others", others),
    Case::pod("annotations_of_pods", pods),
];

/// Keys of ours and of what is around us, with values that would show.
fn keys() -> BTreeMap<String, &'static str> {
    let own = [
        "cgroup.max-depth",
        "cgroup.max-descendants",
        "data-roots",
        "dropped-capabilities",
        "ids.per-pod",
        "ids.first",
        "unmappable-mount",
        "annotations",
        "environment",
    ];
    let others = [
        ("io.containerd.runc.v2.group", "another"),
        ("io.containerd.runtime.v1.options", "x"),
        ("io.containerd.image.config.stop-signal", "SIGKILL"),
        ("containerd.io/restart.loguri", "binary:///srv/evil"),
        ("containerd.io/gc.root", "x"),
        ("cdi.k8s.io/evil", "vendor.com/class=all"),
        ("org.systemd.property.ExecStartPre", "['/srv/evil']"),
        ("run.oci.handler", "krun"),
        ("run.oci.hooks.stderr", "/srv/evil.out"),
        ("module.wasm.image/variant", "compat"),
        ("io.kubernetes.cri-o.userns-mode", "host"),
        ("io.katacontainers.config.hypervisor.path", "/srv/evil"),
    ];
    let own = own
        .iter()
        .map(|key| (format!("io.containerd.sysbox.{key}"), "/srv/evil"));
    let others = others.map(|(key, value)| (key.to_owned(), value));
    own.chain(others).collect()
}

const TRAP: &str = "printf '#!/bin/sh\\necho ran >/srv/evil.out\\n' >/srv/evil; chmod +x /srv/evil";
/// What a container must look like: a user namespace of the usual size where it is ours, PID 1 its own.
const LOOK: &str = "cat /proc/self/uid_map; ls /srv 2>/dev/null || true; grep evil /proc/mounts || true; sleep 0.1";

fn untouched(seen: &str) -> Result<()> {
    ensure!(!seen.contains("evil"), "{seen}");
    Ok(())
}

const SPRUNG: &str = "[ ! -e /srv/evil.out ]; rm /srv/evil";

fn images(bed: &ctr::Bed<'_>) -> Result<()> {
    bed.node.shell(TRAP)?.ok()?;
    let plain = bed.run(&[], &["/bin/sh", "-c", LOOK])?;
    let labelled = bed.import("labelled", &json!({"Labels": keys()}), |_| Ok(()))?;
    let output = bed.run_of(&labelled, &[], &["/bin/sh", "-c", LOOK])?;
    untouched(&output.stdout)?;
    ensure!(output.code == plain.code, "{output:?}\n{plain:?}");
    bed.remove_image(&labelled)?;
    bed.node.shell(SPRUNG)?.ok().map(drop)
}

fn images_of_docker(bed: &docker::Bed<'_>) -> Result<()> {
    bed.node.shell(TRAP)?.ok()?;
    let labelled = bed.load("labelled", &json!({"Labels": keys()}), |_| Ok(()))?;
    let container = bed.detached_of(&labelled, &[], &["/probe", "sleep"])?;
    untouched(&container.shell(LOOK)?)?;
    container.remove()?;
    bed.docker(&["rmi", &labelled])?;
    bed.node.shell(SPRUNG)?.ok().map(drop)
}

/// Each by itself, and by a name that does not exist: whoever sets one must hear that it does not hold.
fn refused(bed: &ctr::Bed<'_>) -> Result<()> {
    for (key, value) in keys() {
        if !key.starts_with("io.containerd.sysbox.") {
            continue;
        }
        let annotation = format!("{key}={value}");
        let output = bed.run(&["--annotation", &annotation], &["/bin/true"])?;
        ensure!(
            output.code != 0 && output.stderr.contains(&key),
            "{key}: {output:?}"
        );
    }
    Ok(())
}

fn others(bed: &ctr::Bed<'_>) -> Result<()> {
    bed.node.shell(TRAP)?.ok()?;
    let all: Vec<_> = keys()
        .into_iter()
        // Containers of one group are in one shim: that is containerd's own, and harmless.
        .filter(|(key, _)| !key.starts_with("io.containerd."))
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let options: Vec<_> = all.iter().flat_map(|all| ["--annotation", all]).collect();
    let output = bed.run(&options, &["/bin/sh", "-c", LOOK])?;
    untouched(&output.stdout)?;
    bed.node.shell(SPRUNG)?.ok().map(drop)
}

/// containerd passes only those that its configuration names to the runtime: none here.
fn pods(bed: &cri::Bed<'_>) -> Result<()> {
    bed.node.shell(TRAP)?.ok()?;
    // A device of CDI is containerd's to refuse.
    let given: BTreeMap<_, _> = keys()
        .into_iter()
        .filter(|(key, _)| !key.starts_with("cdi."))
        .collect();
    let annotations: Value = json!({"annotations": given});
    let pod = bed.pod(annotations.clone())?;
    let mut config = annotations;
    config["command"] = json!(["/probe", "sleep"]);
    config["image"] = json!({"image": Image::Busybox.reference()});
    let container = pod.run(config)?;
    untouched(&container.shell(LOOK)?)?;
    pod.remove()?;
    bed.node.shell(SPRUNG)?.ok().map(drop)
}
