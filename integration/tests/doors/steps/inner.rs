//! What users come for: systemd and Docker inside.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration::image::Image;

use crate::door::{Bed, Container, Run};

/// Longer than systemd or dockerd takes on a busy machine.
pub(crate) const BOOT: Duration = Duration::from_secs(60);

pub(crate) fn systemd(bed: &Bed<'_>) -> Result<()> {
    let container = bed.detach(&Run {
        image: Some(Image::Systemd),
        ..Run::default()
    })?;
    container.until("systemctl is-system-running", "running", BOOT)?;
    container.remove()
}

/// A container with a dockerd that answers.
pub(crate) fn dind<'b>(bed: &'b Bed<'b>) -> Result<Container<'b>> {
    let container = bed.detach(&Run {
        image: Some(Image::Dind),
        ..Run::default()
    })?;
    answers(&container)?;
    Ok(container)
}

/// Waits for dockerd.
pub(crate) fn answers(container: &Container<'_>) -> Result<()> {
    container.until("docker info >/dev/null 2>&1 && echo up", "up", BOOT)
}

pub(crate) fn docker(bed: &Bed<'_>) -> Result<()> {
    let container = dind(bed)?;
    container.shell("docker import -c 'CMD [\"sh\"]' /root/bb.tar bb")?;
    let said = container.shell("docker run --rm bb echo from within")?;
    ensure!(said == "from within", "{said}");
    let said =
        container.shell("docker build -q -t built /root/ctx >/dev/null; docker run --rm built")?;
    ensure!(!said.is_empty(), "the built image says nothing");
    container.remove()
}
