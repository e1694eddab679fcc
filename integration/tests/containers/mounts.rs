//! What root inside does with the mounts that it finds: bind, move and unmount them as on a machine, but for what they restrict.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use integration::image::Image;
use integration::script::NO;

use crate::bed::{Bed, Case, Container, OURS};
use crate::isolation::ask;
use crate::systemd::booted;

pub(crate) const CASES: &[Case] = &[
    Case::new("mounts_stay_as_restricted", OURS, restricted),
    Case::new("binds_of_directories_with_mounts", OURS, binds),
    Case::new("a_chroot_with_dev", OURS, chroot),
    Case::new("mounts_move", OURS, moves),
    Case::new("mounts_are_shared_under_systemd", OURS, shared),
    Case::new("fuse_withheld", OURS, fuse),
    Case::new("a_data_root_through_a_link", OURS, linked_data_root),
];

/// Volumes, one of them read-only, another one with a read-only one in it, and a masked file: the restrictions stay, and so do
/// those mounts that hide something. All else may be unmounted.
pub(crate) fn restricted(bed: &Bed<'_>) -> Result<()> {
    bed.node
        .shell("mkdir -p /srv/v/inner /srv/strict; mount -t tmpfs -o nosuid,nodev,noexec strict /srv/strict")?
        .ok()?;
    let volume = |source: &str, at: &str, mode: &str| {
        format!("--mount=type=bind,src=/srv/{source},dst={at},options=rbind:{mode}")
    };
    let mounts = [
        volume("v", "/var/v", "rw"),
        volume("v/inner", "/var/v/inner", "ro"),
        volume("v", "/var/ro", "ro"),
        volume("strict", "/etc/strict", "rw"),
    ];
    let mounts: Vec<_> = mounts.iter().map(String::as_str).collect();
    let container = bed.detached(&mounts, Image::Busybox, &["/probe", "sleep"])?;
    let rows = ask(&container, &["locks"])?;
    // Those that init makes for systemd are its own.
    let own = ["/sys/kernel/debug", "/sys/kernel/tracing"];
    let rows = rows.as_array().context("no list")?.iter();
    let rows = rows.filter(|row| !own.iter().any(|own| row["mount"] == *own));
    let (drops, rest): (Vec<_>, Vec<_>) = rows.partition(|row| {
        let attempt = row["attempt"].as_str().unwrap_or_default();
        attempt.starts_with("drop ")
    });
    ensure!(
        drops.len() > 20 && drops.iter().all(|row| row["outcome"] != "ok"),
        "dropped, or not tried: {drops:?}"
    );
    let undone: BTreeSet<_> = rest
        .iter()
        .filter(|row| row["outcome"] == "ok")
        .filter_map(|row| row["mount"].as_str())
        .collect();
    let all: BTreeSet<_> = rest
        .iter()
        .filter_map(|row| row["mount"].as_str())
        .collect();
    let kept: BTreeSet<_> = all.difference(&undone).copied().collect();
    for path in &all {
        let below = path.starts_with("/proc/") || path.starts_with("/sys/");
        let hides = below || *path == "/var/v/inner";
        ensure!(
            kept.contains(path) == hides,
            "{path} hides something: {hides}, and: {rest:?}"
        );
    }
    ensure!(
        kept.contains("/proc/keys") && undone.contains("/var/lib/docker"),
        "{kept:?}"
    );
    let wrote = container.shell(&format!(
        "{NO}mkdir /x; mount --bind /var/ro /x; no mount -o remount,bind,rw /x; no touch /x/f; no touch /var/v/inner/f; umount /x; umount /var/ro; no umount /var/v/inner; no umount -l /var/v/inner; ls /var/v",
    ))?;
    ensure!(wrote == "inner", "{wrote}");
    container.remove()?;
    bed.node
        .shell("umount /srv/strict; rm -r /srv/v /srv/strict")?
        .ok()?;
    Ok(())
}

fn binds(bed: &Bed<'_>) -> Result<()> {
    bed.node.shell("mkdir -p /srv/v; echo a >/srv/v/f")?.ok()?;
    let volume = "--mount=type=bind,src=/srv/v,dst=/var/v,options=rbind:ro";
    let container = bed.detached(&[volume], Image::Busybox, &["/probe", "sleep"])?;
    let seen = container.shell(
        "mkdir /x; touch /var/below; \
         for d in / /dev /var /var/lib /etc /run; do mount --bind $d /x; ls /x | wc -l; umount /x; done; \
         mount --bind / /x; ls /x/dev /x/var/v; umount /x; \
         mount --rbind / /x; cat /x/var/v/f; umount /x/var/v; umount -l /x; cat /var/v/f; test -c /dev/ptmx",
    )?;
    let counts: Vec<_> = seen.lines().take(6).collect();
    ensure!(
        counts.iter().all(|count| count.parse::<u32>().is_ok()),
        "{seen}"
    );
    ensure!(seen.ends_with("a\na"), "{seen}");
    container.remove()?;
    bed.node.shell("rm -r /srv/v")?.ok()?;
    Ok(())
}

