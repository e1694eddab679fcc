//! The operator's manifests and configurations name the same things, and Kubernetes' own types read them.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::{host, process};
use toml::Table;

use crate::deploy;

fn read(file: &str) -> Result<String> {
    fs::read_to_string(deploy(file)).with_context(|| format!("read deploy/{file}"))
}

#[test]
fn kubernetes_reads_the_manifests() -> Result<()> {
    let strict = |files: &[&Path]| {
        let mut go = Command::new("go");
        go.args(["run", "."])
            .args(files)
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests"));
        process::run(&mut go, b"", Duration::from_secs(300))
    };
    if Command::new("go").arg("version").output().is_err() {
        ensure!(!host::strict(), "there is no go");
        eprintln!("not run: there is no go");
        return Ok(());
    }
    let (class, pod) = (deploy("runtimeclass.yaml"), deploy("example-pod.yaml"));
    let seen = strict(&[&class, &pod])?.ok()?;
    ensure!(seen.stdout.lines().count() == 2, "{}", seen.stdout);
    // The check can fail: on a misspelt field, on a privilege.
    let scratch = tempfile::tempdir()?;
    let file = scratch.path().join("bad.yaml");
    for (given, bad, error) in [
        (&class, ("handler:", "hander:"), "unknown field"),
        (
            &pod,
            (
                "image:",
                "securityContext: {privileged: true}\n      image:",
            ),
            "privileged",
        ),
    ] {
        fs::write(&file, fs::read_to_string(given)?.replace(bad.0, bad.1))?;
        let refused = strict(&[&file])?.exits(1)?;
        ensure!(refused.stderr.contains(error), "{}", refused.stderr);
    }
    Ok(())
}

/// The section `[[runners]]` of a configuration of GitLab Runner.
fn runner(file: &str) -> Result<Table> {
    let config: Table = read(file)?.parse()?;
    let runners = config["runners"].as_array().context("runners")?;
    ensure!(runners.len() == 1);
    runners[0].as_table().cloned().context("a table")
}

#[test]
fn gitlab_runner_names_what_the_engines_have() -> Result<()> {
    let daemon: serde_json::Value = serde_json::from_str(&read("daemon.json")?)?;
    let docker = runner("gitlab-runner/docker.toml")?;
    ensure!(docker["executor"].as_str() == Some("docker"));
    let docker = &docker["docker"];
    let runtime = docker["runtime"].as_str().context("runtime")?;
    ensure!(
        daemon["runtimes"][runtime]["runtimeType"] == "io.containerd.sysbox.v2",
        "{runtime} is not in daemon.json"
    );

    let kubernetes = runner("gitlab-runner/kubernetes.toml")?;
    ensure!(kubernetes["executor"].as_str() == Some("kubernetes"));
    let kubernetes = &kubernetes["kubernetes"];
    let class = kubernetes["runtime_class_name"]
        .as_str()
        .context("runtime_class_name")?;
    let manifest = read("runtimeclass.yaml")?;
    ensure!(
        manifest.contains(&format!("\n  name: {class}\n")),
        "{class}"
    );
    for (label, value) in kubernetes["node_selector"].as_table().context("labels")? {
        let line = format!("{label}: {value}");
        ensure!(manifest.contains(&line), "{line}");
    }
    for executor in [docker, kubernetes] {
        ensure!(executor["privileged"].as_bool() == Some(false));
    }
    Ok(())
}

#[test]
fn a_handler_of_the_drop_ins_is_the_class_s() -> Result<()> {
    let manifest = read("runtimeclass.yaml")?;
    let handler = manifest
        .lines()
        .find_map(|line| line.strip_prefix("handler: "))
        .context("handler")?;
    for (file, plugin) in [
        ("containerd/sysbox-v2.toml", "io.containerd.grpc.v1.cri"),
        ("containerd/sysbox-v3.toml", "io.containerd.cri.v1.runtime"),
    ] {
        let drop_in: Table = read(file)?.parse()?;
        let runtimes = &drop_in["plugins"][plugin]["containerd"]["runtimes"];
        ensure!(runtimes.get(handler).is_some(), "{file}: no {handler}");
    }
    Ok(())
}
