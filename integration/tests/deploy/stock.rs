//! The installer on hosts as they are: files that engines come with, what it must not touch, and pods after a restart.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, ensure};
use integration::bed::cri::{Bed, OLD_PLAIN, OLDEST_PLAIN};
use integration::debian::{self, Release};
use integration::engines::Engine;
use integration::image::Image;
use integration::node::Node;
use serde_json::json;

use crate::can_run_nodes;
use crate::engines::{BINARY, CONTAINERD, bring, install};

/// Each containerd that there is here.
const ENGINES: [(Release, &[Engine]); 4] = [
    (Release::Trixie, &[]),
    (Release::Sid, &[]),
    (Release::Sid, &[Engine::Containerd23]),
    (Release::Sid, &[Engine::Containerd24]),
];

/// Handlers of the administrator's, and a default that is not runc.
const OWN: &str = r#"version = 2
[plugins."io.containerd.grpc.v1.cri".containerd]
default_runtime_name = "crun"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes."a.b"]
runtime_type = "io.containerd.runc.v2"
"#;

/// The file as Debian packages it.
fn packaged(release: Release) -> Result<String> {
    let file = debian::node_root(release)?.join("etc/containerd/config.toml");
    fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))
}

/// What containerd makes of `file`: the CRI plugin's handlers, and which of them is the default.
fn handlers(node: &Node, file: &str) -> Result<(BTreeSet<String>, String)> {
    let dump = node.exec(&["containerd", "-c", file, "config", "dump"])?;
    let dump: toml::Table = dump.ok()?.stdout.parse()?;
    let plugins = dump["plugins"].as_table().context("plugins")?;
    let cri = ["io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"]
        .into_iter()
        .find_map(|name| plugins.get(name)?.get("containerd"))
        .context("no CRI plugin")?;
    let names = cri["runtimes"].as_table().context("runtimes")?;
    let default = cri["default_runtime_name"].as_str().context("a default")?;
    Ok((names.keys().cloned().collect(), default.to_owned()))
}

#[test]
fn every_file_keeps_its_handlers() -> Result<()> {
    if !can_run_nodes()? {
        return Ok(());
    }
    for (release, engines) in ENGINES {
        let node = Node::builder(release).engines(engines).start()?;
        bring(&node)?;
        let file = node.path(CONTAINERD);
        let default = node.exec(&["containerd", "config", "default"])?.ok()?;
        for (name, given) in [
            ("none", None),
            ("empty", Some(String::new())),
            ("packaged", Some(packaged(release)?)),
            ("default", Some(default.stdout)),
            ("own", Some(OWN.to_owned())),
        ] {
            let case = || format!("{release:?} {engines:?}, file {name}");
            if let Some(given) = &given {
                fs::write(&file, given)?;
            }
            let (before, default) =
                handlers(&node, given.as_ref().map_or("/dev/null", |_| CONTAINERD))?;
            install(&node, &format!("install --containerd {BINARY}"))?
                .ok()
                .with_context(case)?;
            let (after, still) = handlers(&node, CONTAINERD)?;
            ensure!(
                after.is_superset(&before)
                    && after.contains("sysbox")
                    && still == default
                    && after.contains(&default),
                "{}: {before:?} {default}, then {after:?} {still}",
                case()
            );
            let again = install(&node, &format!("install --containerd {BINARY}"))?.ok()?;
            ensure!(
                !again.stdout.contains("change "),
                "{}: {}",
                case(),
                again.stdout
            );
            install(&node, "uninstall")?.ok()?;
            let left = fs::read_to_string(&file).unwrap_or_default();
            ensure!(left == given.unwrap_or_default(), "{}: left {left}", case());
        }
    }
    Ok(())
}

