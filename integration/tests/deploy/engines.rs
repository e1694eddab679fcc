//! The installer in the configuration of real engines.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use integration::debian::Release;
use integration::node::Node;
use integration::process::Output;

use crate::{Dest, can_run_nodes, deploy};

/// Where the tests have an engine's configuration, so that the node's own is left alone.
pub(crate) const CONTAINERD: &str = "/srv/containerd/config.toml";
const DROP_IN: &str = "/srv/containerd/conf.d/containerd-shim-sysbox.toml";

/// What an administrator may have in containerd's file.
const GIVEN: [(Release, &str); 2] = [
    (
        Release::Trixie,
        r#"version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "mine/pause:1"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  SystemdCgroup = true
"#,
    ),
    (
        Release::Sid,
        r#"version = 3
root = "/var/lib/elsewhere"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  SystemdCgroup = true
"#,
    ),
];

/// A node with the installer at /srv/deploy.
fn node(release: Release) -> Result<Node> {
    let node = Node::start(release)?;
    bring(&node)?;
    Ok(node)
}

/// Puts the installer at /srv/deploy.
pub(crate) fn bring(node: &Node) -> Result<()> {
    let copied = Command::new("cp")
        .arg("-r")
        .arg(deploy(""))
        .arg(node.path("/srv/deploy"))
        .status()?;
    ensure!(copied.success(), "cp of deploy/: {copied}");
    fs::create_dir_all(node.path("/srv/containerd"))?;
    Ok(())
}

/// The installer in the node, on its real root, its binary the node's shim.
pub(crate) fn install(node: &Node, words: &str) -> Result<Output> {
    node.shell(&format!(
        "CONTAINERD_CONFIG={CONTAINERD} DOCKER_CONFIG=/srv/docker/daemon.json PREFIX=/srv/prefix /srv/deploy/install.sh {words}"
    ))
}

pub(crate) const BINARY: &str = "--binary /usr/local/bin/containerd-shim-sysbox-v2";

/// The runtime type of handler `sysbox`, and whether runc's own option is still there, as containerd reads its file.
fn handlers(node: &Node) -> Result<(Option<String>, bool)> {
    let dump = node
        .exec(&["containerd", "-c", CONTAINERD, "config", "dump"])?
        .ok()?;
    let handler = dump
        .stdout
        .lines()
        .skip_while(|line| !line.trim_end().ends_with(".containerd.runtimes.sysbox]"))
        .skip(1)
        .take_while(|line| !line.trim_start().starts_with('['))
        .find_map(|line| line.trim().strip_prefix("runtime_type = "))
        .map(|name| name.trim_matches(['"', '\'']).to_owned());
    Ok((handler, dump.stdout.contains("SystemdCgroup = true")))
}

#[test]
fn containerd_gets_the_handler_and_loses_nothing() -> Result<()> {
    if !can_run_nodes()? {
        return Ok(());
    }
    for (release, given) in GIVEN {
        let node = node(release)?;
        let file = node.path(CONTAINERD);
        fs::write(&file, given)?;
        let dry = install(&node, &format!("install --containerd --dry-run {BINARY}"))?.ok()?;
        ensure!(fs::read_to_string(&file)? == given, "a dry run wrote");
        let real = install(&node, &format!("install --containerd {BINARY}"))?.ok()?;
        ensure!(
            real.stdout.starts_with(&dry.stdout),
            "{}{}",
            dry.stdout,
            real.stdout
        );
        ensure!(
            real.stdout.contains("containers can run here"),
            "it ends with the check: {}",
            real.stdout
        );
        let (handler, kept) = handlers(&node)?;
        ensure!(
            handler.as_deref() == Some("io.containerd.sysbox.v2") && kept,
            "{release:?}: {handler:?}, runc's options kept: {kept}"
        );
        let installed = fs::read_to_string(&file)?;
        let again = install(&node, &format!("install --containerd {BINARY}"))?.ok()?;
        ensure!(
            !again.stdout.contains("change ") && fs::read_to_string(&file)? == installed,
            "{}",
            again.stdout
        );
        install(&node, "uninstall")?.ok()?;
        ensure!(fs::read_to_string(&file)? == given, "uninstall left traces");
        ensure!(!node.path(DROP_IN).exists());
    }
    Ok(())
}

#[test]
fn a_containerd_without_a_file_gets_one() -> Result<()> {
    if !can_run_nodes()? {
        return Ok(());
    }
    for release in Release::ALL {
        let node = node(release)?;
        install(&node, &format!("install --containerd {BINARY}"))?.ok()?;
        let (handler, _) = handlers(&node)?;
        ensure!(
            handler.as_deref() == Some("io.containerd.sysbox.v2"),
            "{release:?}: {handler:?}"
        );
        install(&node, "uninstall")?.ok()?;
        ensure!(!node.path(CONTAINERD).exists(), "the file was ours");
    }
    Ok(())
}

