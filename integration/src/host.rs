//! What this machine must have, and how to say what it lacks.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process;

/// Packages of the host that the tier cannot do without: one builds Debian roots, one holds the keys they are signed with.
const PACKAGES: [&str; 3] = ["mmdebstrap", "debian-archive-keyring", "python3"];

/// True where a test that cannot run must fail instead of being skipped: `CI` or `REQUIRE_ROOT` is set.
#[must_use]
pub fn strict() -> bool {
    ["CI", "REQUIRE_ROOT"].iter().any(|name| {
        std::env::var(name).is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"))
    })
}

/// Why no node can run here, in words for the person who asked; none if one can.
#[must_use]
pub fn obstacle() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some(
            "root is needed to make namespaces, mounts and cgroups; run it with sudo".to_owned(),
        );
    }
    if !fs::read_to_string("/proc/filesystems")
        .is_ok_and(|list| list.contains("\tcgroup2") || list.contains("cgroup2\n"))
    {
        return Some("this kernel has no cgroup v2".to_owned());
    }
    let version = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut parts = version
        .split(['.', '-'])
        .map_while(|part| part.parse::<u32>().ok());
    let (major, minor) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    ((major, minor) < (6, 3))
        .then(|| format!("Linux 6.3 or later is needed, this is {}", version.trim()))
}

/// Installs what is missing of the packages that the tier needs, and says so.
///
/// # Errors
/// If apt is not there, or cannot install: naming what is missing and what to type.
pub fn require_packages() -> Result<()> {
    require(&PACKAGES)
}

/// The same of `packages`, which a part of the tier needs.
pub(crate) fn require(packages: &[&str]) -> Result<()> {
    let missing: Vec<_> = packages
        .iter()
        .filter(|name| !installed(name))
        .copied()
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let remedy = format!(
        "install {} with the package system of this machine",
        missing.join(", ")
    );
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("there is no apt-get here: {remedy}");
    }
    println!("setup: installing on this machine: {}", missing.join(" "));
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .arg("-qq")
            .args(args);
        process::run(&mut command, b"", Duration::from_secs(600)).and_then(process::Output::ok)
    };
    apt(&["update"])
        .and_then(|_| {
            apt(&[
                &["install", "-y", "--no-install-recommends"],
                missing.as_slice(),
            ]
            .concat())
        })
        .with_context(|| remedy)?;
    Ok(())
}

fn installed(package: &str) -> bool {
    let mut query = Command::new("dpkg-query");
    query.args(["-W", "-f", "${db:Status-Status}", package]);
    process::run(&mut query, b"", Duration::from_secs(30))
        .is_ok_and(|output| output.code == 0 && output.text() == "installed")
}

/// A program that cargo built beside the running one.
///
/// # Errors
/// If it is not there: with the command that builds it.
pub fn sibling(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("find the running program")?;
    // A test's own file is one level deeper, in `deps`.
    let found = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file());
    found.with_context(|| {
        format!(
            "{name} is not built beside {}: run `cargo build --workspace`",
            own.display()
        )
    })
}

/// The shim under test: `$SYSBOX_SHIM`, or the one built beside the running program.
///
/// # Errors
/// If there is none.
pub fn shim() -> Result<PathBuf> {
    match std::env::var_os("SYSBOX_SHIM") {
        Some(path) => PathBuf::from(&path)
            .canonicalize()
            .with_context(|| format!("SYSBOX_SHIM names {}", path.display())),
        None => sibling("containerd-shim-sysbox-v2"),
    }
}

/// The fields of `/etc/os-release` (os-release(5)).
pub(crate) fn os_release() -> BTreeMap<String, String> {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned()))
        .collect()
}
