//! /dev/kmsg: a character device that is quiet, takes what is written, and goes on to inner containers.

use anyhow::{Context, Result, ensure};
use integration::image::Image;
use serde_json::{Value, json};

use crate::bed::{Bed, Case, Container, OURS};
use crate::systemd::booted;

pub(crate) const CASES: &[Case] = &[
    Case::new("kmsg", OURS, device),
    Case::new("kmsg_in_a_pod", OURS, pod),
    Case::new("kmsg_of_systemd", OURS, systemd),
];

fn used(container: &Container<'_>) -> Result<()> {
    let seen = container.exec(&["/probe", "kmsg"])?.ok()?;
    let mut seen: Value = serde_json::from_str(seen.text()).context("the probe's report")?;
    let took = seen["flooded in seconds"].take();
    ensure!(
        took.as_u64().is_some_and(|seconds| seconds < 20),
        "a megabyte took {took} s"
    );
    let expected = json!({
        "character device": true,
        "owner": [0, 0],
        "mode": "600",
        "opened for reading only": true,
        "read": "WouldBlock",
        "events": 0,
        "flooded in seconds": null,
    });
    ensure!(seen == expected, "{seen}");
    Ok(())
}

fn device(bed: &Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    used(&container)?;
    // No terminal of the container's own: those count from 0.
    ensure!(
        container.shell("ls /dev/pts")? == "ptmx",
        "something is in /dev/pts"
    );
    // Who takes it for a terminal, and dies with it, disturbs nobody.
    container.shell(
        "exec 3</dev/kmsg; setsid sh -c 'exec 4</dev/kmsg; kill -9 $$' || true; echo >/dev/kmsg",
    )?;
    container.shell("timeout 0.2 cat /dev/kmsg || [ $? = 143 ]")?;
    used(&container)?;
    container.remove()
}

fn pod(bed: &Bed<'_>) -> Result<()> {
    let group = ["--annotation", "io.kubernetes.cri.sandbox-id=c0"];
    let first = bed.detached(&group, Image::Busybox, &["/probe", "sleep"])?;
    let second = bed.detached(&group, Image::Busybox, &["/probe", "sleep"])?;
    used(&first)?;
    used(&second)?;
    first.remove()?;
    used(&second)?;
    second.remove()
}

fn systemd(bed: &Bed<'_>) -> Result<()> {
    let container = booted(bed, Image::Systemd)?;
    let script = "set -e
        test -c /dev/kmsg
        systemctl is-active systemd-journald
        # It watches the device.
        ls -l /proc/$(systemctl show -P MainPID systemd-journald)/fd | grep -q kmsg
        systemctl restart systemd-journald
        systemctl is-active systemd-journald
        echo '<6>probe: to the kernel' >/dev/kmsg
        logger -t probe found
        journalctl --sync
        journalctl -t probe -o cat | grep -q found
        # Nothing of ours comes back as the kernel's.
        ! journalctl -k -o cat | grep -q 'to the kernel'
        [ -z \"$(dmesg)\" ]
        # It does not spin.
        p=$(systemctl show -P MainPID systemd-journald)
        t() { cut -d' ' -f14,15 /proc/$p/stat | tr ' ' +; }
        a=$(($(t))); sleep 1; b=$(($(t))); [ $((b - a)) -lt 20 ]
        ! journalctl -o cat | grep -iE 'kmsg|buffer overrun'";
    container.shell(script)?;
    container.remove()
}
