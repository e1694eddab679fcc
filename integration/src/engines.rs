//! Engines and clients that Debian does not have, built from their Go modules: `integration/engines/NAME/` pins each with
//! its lock file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::{cache, process};

/// A set of programs out of one module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Engine {
    /// containerd 2.3 with ctr and runc's shim.
    Containerd23,
    /// containerd 2.4 with ctr and runc's shim.
    Containerd24,
    /// crictl, critest, and a proxy of ours that gives critest's pods user namespaces.
    CriTools,
    /// nerdctl.
    Nerdctl,
    /// dockerd 29 and its proxy.
    Dockerd29,
    /// kubelet and kube-apiserver.
    Kubernetes,
}

impl Engine {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Containerd23,
        Self::Containerd24,
        Self::CriTools,
        Self::Nerdctl,
        Self::Dockerd29,
        Self::Kubernetes,
    ];

    /// Whether only a tier of its own needs it, because its build takes a quarter of an hour.
    #[must_use]
    pub const fn is_slow(self) -> bool {
        matches!(self, Self::Kubernetes)
    }

    /// Its directory below `integration/engines`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Containerd23 => "containerd-2.3",
            Self::Containerd24 => "containerd-2.4",
            Self::CriTools => "cri-tools",
            Self::Nerdctl => "nerdctl",
            Self::Dockerd29 => "dockerd-29",
            Self::Kubernetes => "kubernetes",
        }
    }

    /// Its programs.
    #[must_use]
    pub const fn names(self) -> &'static [&'static str] {
        match self {
            Self::Containerd23 | Self::Containerd24 => {
                &["containerd", "ctr", "containerd-shim-runc-v2"]
            }
            Self::CriTools => &["crictl", "critest", "hostusers"],
            Self::Nerdctl => &["nerdctl"],
            Self::Dockerd29 => &["dockerd", "docker-proxy"],
            Self::Kubernetes => &["kubelet", "kube-apiserver"],
        }
    }

    /// The one of that name.
    ///
    /// # Errors
    /// If there is none.
    pub fn named(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|engine| engine.name() == name);
        found.with_context(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("no engine is called {name:?}; there are {names}")
        })
    }

    /// What is left out of a build, so that it needs no C library and no module that nodes cannot use.
    const fn tags(self) -> &'static str {
        match self {
            Self::Containerd23 | Self::Containerd24 => "no_btrfs,no_devmapper,no_zfs",
            Self::CriTools | Self::Nerdctl | Self::Kubernetes => "",
            Self::Dockerd29 => "exclude_graphdriver_btrfs,no_systemd",
        }
    }

    /// The directory of its programs, built if they are not in the cache.
    ///
    /// # Errors
    /// If there is no Go, modules cannot be had, or the build fails.
    pub fn programs(self) -> Result<PathBuf> {
        let module = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("engines")
            .join(self.name());
        let read = |file: &str| {
            let path = module.join(file);
            fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
        };
        let mut recipe = format!(
            "go 1 {}\n{}\n{}\n{}",
            go_version()?,
            self.tags(),
            read("go.mod")?,
            read("go.sum")?
        );
        if self == Self::CriTools {
            recipe.push_str(&read("hostusers/main.go")?);
        }
        cache::artefact(self.name(), &recipe, |part| self.build(&module, part))
    }

    fn build(self, module: &Path, part: &Path) -> Result<()> {
        let go = |words: &[&str]| {
            let mut go = Command::new("go");
            // Static, so that they run in any node.
            go.args(words)
                .args(["-buildvcs=false", "-trimpath", "-ldflags=-s -w", "-tags"])
                .arg(self.tags())
                .current_dir(module)
                .env("CGO_ENABLED", "0")
                .env("GOBIN", part);
            go
        };
        let mut install = go(&["install"]);
        install.arg("tool");
        process::run(&mut install, b"", Duration::from_secs(3600))?
            .ok()
            .with_context(|| format!("build {} from its Go module", self.name()))?;
        if self == Self::CriTools {
            // It is a test binary.
            let mut test = go(&["test", "-c"]);
            test.arg("-o")
                .arg(part.join("critest"))
                .arg("sigs.k8s.io/cri-tools/cmd/critest");
            process::run(&mut test, b"", Duration::from_secs(1800))?
                .ok()
                .context("build critest from its Go module")?;
        }
        Ok(())
    }
}

/// What `go version` says.
///
/// # Errors
/// If there is no Go: with the remedy.
pub fn go_version() -> Result<String> {
    let mut go = Command::new("go");
    go.arg("version");
    let output = process::run(&mut go, b"", Duration::from_secs(30))
        .context("engines are built from Go modules: install Go 1.26 or newer")?;
    ensure!(output.code == 0, "go version: {}", output.stderr);
    Ok(output.text().to_owned())
}
