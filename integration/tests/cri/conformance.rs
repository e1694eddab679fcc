//! critest, the CRI's own suite, with our handler and with runc's on the same node: what passes with runc passes with ours,
//! but for a list with reasons. Specs that want a registry fail under both, so they say nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::image::Image;
use integration::process;
use serde_json::Value;

use crate::bed::{Bed, CONFIG, CRITEST, CRITEST_USERS, Case};

/// Pods that say nothing of user namespaces; with SYSBOX_CRITEST=all those with `hostUsers: false` as well.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![Case::new("critest", CRITEST, critest)];
    if whole() {
        cases.push(Case::new("critest", CRITEST_USERS, critest));
    }
    cases
}

/// Whether every spec is to run.
fn whole() -> bool {
    std::env::var("SYSBOX_CRITEST").is_ok_and(|which| which == "all")
}

/// The socket of the CRI.
const CONTAINERD: &str = "/run/containerd/containerd.sock";

/// The same with `hostUsers: false` for pods that do not say otherwise.
const USERS: &str = "/run/hostusers.sock";

/// An image of critest's that any web server can stand in for.
const HTTPD: &str = "registry.k8s.io/e2e-test-images/httpd:2.4.39-4";

/// What a whole run may take.
const DEADLINE: Duration = Duration::from_secs(900);

/// `part of a spec's name` and the reason why it fails with us.
const EXPECTED: &[(&str, &str)] = &[
    (
        "HostNetwork is true",
        "the pod's own network is the sandbox: refused by name",
    ),
    (
        "UserNamespaces when Host idmap mount support is not needed runtime should support NamespaceMode_NODE",
        "a system container has a user namespace always",
    ),
    (
        "Privileged is false",
        "root inside has power over the pod's network always; it is nobody outside",
    ),
    (
        "runtime should support dropping",
        "root keeps them, with a warning: GitLab Runner drops NET_RAW from every container, and without it an inner `docker run` \
         starts nothing; an operator may choose otherwise, and then these specs pass",
    ),
    (
        "mount with 'rshared'",
        "nothing mounted inside reaches the host, and what the host mounts later comes without the mapping: a 0700 directory cannot be \
         read (fails with runc as well where pods have user namespaces)",
    ),
    (
        "mount with 'rslave'",
        "what the host mounts later comes without the mapping, the same",
    ),
];

/// What passes where the configuration says so.
const CONFIGURED: &str = "runtime should support dropping";

/// What runs unless SYSBOX_CRITEST=all: the part about what a runtime does differently.
const FOCUS: &str = "PodSandbox|Networking|NamespaceOption|NoNewPrivs|UserNamespaces|Multiple Containers|ReadonlyPaths|Mount Readonly|Mount Propagation|container stats";

/// State of each spec in `focus` that was not skipped, by name.
fn specs(bed: &Bed<'_>, handler: &str, focus: &str) -> Result<BTreeMap<String, bool>> {
    let report = "/srv/report.json";
    let run = format!(
        "critest --ginkgo.focus='{focus}' --runtime-endpoint=unix://{CONTAINERD} --image-endpoint=unix://{CONTAINERD} \
         --runtime-handler={handler} --test-images-file=/srv/images.yaml --ginkgo.no-color --ginkgo.json-report={report} >/srv/critest.log 2>&1"
    );
    let run = if bed.kind.users {
        format!(
            "hostusers {USERS} {CONTAINERD} & proxy=$!; until [ -S {USERS} ]; do sleep 0.1; done; {}; kill $proxy; rm -f {USERS}",
            run.replacen(CONTAINERD, USERS, 1)
        )
    } else {
        run
    };
    // It fails as long as one spec does; the report says which.
    process::run(
        &mut bed.node.command(&["/bin/sh", "-c", &run]),
        b"",
        DEADLINE,
    )?;
    let text = std::fs::read(bed.node.path(report)).context("read critest's report")?;
    let suites: Value = serde_json::from_slice(&text).context("parse critest's report")?;
    let reports = suites[0]["SpecReports"].as_array();
    let mut specs = BTreeMap::new();
    for spec in reports.context("critest's report has no specs")? {
        let mut words: Vec<_> = spec["ContainerHierarchyTexts"]
            .as_array()
            .into_iter()
            .flatten()
            .collect();
        words.push(&spec["LeafNodeText"]);
        let words: Vec<_> = words.into_iter().filter_map(Value::as_str).collect();
        let state = spec["State"].as_str().unwrap_or_default();
        if spec["LeafNodeType"] == "It" && state != "skipped" {
            specs.insert(words.join(" "), state == "passed");
        }
    }
    Ok(specs)
}

fn critest(bed: &Bed<'_>) -> Result<()> {
    bed.node.import(Image::Web)?;
    let web = Image::Web.reference();
    bed.node
        .ctr(&["--namespace", "k8s.io", "images", "tag", web, HTTPD])?
        .ok()?;
    let images = format!(
        "defaultTestContainerImage: {}\nwebServerTestImage: {}\n",
        Image::Busybox.reference(),
        web
    );
    std::fs::write(bed.node.path("/srv/images.yaml"), images)
        .context("write the list of images")?;
    let focus = if whole() { ".*" } else { FOCUS };
    let runc = specs(bed, "runc", focus)?;
    let ours = specs(bed, bed.kind.handler, focus)?;
    let passed = |specs: &BTreeMap<String, bool>| specs.values().filter(|passed| **passed).count();
    println!(
        "critest: {} specs pass with runc, {} with {}",
        passed(&runc),
        passed(&ours),
        bed.kind.handler
    );
    ensure!(
        passed(&runc) > 10,
        "only {} specs pass with runc",
        passed(&runc)
    );
    let reason = |name: &str| EXPECTED.iter().find(|(part, _)| name.contains(part));
    let mut wrong = Vec::new();
    for (name, with_runc) in &runc {
        let with_us = ours.get(name).copied();
        match (with_runc, with_us, reason(name)) {
            (true, Some(true), Some((_, why))) => {
                wrong.push(format!("passes, though listed ({why}): {name}"))
            }
            (true, Some(false) | None, None) => {
                wrong.push(format!("passes with runc alone: {name}"))
            }
            (true, _, Some((_, why))) => println!("  with runc alone: {name}: {why}"),
            _ => {}
        }
    }
    bed.node
        .shell(&format!(
            "mkdir -p $(dirname {CONFIG}); echo 'dropped-capabilities = \"drop\"' >{CONFIG}"
        ))?
        .ok()?;
    let configured = specs(bed, bed.kind.handler, CONFIGURED)?;
    if configured.len() != 2 || configured.values().any(|passed| !passed) {
        wrong.push(format!("with dropped-capabilities: {configured:?}"));
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Its specs leave pods behind where they fail, with runc as well; the image goes, too, and what runc keeps.
    bed.node
        .shell(&format!(
            "crictl rmp --all --force >/dev/null 2>&1; crictl rmi {web} {HTTPD} >/dev/null 2>&1; rm -rf /srv/* /tmp/* /etc/containerd-shim-sysbox \
             /run/containerd-shim-sysbox/seccomp; rmdir /run/containerd/runc/k8s.io /sys/fs/cgroup/k8s.io 2>/dev/null || true"
        ))?
        .ok()?;
    Ok(())
}
