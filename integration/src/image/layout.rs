//! Writes OCI image layouts (image-spec, image-layout.md) with uncompressed layers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::process;

/// A layout under construction.
#[derive(Debug)]
pub(super) struct Layout {
    dir: PathBuf,
    layers: Vec<Descriptor>,
}

#[derive(Debug, Clone)]
struct Descriptor {
    media_type: &'static str,
    digest: String,
    size: u64,
}

impl Descriptor {
    fn json(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": format!("sha256:{}", self.digest), "size": self.size})
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.digest)
    }
}

impl Layout {
    /// An empty layout in `dir`, which exists.
    pub(super) fn create(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir.join("blobs/sha256")).context("create the layout")?;
        Ok(Self {
            dir: dir.to_owned(),
            layers: Vec::new(),
        })
    }

    /// Adds the layer that `write` leaves as a tar archive at the path it is given.
    pub(super) fn layer(&mut self, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let tar = self.dir.join("layer.tar");
        write(&tar)?;
        let layer = self.take(&tar, "application/vnd.oci.image.layer.v1.tar")?;
        self.layers.push(layer);
        Ok(())
    }

    /// Adds a layer of what `fill` puts into a directory, owners and modes as there.
    pub(super) fn layer_of(&mut self, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let staging = self.dir.join("staging");
        fs::create_dir(&staging).context("create the staging directory")?;
        fill(&staging)?;
        self.layer(|tar| archive(&staging, tar))?;
        fs::remove_dir_all(&staging).context("remove the staging directory")
    }

    /// Writes configuration, manifest and index; `config` is the image's `config` object.
    pub(super) fn finish(self, reference: &str, config: &Value) -> Result<()> {
        let diff_ids: Vec<_> = self
            .layers
            .iter()
            .map(|layer| format!("sha256:{}", layer.digest))
            .collect();
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let image = json!({"architecture": architecture, "os": "linux", "config": config, "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let image = self.blob(&image, "application/vnd.oci.image.config.v1+json")?;
        let layers: Vec<_> = self.layers.iter().map(Descriptor::json).collect();
        let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": image.json(), "layers": layers});
        let manifest = self.blob(&manifest, "application/vnd.oci.image.manifest.v1+json")?;
        let mut entry = manifest.json();
        entry["annotations"] = json!({"io.containerd.image.name": reference, "org.opencontainers.image.ref.name": "latest"});
        let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry]});
        self.json("index.json", &index)?;
        self.json("oci-layout", &json!({"imageLayoutVersion": "1.0.0"}))?;
        let paths: Vec<_> = self.layers.iter().map(Descriptor::path).collect();
        self.json(
            "manifest.json",
            &json!([{"Config": image.path(), "RepoTags": [reference], "Layers": paths}]),
        )
    }

    fn json(&self, name: &str, value: &Value) -> Result<()> {
        fs::write(self.dir.join(name), value.to_string()).with_context(|| format!("write {name}"))
    }

    fn blob(&self, value: &Value, media_type: &'static str) -> Result<Descriptor> {
        self.json("blob", value)?;
        self.take(&self.dir.join("blob"), media_type)
    }

    /// Moves a file in under its digest.
    fn take(&self, file: &Path, media_type: &'static str) -> Result<Descriptor> {
        let digest = sha256(file)?;
        let size = fs::metadata(file)
            .with_context(|| format!("stat {}", file.display()))?
            .len();
        let descriptor = Descriptor {
            media_type,
            digest,
            size,
        };
        fs::rename(file, self.dir.join(descriptor.path()))
            .with_context(|| format!("move {} in", file.display()))?;
        Ok(descriptor)
    }
}

/// Packs a directory into a tar archive whose bytes depend on its content only.
pub(super) fn archive(dir: &Path, tar: &Path) -> Result<()> {
    let mut command = Command::new("tar");
    command
        .args([
            "--sort=name",
            "--mtime=@0",
            "--numeric-owner",
            "--xattrs",
            "--xattrs-include=*",
            "-cf",
        ])
        .arg(tar)
        .arg("-C")
        .arg(dir)
        .arg(".");
    process::run(&mut command, b"", Duration::from_secs(600))?
        .ok()
        .map(drop)
}

/// The digest of a file, in hexadecimal. A layer has hundreds of megabytes: coreutils beats an unoptimised build of ours.
pub(super) fn sha256(file: &Path) -> Result<String> {
    let mut command = Command::new("sha256sum");
    command.arg(file);
    let output = process::run(&mut command, b"", Duration::from_secs(600))?.ok()?;
    output
        .text()
        .split(' ')
        .next()
        .map(str::to_owned)
        .context("sha256sum printed nothing")
}
