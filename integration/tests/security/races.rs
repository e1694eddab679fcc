//! A container that renames what a runtime is about to mount on or to make, in a directory that both have: the other one's
//! volume (CVE-2021-30465), or its whole root file system (CVE-2019-19921, 2024-45310, 2025-31133, 2025-52565).

use anyhow::{Context, Result, ensure};
use integration::bed::ctr::{Bed, Container};
use integration::image::Image;
use integration::node::{DEADLINE, Node};
use integration::process;

use crate::case::Case;

pub(crate) const CASES: &[Case] = &[
    Case::ctr("on_a_shared_volume", volume),
    Case::ctr("on_the_root_file_system", rootfs),
];

/// Exchanges that make a race.
const ROUNDS: u64 = 10_000;

/// Starts containers by `start`, over and over, while the racer exchanges `pairs` for some seconds: nothing changes outside.
/// Ends the racer.
fn race(
    bed: &Bed<'_>,
    racer: Container<'_>,
    pairs: &[&str],
    start: impl Fn() -> Result<()>,
) -> Result<()> {
    let before = outside(bed.node)?;
    let words = [&["/probe", "swap", "5"], pairs].concat();
    let mut swaps = racer.exec_command(&[], &words);
    let said = std::thread::scope(|scope| {
        let swapping = std::thread::Builder::new()
            .name("racer".to_owned())
            .spawn_scoped(scope, || process::run(&mut swaps, b"", DEADLINE))?;
        let mut count = 0;
        while !swapping.is_finished() {
            start()?;
            let now = outside(bed.node)?;
            ensure!(before == now, "the host is changed:\n{before}\n{now}");
            count += 1;
        }
        ensure!(count >= 5, "only {count} starts");
        let said = swapping.join();
        said.map_err(|_| anyhow::anyhow!("the racer panicked"))?
    })?;
    let rounds: u64 = said.ok()?.text().parse().context("no number")?;
    ensure!(rounds >= ROUNDS, "only {rounds} exchanges");
    racer.remove()
}

/// Everything below a directory of the node's, and that nothing is mounted there.
fn outside(node: &Node) -> Result<String> {
    let script = "cd /srv/victim; find . -printf '%p %y %m %U %G %s %C@\\n' | sort; grep victim /proc/self/mountinfo || true";
    Ok(node.shell(script)?.ok()?.stdout)
}

fn volume(bed: &Bed<'_>) -> Result<()> {
    bed.node
        .shell("mkdir -p /srv/victim/dir /srv/shared/dir /srv/source; ln -s ../../../../../srv/victim /srv/shared/link; echo source >/srv/source/file")?
        .ok()?;
    let shared = [
        "--mount",
        "type=bind,src=/srv/shared,dst=/shared,options=rbind:rw",
    ];
    let racer = bed.detached(&shared, Image::Busybox, &["/probe", "sleep"])?;
    let deep = [
        &shared as &[&str],
        &[
            "--mount",
            "type=bind,src=/srv/source,dst=/shared/dir/dir,options=rbind:ro",
            "--mount",
            "type=tmpfs,src=tmpfs,dst=/shared/dir/new",
        ],
    ]
    .concat();
    let script = "echo x >/shared/dir/dir/file; echo x >/shared/dir/new/file; true";
    race(bed, racer, &["/shared/dir", "/shared/link"], || {
        bed.run(&deep, &["/bin/sh", "-c", script]).map(drop)
    })?;
    bed.node
        .shell("grep -x source /srv/source/file; rm -r /srv/victim /srv/shared /srv/source")?
        .ok()
        .map(drop)
}

/// Two containers on one directory: the first has it as a volume, the other as its root.
fn rootfs(bed: &Bed<'_>) -> Result<()> {
    bed.node
        .shell(
            "mkdir -p /srv/victim/proc /srv/victim/dev /srv/victim/etc /srv/root /srv/source; echo secret >/srv/victim/etc/passwd
             ctr images mount localhost/busybox:latest /mnt >/dev/null; cp -a /mnt/. /srv/root; ctr images unmount --rm /mnt >/dev/null
             cd /srv/root; mkdir -p links a
             for name in proc dev sys etc a; do ln -s ../../../../../srv/victim links/$name; done",
        )?
        .ok()?;
    let root = [
        "--mount",
        "type=bind,src=/srv/root,dst=/root,options=rbind:rw",
    ];
    let racer = bed.detached(&root, Image::Busybox, &["/probe", "sleep"])?;
    let pairs: Vec<_> = ["proc", "dev", "sys", "etc", "a"]
        .iter()
        .flat_map(|name| [format!("/root/{name}"), format!("/root/links/{name}")])
        .collect();
    let pairs: Vec<_> = pairs.iter().map(String::as_str).collect();
    race(bed, racer, &pairs, || {
        let options = [
            "--rootfs",
            "--mount",
            "type=bind,src=/srv/source,dst=/a/b/c,options=rbind:ro",
        ];
        let script = "cat /etc/passwd /srv/victim/etc/passwd 2>/dev/null; sleep 0.1";
        let output = bed.run_of("/srv/root", &options, &["/bin/sh", "-c", script])?;
        ensure!(!output.stdout.contains("secret"), "{output:?}");
        Ok(())
    })?;
    bed.node
        .shell("rm -r /srv/victim /srv/root /srv/source")?
        .ok()
        .map(drop)
}
