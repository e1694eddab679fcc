//! gitlab-ci-local, which runs the jobs of a `.gitlab-ci.yml` through the docker command: `engines/gitlab-ci-local/` pins it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::debian::{Recipe, Release};
use crate::node::Node;
use crate::{cache, process};

/// Where it is in its root file system.
pub const PROGRAM: &str = "/opt/gitlab-ci-local/node_modules/.bin/gitlab-ci-local";
const HOME: &str = "opt/gitlab-ci-local";
const LOCK_FILES: [&str; 2] = ["package.json", "package-lock.json"];

/// A root file system with it and what it calls, as a directory in the cache.
fn root() -> Result<PathBuf> {
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("engines/gitlab-ci-local");
    let recipe = Recipe {
        release: Release::Sid,
        variant: "essential",
        packages: vec!["nodejs", "git", "rsync", "docker-cli", "ca-certificates"],
        hooks: &[],
    };
    let mut text = recipe.text();
    for file in LOCK_FILES {
        let path = module.join(file);
        text.push_str(
            &fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?,
        );
    }
    let done = cache::artefact("gitlab-ci-local", &text, |part| {
        let root = part.join("root");
        recipe.build(&root)?;
        let home = root.join(HOME);
        fs::create_dir_all(&home).context("make its directory")?;
        for file in LOCK_FILES {
            fs::copy(module.join(file), home.join(file)).context("copy the lock file")?;
        }
        let mut npm = Command::new("npm");
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
            .current_dir(&home);
        process::run(&mut npm, b"", Duration::from_secs(600))?
            .ok()
            .context("gitlab-ci-local comes from npm: install Node.js 20 or newer")?;
        Ok(())
    })?;
    Ok(done.join("root"))
}

/// Puts it into a node, to be run by chroot(8) below the path returned, with the node's /run, /proc and /dev.
///
/// # Errors
/// If it cannot be built or linked.
pub fn install(node: &Node) -> Result<&'static str> {
    let target = node.state().join("srv/gitlab");
    let mut link = Command::new("cp");
    link.args(["-al", "-T"]).arg(root()?).arg(&target);
    process::run(&mut link, b"", Duration::from_secs(120))?.ok()?;
    node.shell(
        "for dir in run proc dev; do mount --rbind --make-rslave /$dir /srv/gitlab/$dir; done",
    )?
    .ok()?;
    Ok("/srv/gitlab")
}

/// Takes it out again.
///
/// # Errors
/// If a mount or a file stays.
pub fn remove(node: &Node) -> Result<()> {
    node.shell(
        "for dir in run proc dev; do umount -R /srv/gitlab/$dir; done; rm -rf --one-file-system /srv/gitlab",
    )?
    .ok()?;
    Ok(())
}
