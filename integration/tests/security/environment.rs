//! Configuration by an image: the variables `SYSBOX_*` in its ENV, and the operator who decides whether they hold.

use std::fs;

use anyhow::{Context, Result, ensure};
use integration::bed::docker::Bed;
use integration::image::Image;

use crate::case::Case;

pub(crate) const CASES: &[Case] = &[
    Case::docker("an_image_may_leave_a_volume_unshifted", honoured).ours(RUNC),
    Case::docker("an_operator_forbids_it", ignored).ours(RUNC),
];

const RUNC: &str = "it knows no such variables";

/// An image with this in its ENV.
fn image(bed: &Bed<'_>, name: &str, variable: &str) -> Result<()> {
    let base = Image::Busybox.reference();
    bed.docker(&["create", "--name", "base", base])?;
    bed.docker(&["commit", "-c", &format!("ENV {variable}"), "base", name])?;
    bed.docker(&["rm", "base"])?;
    Ok(())
}

/// Whose the volume of `root` on the host is inside a container of the image.
fn owner(bed: &Bed<'_>, image: &str) -> Result<integration::process::Output> {
    let options = ["--rm", "-v", "/srv/volume:/data"];
    bed.try_docker(&bed.words(&options, image, &["stat", "-c", "%u", "/data"]))
}

/// What containerd's log says of these variables from `start` on.
fn warned(bed: &Bed<'_>, start: usize) -> Result<String> {
    let log = fs::read_to_string(bed.node.containerd_log())?;
    let new = log.get(start..).context("the log has shrunk")?;
    let lines: Vec<_> = new
        .lines()
        .filter(|line| line.contains("level=warning") && line.contains("SYSBOX_"))
        .collect();
    Ok(lines.join("\n"))
}

fn length(bed: &Bed<'_>) -> Result<usize> {
    Ok(fs::read(bed.node.containerd_log())?.len())
}

fn images(bed: &Bed<'_>) -> Result<()> {
    bed.node.shell("mkdir /srv/volume")?.ok()?;
    image(bed, "unshifted", "SYSBOX_SKIP_UID_SHIFT=/data")?;
    image(bed, "misspelt", "SYSBOX_SKIP_UIDSHIFT=/data")
}

fn remove(bed: &Bed<'_>) -> Result<()> {
    bed.docker(&["rmi", "unshifted", "misspelt"])?;
    bed.node.shell("rmdir /srv/volume")?.ok()?;
    Ok(())
}

fn honoured(bed: &Bed<'_>) -> Result<()> {
    images(bed)?;
    let start = length(bed)?;
    let unshifted = owner(bed, "unshifted")?.ok()?;
    ensure!(unshifted.text() == "65534", "{unshifted:?}");
    let log = warned(bed, start)?;
    ensure!(
        log.contains("process.env.SYSBOX_SKIP_UID_SHIFT")
            && log.contains("/data")
            && log.contains("ignore"),
        "no warning says so: {log}"
    );
    let refused = owner(bed, "misspelt")?;
    ensure!(
        refused.code != 0 && refused.stderr.contains("SYSBOX_SKIP_UIDSHIFT=/data"),
        "{refused:?}"
    );
    remove(bed)
}

fn ignored(bed: &Bed<'_>) -> Result<()> {
    images(bed)?;
    let directory = bed.node.path("/etc/containerd-shim-sysbox");
    fs::create_dir_all(&directory)?;
    let file = directory.join("config.toml");
    fs::write(&file, "environment = \"ignore\"\n")?;
    for (image, name) in [
        ("unshifted", "SYSBOX_SKIP_UID_SHIFT"),
        ("misspelt", "SYSBOX_SKIP_UIDSHIFT"),
    ] {
        let start = length(bed)?;
        let shifted = owner(bed, image)?.ok()?;
        ensure!(shifted.text() == "0", "{image}: {shifted:?}");
        let log = warned(bed, start)?;
        ensure!(
            log.contains(name) && log.contains("not heeded"),
            "no warning names {name}: {log}"
        );
        // Programs inside see the variable all the same.
        let seen = bed.docker(&bed.words(&["--rm"], image, &["env"]))?;
        ensure!(seen.stdout.contains(name), "{seen:?}");
    }
    fs::remove_dir_all(directory)?;
    remove(bed)
}
