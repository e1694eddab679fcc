//! Root file systems from Debian packages.
//!
//! Packages come from where the host's own apt gets them: no mirror is named here, and a proxy or a certificate that the
//! host's apt uses is used too. A host that is no Debian has no such mirror: then mmdebstrap's default serves.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::{cache, host, process};

/// A Debian suite that nodes and images are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Release {
    /// The rolling suite: containerd 2.1, runc 1.3, docker 28, systemd 262 when this was written.
    Sid,
    /// Debian 13: containerd 1.7, runc 1.1, docker 26.1, systemd 257.
    Trixie,
}

impl Release {
    /// Both, the newer one first.
    pub const ALL: [Self; 2] = [Self::Sid, Self::Trixie];

    /// The suite's name in the archive.
    #[must_use]
    pub const fn suite(self) -> &'static str {
        match self {
            Self::Sid => "sid",
            Self::Trixie => "trixie",
        }
    }
}

impl std::str::FromStr for Release {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|release| release.suite() == name)
            .with_context(|| format!("release {name:?} is neither sid nor trixie"))
    }
}

/// What mmdebstrap makes: a suite, how much of its base system, and packages.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// The suite that packages come from.
    pub release: Release,
    /// mmdebstrap's `--variant`: `essential`, or `extract` to unpack without installing.
    pub variant: &'static str,
    /// Packages beside those of the variant.
    pub packages: Vec<&'static str>,
    /// Shell commands run on the finished root, which is `$1`.
    pub hooks: &'static [&'static str],
}

/// Files that neither a node nor an image needs, kept out at unpacking.
const EXCLUDED: [&str; 5] = [
    "/usr/share/man/*",
    "/usr/share/doc/*",
    "/usr/share/locale/*",
    "/usr/share/info/*",
    "/usr/share/lintian/*",
];

impl Recipe {
    /// The text that stands for this recipe in the cache.
    #[must_use]
    pub fn text(&self) -> String {
        format!(
            "debian 1 {} {}\n{:?}\n{:?}\n",
            self.release.suite(),
            self.variant,
            self.packages,
            self.hooks
        )
    }

    /// Builds the root as a directory or, where `target` ends in `.tar`, an archive.
    ///
    /// # Errors
    /// If the tools are missing and cannot be installed, or packages cannot be fetched or unpacked.
    pub fn build(&self, target: &Path) -> Result<()> {
        host::require_packages()?;
        let mut command = Command::new("mmdebstrap");
        command.args([
            "--mode=root",
            "--quiet",
            &format!("--variant={}", self.variant),
        ]);
        command.args(EXCLUDED.map(|path| format!("--dpkgopt=path-exclude={path}")));
        // A power cut costs a rebuild, nothing else.
        command.arg("--dpkgopt=force-unsafe-io");
        command.arg("--aptopt=APT::Install-Recommends \"false\"");
        // The index of a testing suite counts as expired between two of its updates.
        command.arg("--aptopt=Acquire::Check-Valid-Until \"false\"");
        command.args(
            acquire_options()?
                .iter()
                .map(|option| format!("--aptopt={option}")),
        );
        command.arg(format!("--include={}", self.packages.join(",")));
        command.args(
            self.hooks
                .iter()
                .map(|hook| format!("--customize-hook={hook}")),
        );
        // Where packages came from is this machine's affair, not the image's.
        command.arg("--customize-hook=rm -rf \"$1\"/etc/apt/apt.conf.d/99mmdebstrap \"$1\"/etc/apt/sources.list \"$1\"/etc/dpkg/dpkg.cfg.d/99mmdebstrap");
        command.args([
            "--customize-hook=rm -f \"$1\"/etc/hostname \"$1\"/etc/resolv.conf",
            self.release.suite(),
        ]);
        command.arg(target);
        command.args(mirror());
        process::run(&mut command, b"", Duration::from_secs(1200))?
            .ok()
            .context("a Debian root needs the network or an apt proxy")?;
        Ok(())
    }
}

