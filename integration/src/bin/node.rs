//! Starts a node and runs a command in it, for people: `node [--release sid|trixie] [--shim PATH] [-- COMMAND…]`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use integration::debian::Release;
use integration::engines::Engine;
use integration::image::Image;
use integration::node::Node;
use integration::process;

const USAGE: &str = "usage: node [--release sid|trixie] [--shim PATH] [--image busybox|pause|web|systemd|dind-systemd|dind|all]… [--engine NAME]… [--cri] [-- COMMAND…]";

fn main() -> ExitCode {
    match run() {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)),
        Err(error) => {
            eprintln!("node: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<i32> {
    let mut words = std::env::args().skip(1);
    let (mut release, mut shim, mut cri, mut images) = (Release::Sid, None, false, Vec::new());
    let (mut command, mut engines) = (Vec::new(), Vec::new());
    while let Some(word) = words.next() {
        let mut value = || {
            words
                .next()
                .with_context(|| format!("{word} needs a value; {USAGE}"))
        };
        match word.as_str() {
            "--release" => release = value()?.parse()?,
            "--shim" => shim = Some(PathBuf::from(value()?)),
            "--image" => images.extend(named(&value()?)?),
            "--engine" => engines.push(Engine::named(&value()?)?),
            "--cri" => cri = true,
            "--" => command = words.by_ref().collect(),
            _ => bail!("unknown argument {word:?}; {USAGE}"),
        }
    }
    if images.is_empty() {
        images.push(Image::Busybox);
    }
    let mut builder = Node::builder(release).cri(cri).engines(&engines);
    if let Some(shim) = shim {
        builder = builder.shim(shim);
    }
    let node = builder.start()?;
    for image in images {
        eprintln!("node: image {}", node.import(image)?);
    }
    if command.is_empty() {
        command = vec!["/bin/bash".to_owned()];
    }
    eprintln!(
        "node: {} is up, its pid 1 is {}, log {}",
        node.name(),
        node.pid(),
        node.containerd_log().display()
    );
    let words: Vec<_> = command.iter().map(String::as_str).collect();
    let status = node.command(&words).status().context("start the command")?;
    Ok(process::code(status))
}

fn named(name: &str) -> Result<Vec<Image>> {
    Ok(match name {
        "busybox" => vec![Image::Busybox],
        "pause" => vec![Image::Pause],
        "web" => vec![Image::Web],
        "systemd" => vec![Image::Systemd],
        "dind-systemd" => vec![Image::DindSystemd],
        "dind" => vec![Image::Dind],
        "all" => Image::ALL.to_vec(),
        _ => bail!("no image is called {name:?}; {USAGE}"),
    })
}
