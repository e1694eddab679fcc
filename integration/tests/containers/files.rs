//! Nothing on disk is shifted: what a container leaves is what an image says. What engines put over an image's files.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::debian::Release;
use integration::image::Image;
use integration::node::DEADLINE;

use crate::bed::{Bed, Case, Container, OURS};

pub(crate) const CASES: &[Case] = &[
    Case::new("owners_on_disk", OURS, owners),
    // Only sid's image has the tools.
    Case::new("capabilities_and_acls_on_disk", OURS, attributes).only(&[Release::Sid]),
    Case::new("committed_layer_runs_under_runc", OURS, commit),
    Case::new("another_range_finds_the_files", OURS, another_range),
    Case::new("files_of_the_engine", OURS, engine_files),
    Case::new("a_create_that_fails_leaves_no_data_roots", OURS, failed),
];

/// The upper directory of the newest snapshot, which is that of the only container.
const UPPER: &str = "cd /var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots; cd $(ls -d */fs | sort -n | tail -n 1)";

pub(crate) fn owners(bed: &Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    container.shell(
        "cd /root; touch root; touch user; chown 1000:1001 user; cp /bin/busybox setuid; chmod 4755 setuid; mkfifo fifo; ln -s x link; \
         rm -r /layers/replaced; mkdir /layers/replaced; rm /layers/kept",
    )?;
    let names = "root/root root/user root/setuid root/fifo root/link layers/kept layers/replaced";
    let seen = bed
        .node
        .shell(&format!("{UPPER}; stat -c '%n %u:%g %a %F' {names}"))?
        .ok()?;
    let expected = "root/root 0:0 644 regular empty file\nroot/user 1000:1001 644 regular empty file\nroot/setuid 0:0 4755 regular file\n\
                    root/fifo 0:0 644 fifo\nroot/link 0:0 777 symbolic link\nlayers/kept 0:0 0 character special file\nlayers/replaced 0:0 755 directory\n";
    ensure!(seen.stdout == expected, "{}", seen.stdout);
    let inner = container.shell("stat -c '%u:%g' /root/root /root/user /bin/busybox /home/user")?;
    ensure!(inner == "0:0\n1000:1001\n0:0\n1000:1000", "{inner}");
    container.remove()
}

fn attributes(bed: &Bed<'_>) -> Result<()> {
    let container = bed.detached(
        &["--null-io"],
        Image::DindSystemd,
        &["/usr/bin/sleep", "1000"],
    )?;
    container.shell("cp /usr/bin/true /root/caps; setcap cap_net_raw+ep /root/caps; touch /root/acl; setfacl -m u:1000:rw /root/acl")?;
    let seen = bed
        .node
        .shell(&format!("{UPPER}/root; getcap -n caps; getfacl -nc acl"))?
        .ok()?;
    let capability = seen.stdout.lines().next().unwrap_or_default();
    ensure!(
        capability.starts_with("caps cap_net_raw=ep")
            && (!capability.contains("rootid") || capability.ends_with("[rootid=0]")),
        "{capability}"
    );
    ensure!(seen.stdout.contains("user:1000:rw-"), "{}", seen.stdout);
    container.remove()
}

fn stop(bed: &Bed<'_>, container: &Container<'_>) -> Result<()> {
    bed.ctr(&["task", "kill", "--signal", "SIGKILL", &container.id])?;
    container.reaches("STOPPED")?;
    container.delete_task().map(drop)
}

