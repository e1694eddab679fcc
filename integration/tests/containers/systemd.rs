//! systemd as PID 1.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::debian::Release;
use integration::image::Image;

use crate::bed::{Bed, Case, Container, OURS};
use crate::rows::{self, Known};

pub(crate) const CASES: &[Case] = &[
    Case::new("systemd_boots_and_stops", OURS, boots_and_stops),
    Case::new("systemd_units", OURS, units),
    Case::new("systemd_poweroff_and_reboot", OURS, poweroff_and_reboot),
];

/// How long a boot may take on a busy machine. A quiet one needs two seconds.
const BOOT: Duration = Duration::from_secs(60);

/// A container of `image` whose systemd has come up without a failed unit.
pub(crate) fn booted<'b>(bed: &'b Bed<'b>, image: Image) -> Result<Container<'b>> {
    // As Docker and Kubernetes have it by default: sudo and newuidmap work inside. ctr alone sets no_new_privs.
    let container = bed.detached(&["--null-io", "--allow-new-privs"], image, &[])?;
    let begin = Instant::now();
    let mut state = String::new();
    while begin.elapsed() < BOOT {
        // It answers once its bus is up; a degraded system exits with 1.
        let output = container.exec(&[
            "/bin/sh",
            "-c",
            "systemctl is-system-running --wait; sleep 0.1",
        ])?;
        output.text().clone_into(&mut state);
        if state == "running" {
            return Ok(container);
        }
        if state == "degraded" {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let failed = container.exec(&["/bin/sh", "-c", "systemctl --failed --no-pager; journalctl -b -p warning --no-pager | tail -n 30; sleep 0.1"])?;
    Err(anyhow::anyhow!(
        "systemd is {state:?}, not running, after {:?}\n{}{}",
        begin.elapsed(),
        failed.stdout,
        failed.stderr
    ))
}

fn boots_and_stops(bed: &Bed<'_>) -> Result<()> {
    let container = booted(bed, Image::Systemd)?;
    let version = container.shell("systemctl --version | head -n 1")?;
    let expected = if bed.node.release() == Release::Sid {
        "systemd 26"
    } else {
        "systemd 257"
    };
    ensure!(version.starts_with(expected), "{version}");
    ensure!(
        container.shell("systemd-detect-virt -c")? == "docker",
        "another container manager is seen"
    );
    ensure!(
        container.shell("cat /proc/1/comm")? == "systemd",
        "PID 1 is something else"
    );
    // STOPSIGNAL of the image: SIGRTMIN+3, by its number.
    bed.ctr(&["task", "kill", "--signal", "37", &container.id])?;
    container.reaches("STOPPED")?;
    container.remove()
}

fn units(bed: &Bed<'_>) -> Result<()> {
    let container = booted(bed, Image::DindSystemd)?;
    let known = Known::from([
        (
            "PrivateUsers=full",
            "it writes an identity map of all 32 bits, which the range of the container does not hold",
        ),
        (
            "CPUSchedulingPolicy=rr",
            "realtime scheduling needs CAP_SYS_NICE over the host",
        ),
        (
            "IOSchedulingClass=realtime",
            "the realtime class needs CAP_SYS_ADMIN or CAP_SYS_NICE over the host",
        ),
    ]);
    rows::run(&container, include_str!("inside/systemd.sh"), &known)?;
    container.remove()
}

fn poweroff_and_reboot(bed: &Bed<'_>) -> Result<()> {
    // The kernel ends PID 1 of a namespace by SIGINT or SIGHUP when it asks for either (kernel/pid_namespace.c, reboot_pid_ns).
    for (verb, code) in [("poweroff", 130), ("reboot", 129)] {
        let container = booted(bed, Image::Systemd)?;
        container
            .exec(&["systemctl", verb])
            .context("ask systemd")?;
        container.reaches("STOPPED")?;
        let seen = container.delete_task()?;
        ensure!(seen == code, "{verb} ended with {seen}, not {code}");
        container.delete_container()?;
    }
    Ok(())
}