/// What debootstrap, pbuilder and schroot do around a chroot.
pub(crate) fn chroot(bed: &Bed<'_>) -> Result<()> {
    let script = "mkdir -p /c/bin /c/dev /c/proc /c/sys; cp /bin/busybox /c/bin/busybox; ln -s busybox /c/bin/sh; \
         n=$(wc -l </proc/self/mountinfo); \
         mount --rbind /dev /c/dev; mount -t proc proc /c/proc; mount -t sysfs sysfs /c/sys; \
         chroot /c /bin/busybox sh -ec 'echo x >/dev/null; test -c /dev/ptmx; test -d /dev/shm; : </dev/urandom; test -d /proc/1; test -d /sys/class'; \
         umount /c/proc /c/sys; \
         for m in $(grep -o ' /c/dev[^ ]*' /proc/self/mountinfo | sort -r); do umount $m; done; \
         test $(wc -l </proc/self/mountinfo) = $n; test -c /dev/ptmx; grep -q ' /dev/shm ' /proc/self/mountinfo; grep -q ' /dev/pts ' /proc/self/mountinfo; rm -r /c; echo done";
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    ensure!(container.shell(script)? == "done");
    container.remove()?;
    // By util-linux, and where `/` is shared.
    let container = booted(bed, Image::Systemd)?;
    let seen = container.shell(
        "mkdir -p /c/dev; mount --rbind /dev /c/dev; umount -R /c/dev; mountpoint /dev/pts; mountpoint /dev/shm; rmdir /c/dev /c",
    )?;
    ensure!(seen.lines().count() == 2, "{seen}");
    container.remove()
}

/// `mount --move` and pivot_root(2), for which no mount may be shared.
fn moves(bed: &Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    let seen = container.shell(&format!(
        "{NO}mkdir /a /b; mount -t tmpfs t /a; touch /a/f; mount --move /a /b; ls /b; umount /b; \
         no grep ' shared:' /proc/self/mountinfo; \
         mount --rbind / /a; mkdir -p /a/old; mount --move /dev/mqueue /dev/shm; umount /dev/shm; \
         unshare -m sh -ec 'cd /a; pivot_root . old; test -d /old/proc'",
    ))?;
    ensure!(seen == "f", "{seen}");
    // In the first mount namespace, whose `/` it changes for all.
    container.shell("cd /a; pivot_root . old; test -d /old/proc")?;
    container.remove()
}

/// As on a machine: a mount of one shell is seen in the namespaces of units; not so /dev, which stays out of recursive binds' way.
fn shared(bed: &Bed<'_>) -> Result<()> {
    let container = booted(bed, Image::Systemd)?;
    let flags = |container: &Container<'_>, at: &str| {
        container.shell(&format!(
            "awk '$5 == \"{at}\"' /proc/self/mountinfo | tail -n 1"
        ))
    };
    ensure!(flags(&container, "/")?.contains(" shared:"));
    for api in ["/dev", "/dev/pts", "/proc", "/sys"] {
        let line = flags(&container, api)?;
        ensure!(
            line.contains(" master:") && !line.contains(" shared:"),
            "{line}"
        );
    }
    container.remove()
}

fn fuse(bed: &Bed<'_>) -> Result<()> {
    let opens = ": <>/dev/fuse; : <>/dev/net/tun";
    bed.node.with_config("devices.fuse = false", || {
        let withheld = ["/bin/sh", "-ec", "test ! -e /dev/fuse; : <>/dev/net/tun"];
        bed.run(&[], &withheld)?.ok()?;
        let asked = ["--device", "/dev/fuse"];
        bed.run(&asked, &["/bin/sh", "-ec", opens])?.ok().map(drop)
    })?;
    bed.run(&[], &["/bin/sh", "-ec", opens])?.ok().map(drop)
}

/// The image says where its dockerd keeps data, and a link says where that is: not into the system, whatever it is called.
fn linked_data_root(bed: &Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    container.shell("ln -s /etc /x; ln -s /srv /y; ln -s /nowhere /z; mkdir -p /etc/docker /srv; echo '{\"data-root\": \"/x/engine\"}' >/etc/docker/daemon.json")?;
    let again = |container: &Container<'_>| -> Result<String> {
        bed.ctr(&["task", "kill", "--signal", "SIGKILL", &container.id])?;
        container.reaches("STOPPED")?;
        container.delete_task()?;
        bed.ctr(&["task", "start", "--detach", &container.id])?;
        container
            .shell("cut -d ' ' -f 5 /proc/self/mountinfo | grep engine || ls -d /etc/engine || :")
    };
    let seen = again(&container)?;
    ensure!(seen.is_empty(), "{seen}");
    container.shell("echo '{\"data-root\": \"/z/engine\"}' >/etc/docker/daemon.json")?;
    let seen = again(&container).context("a link that leads nowhere")?;
    ensure!(seen.is_empty(), "{seen}");
    container.shell("echo '{\"data-root\": \"/y/engine\"}' >/etc/docker/daemon.json")?;
    let seen = again(&container)?;
    ensure!(seen == "/srv/engine", "{seen}");
    container.remove()
}
