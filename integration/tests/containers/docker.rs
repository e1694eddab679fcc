//! Docker and other engines inside.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use integration::debian::Release;
use integration::image::Image;
use integration::terminal::Session;

use crate::bed::{Bed, Case, Container, OURS};
use crate::rows::{self, Known};
use crate::systemd::booted;

pub(crate) const CASES: &[Case] = &[
    Case::new("docker_under_systemd", OURS, under_systemd),
    Case::new("docker_as_pid_1", OURS, as_pid_1),
    // The tools are in sid's image only: they are the newer ones, and the same kernel serves both.
    Case::new("nested_engines", OURS, nested).only(&[Release::Sid]),
];

const SCRIPT: &str = include_str!("inside/docker.sh");

/// What dockerd refuses where the container has no controller to delegate.
fn known() -> Known {
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    if controllers.split_whitespace().any(|name| name == "cpu") {
        return Known::new();
    }
    Known::from([(
        "run --cpus",
        "dockerd refuses it where cgroup v2 has no cpu controller, as on this host",
    )])
}

fn answers(container: &Container<'_>) -> Result<()> {
    let begin = Instant::now();
    loop {
        let output = container.exec(&[
            "/bin/sh",
            "-c",
            "docker version -f '{{.Server.Version}}'; sleep 0.1",
        ])?;
        if output
            .text()
            .starts_with(|first: char| first.is_ascii_digit())
        {
            return Ok(());
        }
        if begin.elapsed() > Duration::from_secs(60) {
            bail!(
                "dockerd does not answer: {}{}",
                output.stdout,
                output.stderr
            );
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn under_systemd(bed: &Bed<'_>) -> Result<()> {
    let container = booted(bed, Image::DindSystemd)?;
    answers(&container)?;
    let version = container.shell("docker version -f '{{.Server.Version}}'")?;
    let expected = if bed.node.release() == Release::Sid {
        "28."
    } else {
        "26.1"
    };
    ensure!(version.starts_with(expected), "docker {version}");
    rows::run(&container, SCRIPT, &known())?;
    container.shell("docker import -c 'CMD [\"sh\"]' /root/bb.tar bb")?;
    let line = container.tty_words(&[
        "docker",
        "run",
        "--rm",
        "-it",
        "bb",
        "sh",
        "-c",
        "test -t 0 && echo terminal; exit 3",
    ]);
    let (code, shown) = Session::start(&mut bed.node.command(&line), 80, 24)?.finish()?;
    ensure!(
        code == 3 && shown.contains("terminal"),
        "exit code {code}, {shown:?}"
    );
    container.remove()
}

fn as_pid_1(bed: &Bed<'_>) -> Result<()> {
    let container = bed.detached(&["--log-uri", "file:///srv/dockerd.log"], Image::Dind, &[])?;
    if let Err(error) = answers(&container) {
        let log = bed.node.shell("tail -n 30 /srv/dockerd.log")?;
        return Err(error.context(log.stdout));
    }
    ensure!(
        container.shell("cat /proc/1/comm")? == "dockerd",
        "PID 1 is something else"
    );
    rows::run(&container, SCRIPT, &known())?;
    container.remove()?;
    bed.node.shell("rm /srv/dockerd.log")?.ok()?;
    Ok(())
}

fn nested(bed: &Bed<'_>) -> Result<()> {
    let container = booted(bed, Image::DindSystemd)?;
    answers(&container)?;
    let known = Known::from([
        (
            "ctr run --remap-labels",
            "an ID-mapped mount on a data root needs power over the host's file system (a served mount_setattr)",
        ),
        (
            "resize a tmpfs made inside",
            "the kernel lists its owner among its options by the host's number, and mount(8) hands that back",
        ),
    ]);
    rows::run(&container, include_str!("inside/nested.sh"), &known)?;
    container.remove()
}
