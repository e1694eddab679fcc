//! Root inside is nobody outside.

use anyhow::{Result, ensure};
use integration::bed::ctr::Bed;
use integration::image::Image;

use crate::case::Case;

pub(crate) const CASES: &[Case] =
    &[Case::ctr("root_is_nobody_outside", nobody).differs("there it is the host's root")];

fn nobody(bed: &Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    ensure!(container.shell("id -u")? == "0", "the program is not root");
    let ids = format!(
        "grep -hE '^(Uid|Gid|Groups):' /proc/{}/status",
        container.pid()?
    );
    let ids = bed.node.shell(&ids)?.ok()?;
    let outside: Vec<u32> = ids
        .stdout
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    // Real, effective, saved and file-system id, of user and group.
    ensure!(
        outside.len() >= 8 && outside.iter().all(|id| *id >= 65536),
        "{ids:?}"
    );
    container.remove()
}
