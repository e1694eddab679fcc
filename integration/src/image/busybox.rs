//! The busybox image, alone and with the probe, and the probe alone.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::layout::{Layout, archive, sha256};
use super::{Image, PATH};
use crate::debian::{Recipe, Release};
use crate::{cache, host, process};

/// A directory with `bb.tar` (the root) and `busybox.tar` (an archive that `docker load`, `podman load` and
/// `ctr images import` take).
pub(super) fn base() -> Result<PathBuf> {
    let recipe = Recipe {
        release: Release::Sid,
        variant: "extract",
        packages: vec!["busybox-static"],
        hooks: &[],
    };
    cache::artefact(
        "busybox",
        &format!("busybox 3\n{}", recipe.text()),
        |part| {
            let extracted = part.join("extracted");
            recipe.build(&extracted)?;
            let root = part.join("root");
            fill(&root, &extracted.join("usr/bin/busybox"))?;
            archive(&root, &part.join("bb.tar"))?;
            let dir = part.join("layout");
            fs::create_dir(&dir).context("create the layout")?;
            let mut layout = Layout::create(&dir)?;
            layout.layer(|tar| {
                fs::copy(part.join("bb.tar"), tar)
                    .map(drop)
                    .context("copy the root")
            })?;
            layout.finish(
                "docker.io/library/busybox:latest",
                &json!({"Cmd": ["sh"], "Env": [PATH]}),
            )?;
            archive(&dir, &part.join("busybox.tar"))?;
            [extracted, root, dir]
                .iter()
                .try_for_each(|dir| cache::remove(dir))
        },
    )
}

/// The layout of [`Image::Busybox`]; it changes with the probe's bytes.
pub(super) fn with_probe() -> Result<PathBuf> {
    let probe = host::sibling("probe")?;
    let base = base()?;
    let text = format!("image-busybox 3 {} {}", base.display(), sha256(&probe)?);
    cache::artefact("image-busybox", &text, |part| {
        let mut layout = Layout::create(part)?;
        layout.layer(|tar| {
            fs::copy(base.join("bb.tar"), tar)
                .map(drop)
                .context("copy the root")
        })?;
        layout.layer_of(|root| {
            fs::copy(&probe, root.join("probe")).context("copy the probe")?;
            // Layer rules of the image-spec (layer.md, Whiteouts): one file deleted, one directory replaced.
            for (name, text) in [
                ("layers/.wh.deleted", ""),
                ("layers/replaced/.wh..wh..opq", ""),
                ("layers/replaced/new", "new\n"),
            ] {
                write(root, name, text)?;
            }
            Ok(())
        })?;
        layout.finish(
            Image::Busybox.reference(),
            &json!({"Cmd": ["sh"], "Env": [PATH]}),
        )
    })
}

/// The layout of [`Image::Pause`]; it changes with the probe's bytes.
pub(super) fn pause() -> Result<PathBuf> {
    let probe = host::sibling("probe")?;
    let text = format!("image-pause 1 {}", sha256(&probe)?);
    cache::artefact("image-pause", &text, |part| {
        let mut layout = Layout::create(part)?;
        layout.layer_of(|root| {
            fs::copy(&probe, root.join("pause"))
                .map(drop)
                .context("copy the probe")
        })?;
        layout.finish(
            Image::Pause.reference(),
            &json!({"Entrypoint": ["/pause", "pause"]}),
        )
    })
}

/// The layout of [`Image::Web`].
pub(super) fn web() -> Result<PathBuf> {
    let base = base()?;
    let text = format!("image-web 2 {}", base.display());
    cache::artefact("image-web", &text, |part| {
        let mut layout = Layout::create(part)?;
        layout.layer(|tar| {
            fs::copy(base.join("bb.tar"), tar)
                .map(drop)
                .context("copy the root")
        })?;
        layout.layer_of(|root| write(root, "www/index.html", "served\n"))?;
        layout.finish(
            Image::Web.reference(),
            // critest looks for the server's name in its log.
            &json!({"Entrypoint": ["sh", "-c", "echo httpd; exec httpd -f -p 80 -h /www"], "Env": [PATH]}),
        )
    })
}

fn fill(root: &Path, busybox: &Path) -> Result<()> {
    for (dir, mode) in [
        ("bin", 0o755),
        ("dev", 0o755),
        ("etc", 0o755),
        ("proc", 0o755),
        ("root", 0o700),
        ("run", 0o755),
        ("sys", 0o755),
        ("tmp", 0o1777),
        ("var/tmp", 0o1777),
        ("home/user", 0o700),
    ] {
        let dir = root.join(dir);
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(mode))
            .with_context(|| format!("chmod {}", dir.display()))?;
    }
    fs::copy(busybox, root.join("bin/busybox")).context("copy busybox")?;
    let mut list = Command::new(busybox);
    list.arg("--list");
    let list = process::run(&mut list, b"", Duration::from_secs(10))?.ok()?;
    for applet in list.stdout.lines().filter(|applet| *applet != "busybox") {
        symlink("busybox", root.join("bin").join(applet))
            .with_context(|| format!("link {applet}"))?;
    }
    // What the whiteouts of the layer above act on, and an owner other than root.
    for (name, text) in [
        (
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
        ),
        (
            "etc/group",
            "root:x:0:\ntty:x:5:\nuser:x:1000:\nextra:x:1001:user\nnogroup:x:65534:\n",
        ),
        ("layers/deleted", "below\n"),
        ("layers/kept", "below\n"),
        ("layers/replaced/old", "below\n"),
        ("home/user/file", "owned by 1000\n"),
    ] {
        write(root, name, text)?;
    }
    for name in ["home/user", "home/user/file"] {
        chown(root.join(name), Some(1000), Some(1000)).with_context(|| format!("chown {name}"))?;
    }
    Ok(())
}

fn write(root: &Path, name: &str, text: &str) -> Result<()> {
    let path = root.join(name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("create the directory of {name}"))?;
    }
    fs::write(&path, text).with_context(|| format!("write {name}"))
}
