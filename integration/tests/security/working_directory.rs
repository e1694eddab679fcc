//! A working directory, or a program, by a descriptor that a runtime left open: the way out of CVE-2024-21626.

use anyhow::{Result, ensure};
use integration::bed::ctr::Bed;
use integration::image::Image;
use integration::node::DEADLINE;
use integration::process;

use crate::case::Case;

pub(crate) const CASES: &[Case] = &[
    Case::ctr("of_the_first_process", first),
    Case::ctr("of_exec", exec),
];

/// The numbers that descriptors of a runtime had when the hole was known, and some more.
const NUMBERS: std::ops::RangeInclusive<u32> = 3..=24;

/// Ways to say the same.
fn ways(number: u32) -> [String; 4] {
    [
        format!("/proc/self/fd/{number}"),
        format!("/proc/1/fd/{number}"),
        format!("/proc/thread-self/fd/{number}/../.."),
        // Through a link on a volume, which no look at the words finds.
        format!("/links/{number}"),
    ]
}

const LINKS: &str =
    "mkdir /srv/links; for n in $(seq 3 24); do ln -s /proc/self/fd/$n /srv/links/$n; done";
const VOLUME: &str = "type=bind,src=/srv/links,dst=/links,options=rbind:ro";
/// Where a process that got there can say so, and what of the host it sees.
const LOOK: &str =
    "pwd; ls -a; ls -d ../../../../../../var/lib/containerd ../../../srv/links; true";

/// Nothing that ran is outside: a start that fails is fine, too.
fn inside(shown: &str) -> Result<()> {
    ensure!(
        !shown.contains("unreachable") && !shown.contains("containerd") && !shown.contains("srv"),
        "it is outside: {shown}"
    );
    Ok(())
}

fn first(bed: &Bed<'_>) -> Result<()> {
    bed.node.shell(LINKS)?.ok()?;
    // A container costs more than an exec: every third number.
    for way in NUMBERS.step_by(3).flat_map(ways) {
        let options = ["--mount", VOLUME, "--cwd", &way];
        let output = bed.run(&options, &["/bin/sh", "-c", LOOK])?;
        inside(&output.stdout)?;
        ensure!(output.code != 0, "{way} is a working directory: {output:?}");
    }
    bed.node.shell("rm -r /srv/links")?.ok()?;
    Ok(())
}

fn exec(bed: &Bed<'_>) -> Result<()> {
    bed.node.shell(LINKS)?.ok()?;
    let container = bed.detached(&["--mount", VOLUME], Image::Busybox, &["/probe", "sleep"])?;
    for way in NUMBERS.flat_map(ways) {
        let mut command = container.exec_command(&["--cwd", &way], &["/bin/sh", "-c", LOOK]);
        let output = process::run(&mut command, b"", DEADLINE)?;
        inside(&output.stdout)?;
        ensure!(output.code != 0, "{way} is a working directory: {output:?}");
    }
    container.remove()?;
    bed.node.shell("rm -r /srv/links")?.ok()?;
    Ok(())
}