fn commit(bed: &Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    container.shell(
        "cd /root; echo text >user; chown 1000:1001 user; rm /layers/kept; mkdir -p /var/lib/docker; cd /var/lib/docker; echo inner >image; chown 5:6 image",
    )?;
    // containerd's collector takes at any moment what nothing refers to: the image does, before they exist.
    let image = Image::Busybox.reference();
    let (view, committed) = (
        "containerd.io/gc.ref.snapshot.overlayfs/view",
        "containerd.io/gc.ref.snapshot.overlayfs/committed",
    );
    bed.ctr(&[
        "images",
        "label",
        image,
        &format!("{view}=view"),
        &format!("{committed}=committed"),
    ])?;
    stop(bed, &container)?;
    bed.ctr(&["snapshots", "commit", "committed", &container.id])?;
    bed.ctr(&["container", "delete", "--keep-snapshot", &container.id])?;
    bed.ctr(&["snapshots", "view", "view", "committed"])?;
    bed.node
        .shell("mkdir /srv/committed; eval \"$(ctr snapshots mounts /srv/committed view)\"")?
        .ok()?;
    let script = "cd /root; cat user; stat -c %u:%g user; cd /var/lib/docker; cat image; stat -c %u:%g image; ls /layers; stat -c %u:%g /home/user";
    let line = [
        "run",
        "--rm",
        "--runtime",
        "io.containerd.runc.v2",
        "--cpu-shares",
        "0",
        "--rootfs",
        "/srv/committed",
        "plain",
        "/bin/sh",
        "-ec",
        script,
    ];
    let seen = bed.ctr(&line)?;
    ensure!(
        seen.stdout == "text\n1000:1001\ninner\n5:6\nreplaced\n1000:1000\n",
        "{}",
        seen.stdout
    );
    bed.node
        .shell("umount /srv/committed; rmdir /srv/committed")?
        .ok()?;
    bed.ctr(&["snapshots", "remove", "view", "committed"])?;
    bed.ctr(&[
        "images",
        "label",
        image,
        &format!("{view}="),
        &format!("{committed}="),
    ])?;
    Ok(())
}

pub(crate) fn another_range(bed: &Bed<'_>) -> Result<()> {
    let base = |container: &Container<'_>| -> Result<String> {
        let map = container.shell("cat /proc/self/uid_map")?;
        map.split_whitespace()
            .nth(1)
            .map(str::to_owned)
            .context("no map")
    };
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    let first = base(&container)?;
    container.shell("cd /root; echo kept >file; chown 1000:1001 file; mkdir -p /var/lib/docker; cd /var/lib/docker; echo data >file; chown 5:6 file")?;
    stop(bed, &container)?;
    // Whatever the order in which free ranges are given: this one may take the first.
    let other = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    bed.ctr(&["task", "start", "--detach", &container.id])?;
    ensure!(base(&container)? != first, "the same range twice");
    let found = container
        .shell("for f in /root/file /var/lib/docker/file; do cat $f; stat -c %u:%g $f; done")?;
    ensure!(found == "kept\n1000:1001\ndata\n5:6", "{found}");
    other.remove()?;
    container.remove()
}

/// What engines put over the image's files in /etc may go, and is in no bind's way.
pub(crate) fn engine_files(bed: &Bed<'_>) -> Result<()> {
    bed.node
        .shell("mkdir /srv/plain; echo plain/hosts >/srv/plain/hosts")?
        .ok()?;
    let mount = |source: &str, name: &str, mode: &str| {
        format!("--mount=type=bind,src=/srv/{source},dst=/etc/{name},options=rbind:{mode}")
    };
    let run = |mounts: &[String]| {
        let mounts: Vec<_> = mounts.iter().map(String::as_str).collect();
        bed.detached(&mounts, Image::Busybox, &["/probe", "sleep"])
    };
    let hosts = mount("plain/hosts", "hosts", "rw");
    let container = run(std::slice::from_ref(&hosts))?;
    let seen = container.shell(
        "cat /etc/hosts; mkdir /etc2; mount --bind /etc /etc2; cat /etc2/hosts; umount /etc2; echo >>/etc/hosts more; umount /etc/hosts; cat /etc/hosts",
    )?;
    ensure!(seen == "plain/hosts", "{seen}");
    ensure!(bed.node.shell("cat /srv/plain/hosts")?.ok()?.text() == "plain/hosts\nmore");
    container.remove()?;

    // Through a link, whose end is covered later.
    bed.node
        .shell("mkdir -p /srv/etc /srv/run/x; ln -s ../run/x/stub /srv/etc/resolv.conf; touch /srv/run/x/stub")?
        .ok()?;
    let dir =
        |name: &str| format!("--mount=type=bind,src=/srv/{name},dst=/{name},options=rbind:rw");
    let container = run(&[
        dir("run"),
        dir("etc"),
        mount("plain/hosts", "resolv.conf", "rw"),
        "--mount=type=tmpfs,src=tmpfs,dst=/run,options=mode=755".into(),
    ])?;
    container.shell("test -L /etc/resolv.conf; ! test -e /etc/resolv.conf")?;
    container.remove()?;
    bed.node.shell("rm -r /srv/plain /srv/etc /srv/run")?.ok()?;
    Ok(())
}