/// Runs an installation that must be refused with `error`, nothing of the host being touched.
fn refused(node: &Node, given: &str, words: &str, error: &str) -> Result<()> {
    let state = || {
        node.shell("find /srv /etc/containerd-shim-sysbox /etc/sysctl.d -type f -newer /srv/stamp; cat /srv/containerd/*")
    };
    fs::write(node.path(CONTAINERD), given)?;
    fs::write(node.path("/srv/stamp"), "")?;
    let before = state()?.stdout;
    let output = install(node, &format!("install --containerd {words}"))?.exits(1)?;
    ensure!(output.stderr.contains(error), "{given}: {}", output.stderr);
    ensure!(
        !output.stdout.contains("install ") && state()?.stdout == before,
        "{given}: something was done: {}",
        state()?.stdout
    );
    Ok(())
}

#[test]
fn nothing_is_touched_where_it_would_not_do() -> Result<()> {
    if !can_run_nodes()? {
        return Ok(());
    }
    let node = Node::start(Release::Trixie)?;
    bring(&node)?;
    for (given, error) in [
        (
            "version = 2\nroot = [\n",
            "containerd does not read it: mend it first",
        ),
        (
            "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n",
            "its CRI plugin is switched off (disabled_plugins)",
        ),
        (
            "version = 2\nimports = [\"/srv/containerd/other\"]\n",
            "our handler would have no effect, as a file that it imports has the last word",
        ),
        (
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd]\ndefault_runtime_name = \"crun\"\n",
            "its default_runtime_name is crun, for which it has no handler",
        ),
    ] {
        fs::write(
            node.path("/srv/containerd/other"),
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"mine\"\n",
        )?;
        refused(&node, given, BINARY, error)?;
    }
    // A host on which no container of ours can run.
    fs::write(
        node.path("/srv/shim"),
        "#!/bin/sh\necho MISSING overlay\nexit 1\n",
    )?;
    node.shell("chmod 755 /srv/shim")?.ok()?;
    refused(
        &node,
        &packaged(Release::Trixie)?,
        "--binary /srv/shim",
        "containers cannot run on this host, so nothing is changed",
    )?;
    install(&node, "install --force --binary /srv/shim")?.ok()?;
    ensure!(
        node.path("/srv/prefix/bin/containerd-shim-sysbox-v2")
            .exists()
    );
    Ok(())
}

/// The packaged file with what a node needs beside it: an image for sandboxes, and no privilege that its root lacks.
fn for_nodes(given: &str) -> String {
    let section = "[plugins.\"io.containerd.grpc.v1.cri\"]\n";
    let more = format!(
        "sandbox_image = \"{}\"\nrestrict_oom_score_adj = true\n",
        Image::Pause.reference()
    );
    given.replacen(section, &format!("{section}{more}"), 1)
}

#[test]
fn after_a_restart_runc_and_ours_have_pods() -> Result<()> {
    if !can_run_nodes()? {
        return Ok(());
    }
    for (release, kind) in [(Release::Trixie, OLDEST_PLAIN), (Release::Sid, OLD_PLAIN)] {
        let node = Node::builder(release)
            .cri(true)
            .engines(&[Engine::CriTools])
            .start()?;
        node.import(Image::Busybox)?;
        bring(&node)?;
        // By the name that containerd looks for where no option says otherwise.
        node.shell("sed 's|exec runc|exec /usr/bin/runc|' /usr/local/bin/runc-without-weight >/usr/local/bin/runc; chmod 755 /usr/local/bin/runc")?
            .ok()?;
        fs::write(
            node.path("/etc/containerd/config.toml"),
            for_nodes(&packaged(release)?),
        )?;
        node.shell(&format!(
            "/srv/deploy/install.sh install --containerd {BINARY}"
        ))?
        .ok()?;
        node.kill_containerd("TERM")?;
        node.start_containerd()?;
        for handler in ["runc", "sysbox"] {
            let mut kind = kind;
            kind.handler = handler;
            let bed = Bed::new(&node, kind);
            let pod = bed.pod(json!({}))?;
            let container = pod.sleeper()?;
            ensure!(container.shell("echo here")? == "here");
            pod.remove()?;
        }
    }
    Ok(())
}
