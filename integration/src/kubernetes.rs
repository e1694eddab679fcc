//! What a cluster of one node needs beside the kubelet and the API server: Debian's etcd and kubectl.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::cache;
use crate::debian::{Recipe, Release};

/// The names of the programs.
const NAMES: [&str; 2] = ["etcd", "kubectl"];

/// Paths of the programs of [`NAMES`] in the cache. They want the C library of a node of sid.
///
/// # Errors
/// If Debian's packages cannot be had.
pub fn debian_programs() -> Result<[PathBuf; 2]> {
    let recipe = Recipe {
        release: Release::Sid,
        variant: "extract",
        packages: vec!["etcd-server", "kubernetes-client"],
        hooks: &[],
    };
    let done = cache::artefact("kubernetes-debian", &recipe.text(), |part| {
        let root = part.join("root");
        recipe.build(&root)?;
        for name in NAMES {
            let program = root.join("usr/bin").join(name);
            fs::rename(&program, part.join(name))
                .with_context(|| format!("keep {}", program.display()))?;
        }
        cache::remove(&root)
    })?;
    Ok(NAMES.map(|name| done.join(name)))
}
