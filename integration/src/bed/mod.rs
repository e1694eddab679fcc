//! What the bodies of cases work with, a file for each client: a node that the case has for itself, and short words for
//! what people type there.

pub mod cri;
pub mod ctr;
pub mod docker;

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::image::crafted;
use crate::node::{Node, pipe_layout};

/// Names of containers that a bed has not used yet.
#[derive(Debug, Default)]
struct Names(AtomicU32);

impl Names {
    fn next(&self) -> String {
        format!("c{}", self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// Makes an image ([`crate::image::crafted`]) and has `line` in the node read it: its name.
fn load(
    node: &Node,
    line: &[&str],
    name: &str,
    config: &Value,
    fill: impl FnOnce(&Path) -> Result<()>,
) -> Result<String> {
    let reference = format!("localhost/{name}:latest");
    let dir = node.state().join("layout");
    std::fs::create_dir(&dir).context("create the layout's directory")?;
    crafted(&dir, &reference, config, fill)?;
    pipe_layout(&mut node.command(line), &dir)?;
    std::fs::remove_dir_all(&dir).context("remove the layout")?;
    Ok(reference)
}
