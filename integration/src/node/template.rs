//! containerd's root directory with images already unpacked, so that a node has them the moment it starts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Node;
use crate::debian::{self, Release};
use crate::image::Image;
use crate::{cache, process};

/// Directories below which containerd writes a file once and never again; everything else is copied, not linked.
const WRITTEN_ONCE: [&str; 2] = ["snapshots", "blobs"];

/// Builds what [`fill`] links, if it is not in the cache.
pub(super) fn prepare(release: Release, images: &[Image]) -> Result<()> {
    if images.is_empty() {
        return Ok(());
    }
    build(release, images).map(drop)
}

/// Fills `target`, an empty directory, with a containerd root that has `images` unpacked.
///
/// Layers and blobs are hard links into the cache: nothing writes to a committed snapshot, an overlay copies up.
pub(super) fn fill(release: Release, images: &[Image], target: &Path) -> Result<()> {
    if images.is_empty() {
        return Ok(());
    }
    let template = build(release, images)?;
    let mut link = Command::new("cp");
    link.args(["-al", "-T"])
        .arg(template.join("containerd"))
        .arg(target);
    process::run(&mut link, b"", Duration::from_secs(120))?
        .ok()
        .context("link containerd's root out of the cache")?;
    unlink(target)
}

fn build(release: Release, images: &[Image]) -> Result<PathBuf> {
    let mut recipe = format!("template 1\n{}\n", debian::node_root(release)?.display());
    for image in images {
        recipe.push_str(&image.layout(release)?.to_string_lossy());
        recipe.push('\n');
    }
    cache::artefact(&format!("template-{}", release.suite()), &recipe, |part| {
        let node = Node::start(release)?;
        for image in images {
            node.import(*image)?;
        }
        node.kill_containerd("TERM")?;
        fs::rename(node.state().join("containerd"), part.join("containerd"))
            .context("keep containerd's root")?;
        let content = part.join("containerd/io.containerd.content.v1.content/blobs/sha256");
        images
            .iter()
            .try_for_each(|image| share(&image.layout(release)?.join("blobs/sha256"), &content))
    })
}

/// Makes blobs of containerd's content store links to the same ones of an image's layout: the disk holds them once.
fn share(layout: &Path, content: &Path) -> Result<()> {
    for blob in fs::read_dir(layout).with_context(|| format!("list {}", layout.display()))? {
        let blob = blob?;
        let stored = content.join(blob.file_name());
        if stored.exists() {
            fs::remove_file(&stored).with_context(|| format!("remove {}", stored.display()))?;
            fs::hard_link(blob.path(), &stored)
                .with_context(|| format!("link {}", stored.display()))?;
        }
    }
    Ok(())
}

/// Gives every file that containerd may write in place a copy of its own.
fn unlink(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() && !WRITTEN_ONCE.iter().any(|name| entry.file_name() == *name) {
            unlink(&entry.path())?;
        } else if kind.is_file() {
            let own = entry.path().with_extension("own");
            fs::copy(entry.path(), &own)
                .with_context(|| format!("copy {}", entry.path().display()))?;
            fs::rename(&own, entry.path()).with_context(|| format!("rename {}", own.display()))?;
        }
    }
    Ok(())
}