/// In the midst of making data roots, by an error and by the stage's death: no directory for one stays in the layer.
fn failed(bed: &Bed<'_>) -> Result<()> {
    const SNAPSHOTS: &str = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots";
    let below = |end: &str| -> Result<Option<PathBuf>> {
        let found = bed.node.shell(&format!("ls -d {SNAPSHOTS}/*/{end}"))?;
        Ok((found.code == 0).then(|| bed.node.path(found.text())))
    };
    let probe = below("fs/probe")?.context("no image")?;
    let image = probe.parent().context("no directory")?;
    let run = || {
        bed.node
            .exec(&bed.words(&["-d"], Image::Busybox, "failed", &["/probe", "sleep"]))
    };
    let nothing_left = |when: &str| -> Result<()> {
        let sysbox = below("sysbox")?.with_context(|| format!("{when}: no data root"))?;
        let upper = sysbox.with_file_name("fs");
        let left = files_below(&upper)?;
        ensure!(
            left.iter()
                .all(|path| Path::new("var/lib/rancher").starts_with(path)),
            "{when}: {left:?}"
        );
        bed.ctr(&["container", "delete", "failed"]).map(drop)
    };

    let (etc, rancher) = (image.join("etc/docker"), image.join("var/lib/rancher"));
    fs::create_dir_all(&etc)?;
    // Looked at after those of the configuration.
    fs::write(etc.join("daemon.json"), r#"{"data-root": "/probe"}"#)?;
    let said = run()?;
    fs::remove_dir_all(&etc)?;
    ensure!(
        said.stderr.contains("is not a directory"),
        "{}",
        said.stderr
    );
    nothing_left("an error")?;

    // What takes a while to copy.
    fs::create_dir_all(&rancher)?;
    for number in 0..20_000 {
        fs::write(rancher.join(number.to_string()), "x")?;
    }
    thread::scope(|scope| -> Result<()> {
        let client = scope.spawn(run);
        let begin = Instant::now();
        while below("sysbox/-new-*")?.is_none() {
            ensure!(
                begin.elapsed() < DEADLINE && !client.is_finished(),
                "no copy begins"
            );
            thread::sleep(Duration::from_millis(5));
        }
        bed.node.shell("pkill -9 -f '^/proc/self/exe init'")?.ok()?;
        let said = client
            .join()
            .map_err(|_| anyhow::anyhow!("the client panicked"))??;
        ensure!(said.stderr.contains("died"), "{}", said.stderr);
        Ok(())
    })?;
    fs::remove_dir_all(&rancher)?;
    nothing_left("a death")
}

/// The paths of all that is below `top`.
fn files_below(top: &Path) -> Result<Vec<PathBuf>> {
    let (mut found, mut rest) = (Vec::new(), vec![top.to_owned()]);
    while let Some(dir) = rest.pop() {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            found.push(path.strip_prefix(top)?.to_owned());
            if path.symlink_metadata()?.is_dir() {
                rest.push(path);
            }
        }
    }
    Ok(found)
}
