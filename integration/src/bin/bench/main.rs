//! Ours against runc's shim with runc and with crun, on one containerd in one node, in turns:
//! `bench [--quick] [--out FILE]` writes `target/bench/summary.json` and prints a table.

mod api;
mod command;
mod doors;
mod inner;
mod measure;
mod pods;
mod runtime;
mod steps;
mod summary;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, bail, ensure};
use integration::debian::Release;
use integration::dockerd::{self, Store};
use integration::engines::Engine;
use integration::host;
use integration::image::Image;
use integration::node::Node;
use serde::de::DeserializeOwned;

use measure::{Metric, Size};
use summary::Row;

const USAGE: &str = "usage: bench [--quick] [--out FILE]";
const IMAGE: Image = Image::Busybox;
const DOCKER: Image = Image::Dind;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["inside", size, layer] => inside(size, layer),
        ["steps", size, layer] => steps(size, layer),
        ["pods", size] => pods(size),
        _ => run(&words),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<()> {
    let mut size = "full";
    let mut file = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../target/bench/summary.json"
    ));
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "--quick" => size = "quick",
            "--out" => file = PathBuf::from(words.next().context(USAGE)?),
            _ => bail!("unknown argument {word:?}; {USAGE}"),
        }
    }
    if let Some(obstacle) = host::obstacle() {
        bail!("this machine cannot run it: {obstacle}");
    }
    host::require_packages()?;
    host::shim()?;
    let node = Node::builder(Release::Sid)
        .engines(&[Engine::Nerdctl])
        .images(&[IMAGE, DOCKER])
        .start()?;
    dockerd::start(&node, Store::Overlay2)?;
    dockerd::load(&node, IMAGE)?;
    let layer = unpacked(&node)?;
    enable_controllers(&node)?;
    let mut metrics: Vec<Metric> = measured(&node, &["inside", size, &layer])?;
    let steps: Vec<steps::Row> = measured(&node, &["steps", size, &layer])?;
    drop(node);
    let node = Node::builder(Release::Sid)
        .cri(true)
        .engines(&[Engine::CriTools, Engine::Containerd24])
        .start()?;
    node.import(IMAGE)?;
    metrics.extend(measured::<Vec<Metric>>(&node, &["pods", size])?);
    let rows = metrics.iter().map(Row::new).collect::<Result<Vec<_>>>()?;
    summary::write(&rows, &file)?;
    summary::print(&rows);
    steps::print(&steps);
    println!("bench: {}", file.display());
    Ok(())
}

/// The samples that this very program takes in the node: it is static, so it runs there.
fn measured<T: DeserializeOwned>(node: &Node, words: &[&str]) -> Result<T> {
    fs::copy(std::env::current_exe()?, node.path("/srv/bench"))
        .context("put bench into the node")?;
    let output = node
        .command(&[&["/srv/bench"], words].concat())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("start the measurements")?;
    ensure!(
        output.status.success(),
        "no figures: {}\n{}",
        output.status,
        node.log_tail()
    );
    serde_json::from_slice(&output.stdout).context("read the samples")
}

/// Has the controllers that there are passed on below the node's cgroup: crun asks for that a thousand times, a millisecond
/// apart, where processes in the cgroup forbid it (cgroups(7), "no internal processes"), and a host's root never does.
fn enable_controllers(node: &Node) -> Result<()> {
    let top = node.path("/sys/fs/cgroup");
    let pids = fs::read_to_string(top.join("cgroup.procs")).context("list the node's processes")?;
    for pid in pids.lines() {
        fs::write(top.join("engine/cgroup.procs"), pid)
            .with_context(|| format!("move process {pid}"))?;
    }
    let controllers = fs::read_to_string(top.join("cgroup.controllers"))?;
    for name in controllers.split_whitespace() {
        fs::write(top.join("cgroup.subtree_control"), format!("+{name}"))
            .with_context(|| format!("pass on {name}"))?;
    }
    Ok(())
}

/// The directory in the node of busybox's lowest layer, as containerd unpacked it.
fn unpacked(node: &Node) -> Result<String> {
    let snapshots =
        Path::new("/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots");
    for entry in fs::read_dir(node.path(snapshots)).context("list the snapshots")? {
        let layer = snapshots.join(entry?.file_name()).join("fs");
        if node.path(layer.join("bin/busybox")).exists() {
            return Ok(layer.display().to_string());
        }
    }
    bail!("no snapshot holds /bin/busybox")
}

fn size(name: &str) -> Result<Size> {
    match name {
        "full" => Ok(Size::FULL),
        "quick" => Ok(Size::QUICK),
        _ => bail!("no size is called {name:?}"),
    }
}

/// Measures, in the node; the samples are the output.
fn inside(name: &str, layer: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start a runtime")?;
    let metrics = runtime.block_on(measure::all(size(name)?, layer))?;
    println!("{}", serde_json::to_string(&metrics)?);
    Ok(())
}

/// The same, of what the steps of ours take.
fn steps(name: &str, layer: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start a runtime")?;
    let rows = runtime.block_on(steps::all(size(name)?.rounds, layer))?;
    println!("{}", serde_json::to_string(&rows)?);
    Ok(())
}

/// The same for pods, in a node with CRI.
fn pods(name: &str) -> Result<()> {
    let rounds = size(name)?.rounds / 2;
    let metrics = pods::both(rounds.max(1), IMAGE.reference())?;
    println!("{}", serde_json::to_string(&metrics)?);
    Ok(())
}