#[test]
fn imports_that_are_there_stay() -> Result<()> {
    if !can_run_nodes()? {
        return Ok(());
    }
    let node = node(Release::Sid)?;
    let given = "version = 3\nimports = [\n  \"/srv/containerd/other.toml\",\n]\n";
    fs::write(node.path(CONTAINERD), given)?;
    fs::write(
        node.path("/srv/containerd/other.toml"),
        "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]\nSystemdCgroup = true\n",
    )?;
    install(&node, &format!("install --containerd {BINARY}"))?.ok()?;
    let (handler, kept) = handlers(&node)?;
    ensure!(handler.is_some() && kept, "{handler:?} {kept}");
    install(&node, "uninstall")?.ok()?;
    ensure!(fs::read_to_string(node.path(CONTAINERD))? == given);
    Ok(())
}

/// An installation that must be refused with `error` before anything is done.
fn refused(words: &[&str], file: &str, content: &str, error: &str) -> Result<()> {
    let dest = Dest::new()?;
    let file = dest.path(file);
    fs::create_dir_all(file.parent().context("a file has a directory")?)?;
    fs::write(&file, content)?;
    let output = dest.install(&[&["install"], words].concat())?.exits(1)?;
    ensure!(output.stderr.contains(error), "{}", output.stderr);
    ensure!(
        fs::read_to_string(&file)? == content && !dest.path("usr").exists(),
        "something was done"
    );
    Ok(())
}

#[test]
fn what_cannot_be_merged_is_refused_before_anything_is_done() -> Result<()> {
    let containerd = "etc/containerd/config.toml";
    let handler =
        "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.sysbox]\n";
    refused(
        &["--containerd"],
        containerd,
        handler,
        "it has a handler sysbox that is not ours",
    )?;
    refused(
        &["--containerd"],
        containerd,
        "root = '/x'\n",
        "version none: need 2 (containerd 1.7), 3 or 4 (2.x)",
    )?;
    refused(
        &["--docker"],
        "etc/docker/daemon.json",
        "{\"runtimes\": ",
        "not JSON: mend it first",
    )
}

#[test]
fn dockerd_gets_the_runtimes_and_keeps_its_own() -> Result<()> {
    let dest = Dest::new()?;
    let file = dest.path("etc/docker/daemon.json");
    let read = || -> Result<serde_json::Value> { Ok(serde_json::from_slice(&fs::read(&file)?)?) };
    dest.install(&["install", "--docker"])?.ok()?;
    ensure!(fs::read(&file)? == fs::read(deploy("daemon.json"))?);
    dest.install(&["uninstall"])?.ok()?;
    ensure!(!file.exists(), "the file was ours");

    let given = serde_json::json!({
        "log-level": "info",
        "runtimes": {"sysbox-runc": {"path": "/usr/bin/sysbox-runc"}, "other": {"path": "/x"}},
    });
    fs::write(&file, given.to_string())?;
    dest.install(&["install", "--docker"])?.ok()?;
    let mut wanted = given.clone();
    wanted["runtimes"]["sysbox"] = serde_json::json!({"runtimeType": "io.containerd.sysbox.v2"});
    ensure!(read()? == wanted, "{}", read()?);
    let again = dest.install(&["install", "--docker"])?.ok()?;
    ensure!(
        again
            .stdout
            .contains(&format!("unchanged {}", file.display())),
        "{}",
        again.stdout
    );
    dest.install(&["uninstall"])?.ok()?;
    ensure!(read()? == given, "{}", read()?);
    Ok(())
}

#[test]
fn an_upgrade_needs_something_to_upgrade() -> Result<()> {
    let dest = Dest::new()?;
    let upgrade = |dest: &Dest| {
        let binary = dest.binary.display().to_string();
        dest.install(&["upgrade", "--binary", &binary])
    };
    let output = upgrade(&dest)?.exits(1)?;
    ensure!(
        output.stderr.contains("not there to upgrade: use install"),
        "{}",
        output.stderr
    );
    dest.install(&["install"])?.ok()?;
    fs::write(&dest.binary, "#!/bin/sh\nexit 4\n")?;
    upgrade(&dest)?.ok()?;
    let installed = dest.path("usr/local/bin/containerd-shim-sysbox-v2");
    ensure!(fs::read(Path::new(&installed))? == fs::read(&dest.binary)?);
    Ok(())
}
