//! What the shim takes of the host's memory, descriptors and time does not grow with what a container makes.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::bed::{cri, ctr};
use integration::image::Image;
use integration::node::Node;
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};

use crate::case::Case;

pub(crate) const CASES: &[Case] = &[
    Case::ctr("deep_directories", deep).ours("runc has no data roots"),
    Case::ctr("hard_links_of_an_image", links),
    Case::ctr("writers_of_kmsg", kmsg).ours("runc has no /dev/kmsg"),
    Case::ctr("signals_to_many", signals)
        .ours("runc signals init alone where that has a pid namespace"),
    Case::pod("a_pods_data_stay_where_they_are", stays).ours("runc has no data roots"),
];

const SNAPSHOTS: &str = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots";

/// The one shim of the node.
struct Shim<'a> {
    node: &'a Node,
    pid: String,
}

impl Shim<'_> {
    fn new(node: &Node) -> Result<Shim<'_>> {
        let found = "pgrep -f '^/usr/local/bin/containerd-shim-sysbox-v2 '";
        let pid = node.shell(found)?.ok()?.text().to_owned();
        ensure!(pid.lines().count() == 1, "shims: {pid}");
        Ok(Shim { node, pid })
    }

    /// The most memory it has had, in KiB.
    fn memory(&self) -> Result<u64> {
        let line = format!("grep VmHWM /proc/{}/status", self.pid);
        let line = self.node.shell(&line)?.ok()?;
        let number = line.text().split_whitespace().nth(1);
        number.context("no number")?.parse().map_err(Into::into)
    }

    /// Processor time it has had, in ticks of 10 ms.
    fn time(&self) -> Result<u64> {
        let line = format!("cut -d' ' -f14,15 /proc/{}/stat", self.pid);
        let line = self.node.shell(&line)?.ok()?;
        let ticks = line.text().split_whitespace().map(str::parse::<u64>);
        Ok(ticks.collect::<Result<Vec<_>, _>>()?.iter().sum())
    }
}

/// The host's path of what lies below containerd's snapshots at the end of this pattern, which one path matches.
fn snapshot(node: &Node, end: &str) -> Result<PathBuf> {
    let found = node.shell(&format!("ls -d {SNAPSHOTS}/*/{end}"))?.ok()?;
    ensure!(found.text().lines().count() == 1, "{}", found.stdout);
    Ok(node.path(found.text()))
}

/// Makes `count` directories whose paths are nearly as long as paths may be.
fn fill(top: &Path, count: usize) -> Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let mut dir = openat(CWD, top, flags, Mode::empty())?;
    let name = "n".repeat(250);
    for _ in 0..14 {
        mkdirat(&dir, &*name, Mode::RWXU)?;
        dir = openat(&dir, &*name, flags, Mode::empty())?;
    }
    for number in 0..count {
        mkdirat(&dir, number.to_string(), Mode::RWXU)?;
    }
    Ok(())
}

fn deep(bed: &ctr::Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    let shim = Shim::new(bed.node)?;
    let data = snapshot(bed.node, "sysbox/var-lib-docker")?;
    fill(&data, 20_000)?;
    let before = shim.memory()?;
    bed.ctr(&["task", "pause", &container.id])?;
    let after = shim.memory()?;
    // Whole paths would be 70 MB.
    ensure!(
        after < before + 16 * 1024,
        "the shim grew from {before} to {after} KiB"
    );
    bed.ctr(&["task", "resume", &container.id])?;
    fs::remove_dir_all(data.join("n".repeat(250)))?;
    container.remove()
}

fn links(bed: &ctr::Bed<'_>) -> Result<()> {
    const FILES: usize = 30_000;
    // The image has them: nobody has mounted it yet.
    let probe = snapshot(bed.node, "fs/probe")?;
    let image = probe
        .parent()
        .context("no directory")?
        .join("var/lib/docker");
    fs::create_dir_all(image.join("deep"))?;
    for number in 0..FILES {
        let file = image.join(format!("deep/{number}"));
        fs::File::create(&file)?.write_all(b"x")?;
        fs::hard_link(&file, image.join(format!("deep/{number}-")))?;
    }
    let count = "find /var/lib/docker/deep -type f -links 2 | wc -l";
    let seen = bed.run(&[], &["/bin/sh", "-c", count])?.ok()?;
    ensure!(
        seen.text() == (2 * FILES).to_string(),
        "{} of {} names are linked",
        seen.text(),
        2 * FILES
    );
    fs::remove_dir_all(image)?;
    Ok(())
}

fn kmsg(bed: &ctr::Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    let shim = Shim::new(bed.node)?;
    container.shell(
        "for i in 1 2 3; do dd if=/dev/zero of=/dev/kmsg bs=1 >/dev/null 2>&1 </dev/null & done",
    )?;
    // What a burst may have is gone.
    std::thread::sleep(Duration::from_secs(1));
    let before = shim.time()?;
    std::thread::sleep(Duration::from_secs(2));
    let took = shim.time()? - before;
    ensure!(took < 10, "the shim worked for {took}0 ms of 2 s");
    // Nobody waits for ever.
    container.shell("timeout 10 sh -c 'echo another >/dev/kmsg'; killall dd")?;
    container.remove()
}

fn signals(bed: &ctr::Bed<'_>) -> Result<()> {
    const PROCESSES: usize = 2000;
    let script = format!(
        "i=0; while [ $i -lt {PROCESSES} ]; do sleep 1000 & i=$((i + 1)); done; trap : USR1; wait; exec /probe sleep"
    );
    let container = bed.detached(&["--null-io"], Image::Busybox, &["/bin/sh", "-c", &script])?;
    let count = || -> Result<usize> {
        let listed = bed.ctr(&["task", "ps", &container.id])?;
        Ok(listed.stdout.lines().count().saturating_sub(1))
    };
    let begin = Instant::now();
    while count()? <= PROCESSES {
        ensure!(begin.elapsed() < Duration::from_secs(60), "{}", count()?);
        std::thread::sleep(Duration::from_millis(100));
    }
    let begin = Instant::now();
    bed.ctr(&[
        "task",
        "kill",
        "--all",
        "--signal",
        "SIGUSR1",
        &container.id,
    ])?;
    let took = begin.elapsed();
    // Asking for all of them for each takes three times as long here.
    ensure!(took < Duration::from_secs(3), "it took {took:?}");
    let begin = Instant::now();
    while count()? > 1 {
        ensure!(begin.elapsed() < Duration::from_secs(20), "{}", count()?);
        std::thread::sleep(Duration::from_millis(100));
    }
    container.remove()
}

fn stays(bed: &cri::Bed<'_>) -> Result<()> {
    let pod = bed.pod(serde_json::json!({}))?;
    let container = pod.sleeper()?;
    container.shell("mkdir -p /var/lib/docker/overlay2; echo data >/var/lib/docker/file")?;
    bed.crictl(&["stop", "--timeout", "0", &container.id])?;
    let found = snapshot(bed.node, "sysbox/var-lib-docker/file");
    ensure!(found.is_ok(), "the data have moved: {found:?}");
    container.remove()?;
    pod.remove()
}
