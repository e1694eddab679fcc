//! Images as a hostile maker would make them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::layout::Layout;
use super::{PATH, busybox};
use crate::host;

/// An OCI layout in `dir`, which exists and is empty: busybox and the probe, and a layer of what `fill` puts into a
/// directory. `config` is merged into the image's own.
///
/// # Errors
/// If the base is not there or the layout cannot be written.
pub fn crafted(
    dir: &Path,
    reference: &str,
    config: &Value,
    fill: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let base = busybox::base()?;
    let probe = host::sibling("probe")?;
    let mut layout = Layout::create(dir)?;
    layout.layer(|tar| {
        fs::copy(base.join("bb.tar"), tar)
            .map(drop)
            .context("copy the root")
    })?;
    layout.layer_of(|root| {
        fs::copy(&probe, root.join("probe")).context("copy the probe")?;
        fill(root)
    })?;
    let mut whole = json!({"Cmd": ["sh"], "Env": [PATH]});
    for (key, value) in config.as_object().into_iter().flatten() {
        whole[key] = value.clone();
    }
    layout.finish(reference, &whole)
}
