//! OCI images made of Debian packages, without a registry.
//!
//! Each image is an OCI layout directory in the cache, and at the same time an archive's worth of `docker load`
//! (it has a `manifest.json`). The lowest layer is what mmdebstrap made; a small one above it holds what we add.

mod busybox;
mod crafted;
mod layout;

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::cache;
use crate::debian::{Recipe, Release};
use layout::Layout;

pub use crafted::crafted;

/// The images that tests run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Image {
    /// busybox-static with all applets, and the probe as `/probe` in a second layer with whiteouts.
    Busybox,
    /// The probe alone, which sleeps and reaps: the sandbox of a pod.
    Pause,
    /// busybox as a web server on port 80.
    Web,
    /// systemd as `/sbin/init`, nothing else of weight.
    Systemd,
    /// systemd with Docker enabled; on sid also podman, containerd, runc, crun and what nested tests need.
    DindSystemd,
    /// Docker without systemd: dockerd is the entrypoint.
    Dind,
}

impl Image {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Busybox,
        Self::Pause,
        Self::Web,
        Self::Systemd,
        Self::DindSystemd,
        Self::Dind,
    ];

    /// Those whose content follows from their packages alone: it does not change with what we compile.
    pub const PACKAGED: [Self; 3] = [Self::Systemd, Self::DindSystemd, Self::Dind];

    /// The name under which a node's containerd knows it.
    #[must_use]
    pub const fn reference(self) -> &'static str {
        match self {
            Self::Busybox => "localhost/busybox:latest",
            Self::Pause => "localhost/pause:latest",
            Self::Web => "localhost/web:latest",
            Self::Systemd => "localhost/systemd:latest",
            Self::DindSystemd => "localhost/dind-systemd:latest",
            Self::Dind => "localhost/dind:latest",
        }
    }

    /// The image's OCI layout directory, built if it is not in the cache.
    ///
    /// # Errors
    /// If packages cannot be had, or for [`Self::Busybox`] and [`Self::Pause`] the probe is not built.
    pub fn layout(self, release: Release) -> Result<PathBuf> {
        match self {
            Self::Busybox => busybox::with_probe(),
            Self::Pause => busybox::pause(),
            Self::Web => busybox::web(),
            Self::Systemd => packaged(
                self,
                "systemd",
                &recipe(release, SYSTEMD),
                &systemd_config(),
            ),
            Self::DindSystemd if release == Release::Sid => packaged(
                self,
                "dind-systemd",
                &recipe(release, &[SYSTEMD, DOCKER, TOOLS].concat()),
                &systemd_config(),
            ),
            Self::DindSystemd => packaged(
                self,
                "dind-systemd",
                &recipe(release, &[SYSTEMD, DOCKER].concat()),
                &systemd_config(),
            ),
            Self::Dind => packaged(
                self,
                "dind",
                &recipe(release, DOCKER),
                &json!({"Entrypoint": ["dockerd"], "Env": [PATH]}),
            ),
        }
    }
}

/// An archive of the image `busybox`, which does not change with what we compile.
pub(crate) fn plain_busybox() -> Result<PathBuf> {
    Ok(busybox::base()?.join("busybox.tar"))
}

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const SYSTEMD: &[&str] = &[
    "systemd",
    "systemd-sysv",
    "dbus",
    "udev",
    "libpam-systemd",
    "kmod",
    "mount",
    "procps",
    "iproute2",
    "passwd",
    "util-linux",
];
const DOCKER: &[&str] = &[
    "docker.io",
    "docker-cli",
    "docker-buildx",
    "iptables",
    "iproute2",
    "procps",
    "ca-certificates",
    "curl",
    "kmod",
];
const TOOLS: &[&str] = &[
    "podman",
    "netavark",
    "aardvark-dns",
    "slirp4netns",
    "containerd",
    "runc",
    "crun",
    "uidmap",
    "fuse-overlayfs",
    "fuse3",
    "nftables",
    "dbus-user-session",
    "python3-minimal",
    "acl",
    "libcap2-bin",
    "attr",
];

fn recipe(release: Release, packages: &[&'static str]) -> Recipe {
    Recipe {
        release,
        variant: "essential",
        packages: packages.to_vec(),
        hooks: &[],
    }
}

fn systemd_config() -> Value {
    json!({"Cmd": ["/sbin/init"], "Env": [PATH, "container=docker"], "StopSignal": "SIGRTMIN+3"})
}

/// An image of one packaged layer and one with the files that tests expect inside.
fn packaged(image: Image, name: &str, recipe: &Recipe, config: &Value) -> Result<PathBuf> {
    let inner = busybox::base()?;
    let text = format!(
        "image 2 {} {config}\n{}{}",
        image.reference(),
        recipe.text(),
        inner.display()
    );
    cache::artefact(
        &format!("image-{name}-{}", recipe.release.suite()),
        &text,
        |part| {
            let mut layout = Layout::create(part)?;
            layout.layer(|tar| recipe.build(tar))?;
            layout.layer_of(|root| additions(root, &inner))?;
            layout.finish(image.reference(), config)
        },
    )
}

/// An inner image in three forms and a build context, under `/root`; an empty machine id, so that boots do not differ.
fn additions(root: &Path, inner: &Path) -> Result<()> {
    let home = root.join("root");
    let context = home.join("ctx");
    fs::create_dir_all(&context).context("create /root/ctx")?;
    fs::copy(inner.join("bb.tar"), home.join("bb.tar")).context("copy the inner root")?;
    fs::copy(inner.join("busybox.tar"), home.join("busybox.tar"))
        .context("copy the inner image")?;
    fs::write(context.join("Dockerfile"), DOCKERFILE).context("write the Dockerfile")?;
    fs::write(context.join("hello"), "hello from the build context\n")
        .context("write the context's file")?;
    let etc = root.join("etc");
    fs::create_dir_all(&etc).context("create /etc")?;
    fs::write(etc.join("machine-id"), "").context("write /etc/machine-id")?;
    fs::write(etc.join("hosts"), "127.0.0.1 localhost\n::1 localhost\n")
        .context("write /etc/hosts")?;
    chown(&home, Some(0), Some(0)).context("own /root")
}

/// Builds on `bb`, which tests make by `docker import /root/bb.tar bb`: run, ownership, deletion and copy each show.
const DOCKERFILE: &str = "FROM bb\nRUN echo built > /built && mkdir /d && chown 1000:1000 /d\nRUN rm /etc/passwd\nCOPY hello /hello\nCMD [\"cat\", \"/built\"]\n";
