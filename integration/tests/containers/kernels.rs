//! Kernels that lack what newer ones have: every feature that is used where it is there is pretended to be missing.

use anyhow::{Context, Result, ensure};
use integration::debian::Release;
use integration::image::Image;

use crate::bed::{Bed, Case, OURS};
use crate::{basic, exec, files, isolation, mounts};

pub(crate) const CASES: &[Case] = &[
    Case::new("without_any_kernel_feature", OURS, without_any),
    Case::new("without_each_kernel_feature", OURS, without_each).only(&[Release::Sid]),
];

fn without(bed: &Bed<'_>, features: &[String], act: impl FnOnce() -> Result<()>) -> Result<()> {
    let config = format!("pretend-missing = {features:?}");
    bed.node
        .with_config(&config, act)
        .with_context(|| format!("without {features:?}"))
}

fn without_any(bed: &Bed<'_>) -> Result<()> {
    let features = bed.node.kernel_features()?;
    ensure!(features.len() >= 5, "{features:?}");
    without(bed, &features, || {
        basic::layers(bed)?;
        basic::bind_mount(bed)?;
        exec::terminal(bed)?;
        mounts::restricted(bed)?;
        mounts::chroot(bed)?;
        isolation::attacks(bed)?;
        files::owners(bed)?;
        files::another_range(bed)?;
        files::engine_files(bed)?;
        let check = bed
            .node
            .exec(&["containerd-shim-sysbox-v2", "check"])?
            .ok()?
            .stdout;
        for feature in &features {
            ensure!(
                check.contains(&format!(
                    "degraded  {feature:<22} not used, as `pretend-missing` says"
                )),
                "{check}"
            );
        }
        ensure!(
            check.contains("container              made, run and removed on "),
            "{check}"
        );
        everything(bed)
    })
}

fn without_each(bed: &Bed<'_>) -> Result<()> {
    for feature in bed.node.kernel_features()? {
        without(bed, &[feature], || everything(bed))?;
    }
    Ok(())
}

/// A volume, a tmpfs, a data root, masked and read-only paths, processes and the kernel's log.
fn everything(bed: &Bed<'_>) -> Result<()> {
    bed.node
        .shell("mkdir -p /srv/volume && echo outside >/srv/volume/in")?
        .ok()?;
    let options = [
        "--mount",
        "type=bind,src=/srv/volume,dst=/volume,options=rbind:rw",
        "--mount",
        "type=tmpfs,src=tmpfs,dst=/scratch,options=size=1m",
    ];
    let container = bed.detached(&options, Image::Busybox, &["/probe", "sleep"])?;
    let root = container.shell(
        "cat /volume/in | grep -x outside; chown 5:6 /volume/in; echo x >/scratch/x; test -e /layers/kept; test ! -e /layers/removed
         cd /var/lib/docker; echo data >file; chown 5:6 file; grep -q ' /var/lib/docker ' /proc/self/mountinfo
         test -e /dev/kmsg; echo x >/dev/kmsg; echo x >/dev/null
         test $(cut -d ' ' -f 1 /proc/self/stat) -lt 100; ps | grep -q '/probe sleep'; test \"$(cat /sys/class/tty/console/active)\" = console
         grep ' / / ' /proc/self/mountinfo",
    )?;
    ensure!(root.contains(" - overlay "), "{root}");
    container.remove()?;
    let volume = bed
        .node
        .shell("stat -c %u:%g /srv/volume/in; rm -r /srv/volume")?
        .ok()?;
    ensure!(volume.text() == "5:6", "{volume:?}");
    Ok(())
}