/// The root file system of a node, as a directory in the cache.
///
/// # Errors
/// Those of [`Recipe::build`].
pub fn node_root(release: Release) -> Result<PathBuf> {
    let mut recipe = Recipe {
        release,
        variant: "essential",
        packages: vec![
            "containerd",
            "runc",
            "crun",
            "iproute2",
            "iptables",
            "procps",
            "kmod",
            "ca-certificates",
            "fuse3",
            "acl",
            "libcap2-bin",
            "docker.io",
            "docker-cli",
        ],
        hooks: &[],
    };
    if release == Release::Sid {
        // What goes beyond dockerd is tried on one release.
        recipe.packages.extend(["docker-buildx", "docker-compose"]);
    }
    recipe.packages.push("containernetworking-plugins");
    let done = cache::artefact(
        &format!("node-{}", release.suite()),
        &recipe.text(),
        |part| recipe.build(&part.join("root")),
    )?;
    Ok(done.join("root"))
}

/// The mirror that the host's apt uses for Debian's main archive; none where the host is no Debian.
fn mirror() -> Option<String> {
    let os = host::os_release();
    let codename = os
        .get("VERSION_CODENAME")
        .filter(|_| os.get("ID").is_some_and(|id| id == "debian"))?;
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    let parts = fs::read_dir("/etc/apt/sources.list.d")
        .into_iter()
        .flatten()
        .flatten();
    files.extend(parts.map(|entry| entry.path()));
    files
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .find_map(|text| mirror_in(&text, codename))
}

/// The first URI from which `text`, in either form of sources.list(5), takes `main` of `suite`.
fn mirror_in(text: &str, suite: &str) -> Option<String> {
    let one_line = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("deb "))
        .find_map(|line| {
            let line = line.trim_start();
            let rest = if line.starts_with('[') {
                line.split_once(']')?.1
            } else {
                line
            };
            let words: Vec<_> = rest.split_whitespace().collect();
            let (uri, tail) = words.split_first()?;
            (tail.first() == Some(&suite) && tail.contains(&"main")).then(|| (*uri).to_owned())
        });
    one_line.or_else(|| {
        text.split("\n\n").find_map(|stanza| {
            let field = |name: &str| {
                let lines = stanza.lines().filter(|line| !line.starts_with('#'));
                lines
                    .filter_map(|line| line.split_once(':'))
                    .find(|(key, _)| key.eq_ignore_ascii_case(name))
                    .map(|(_, value)| value.split_whitespace().collect::<Vec<_>>())
            };
            let wanted = field("Types")?.contains(&"deb")
                && field("Suites")?.contains(&suite)
                && field("Components")?.contains(&"main");
            field("URIs")
                .filter(|_| wanted)?
                .first()
                .map(|uri| (*uri).to_owned())
        })
    })
}

/// How the host's apt reaches its servers: proxies, certificates, retries.
fn acquire_options() -> Result<Vec<String>> {
    let mut dump = Command::new("apt-config");
    dump.arg("dump");
    let dump = process::run(&mut dump, b"", Duration::from_secs(30))?
        .ok()
        .context("read the configuration of the host's apt")?;
    let prefixes = ["Acquire::http::", "Acquire::https::", "Acquire::Retries"];
    Ok(dump
        .stdout
        .lines()
        .filter(|line| {
            prefixes.iter().any(|prefix| line.starts_with(prefix)) && !line.ends_with(" \"\";")
        })
        .map(str::to_owned)
        .collect())
}

/// The versions of `packages` in a root directory, one line each.
///
/// # Errors
/// If the root's package database cannot be read.
pub fn versions(root: &Path, packages: &[&str]) -> Result<String> {
    let status = root.join("var/lib/dpkg/status");
    let text = fs::read_to_string(&status).with_context(|| format!("read {}", status.display()))?;
    let mut lines = String::new();
    for stanza in text.split("\n\n") {
        let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name));
        if let (Some(name), Some(version)) = (field("Package: "), field("Version: "))
            && packages.contains(&name)
        {
            writeln!(lines, "{name} {version}")?;
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::mirror_in;

    #[test]
    fn finds_the_main_archive_in_both_forms() {
        let deb822 = "Types: deb\nURIs: http://a/security\nSuites: x-security\nComponents: main\n\nTypes: deb deb-src\n# note: main\nURIs: http://a/debian http://b\nSuites: x x-updates\nComponents: main contrib\n";
        assert_eq!(mirror_in(deb822, "x").as_deref(), Some("http://a/debian"));
        assert_eq!(mirror_in(deb822, "y"), None);
        let lines = "# deb http://no x main\ndeb [arch=amd64 signed-by=/k] http://a/other other main\ndeb [arch=amd64] http://a/debian x contrib main\n";
        assert_eq!(mirror_in(lines, "x").as_deref(), Some("http://a/debian"));
        assert_eq!(mirror_in("deb http://a x contrib\n", "x"), None);
    }
}
