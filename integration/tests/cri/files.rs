//! Volumes, users and the root file system.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::bed::{ANY, Bed, Case, NEWEST, OURS, same};

pub(crate) const CASES: &[Case] = &[
    Case::new("volumes", ANY, volumes),
    Case::new("users_and_groups", ANY, users),
    Case::new("read_only_root", ANY, read_only),
    Case::new("layers_have_right_owners", OURS, layers),
    Case::new("later_mounts", NEWEST, later),
];

/// emptyDir on disk and in memory, a file of a configMap, a subPath, two containers on one volume.
fn volumes(bed: &Bed<'_>) -> Result<()> {
    bed.node
        .shell(
            "mkdir -p /srv/empty /srv/memory /srv/config /srv/sub/path; mount -t tmpfs -o size=1m memory /srv/memory; \
             chmod 777 /srv/empty /srv/memory; echo value >/srv/config/key; echo below >/srv/sub/path/file; chown 1000:1001 /srv/sub/path/file",
        )?
        .ok()?;
    let pod = bed.pod(json!({}))?;
    let mut config = pod.volume("/srv/config/key", "/etc/app/key");
    config["readonly"] = json!(true);
    let mounts = json!([
        pod.volume("/srv/empty", "/empty"),
        pod.volume("/srv/memory", "/memory"),
        pod.volume("/srv/sub/path", "/sub"),
        config,
    ]);
    let sleeps = json!({"command": ["/probe", "sleep"], "mounts": mounts});
    let (one, two) = (pod.run(sleeps.clone())?, pod.run(sleeps)?);
    let seen = one.shell(
        "cat /etc/app/key; ! touch /etc/app/key 2>/dev/null; stat -c '%n %u:%g' /sub/file; touch /empty/root /memory/root; \
         touch /empty/user; chown 1000:1000 /empty/user; df -k /memory | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2",
    )?;
    same(&seen, "value\n/sub/file 1000:1001\n1024")?;
    same(
        &two.shell("ls /empty /memory; stat -c %u /empty/user")?,
        "/empty:\nroot\nuser\n\n/memory:\nroot\n1000",
    )?;
    let disk = bed
        .node
        .shell("stat -c '%n %u:%g' /srv/empty/* /srv/memory/*")?
        .ok()?;
    same(
        disk.text(),
        "/srv/empty/root 0:0\n/srv/empty/user 1000:1000\n/srv/memory/root 0:0",
    )?;
    pod.remove()?;
    bed.node
        .shell("umount /srv/memory; rm -r /srv/empty /srv/memory /srv/config /srv/sub")?
        .ok()?;
    Ok(())
}

fn users(bed: &Bed<'_>) -> Result<()> {
    let pod = bed.pod(json!({}))?;
    let who = json!({
        "command": ["/probe", "sleep"],
        "linux": {"security_context": {
            "run_as_user": {"value": 1000}, "run_as_group": {"value": 1001}, "supplemental_groups": [2001, 2002],
        }},
    });
    let container = pod.run(who)?;
    same(
        &container.shell("id -u; id -g; id -G")?,
        "1000\n1001\n1001 2001 2002",
    )?;
    let named = json!({"command": ["/probe", "sleep"], "linux": {"security_context": {"run_as_username": "user"}}});
    let named = pod.run(named)?;
    same(&named.shell("id -u; id -G")?, "1000\n1000 1001")?;
    pod.remove()
}

fn read_only(bed: &Bed<'_>) -> Result<()> {
    let pod = bed.pod(json!({}))?;
    let container = pod.run(json!({
        "command": ["/probe", "sleep"],
        "linux": {"security_context": {"readonly_rootfs": true}},
    }))?;
    same(&container.shell("! touch /file 2>/dev/null; ! mount -o remount,rw / 2>/dev/null; touch /dev/shm/file; echo done")?, "done")?;
    // Paths of the pod's own choice, some of which systemd would need, which is not the program here.
    let paths = pod.run(json!({
        "command": ["/probe", "sleep"],
        "linux": {"security_context": {"readonly_paths": ["/tmp", "/run"], "masked_paths": ["/home/user"]}},
    }))?;
    same(
        &paths.shell("! touch /tmp/file 2>/dev/null; ! touch /run/file 2>/dev/null; ls /home/user; touch /file; echo done")?,
        "done",
    )?;
    pod.remove()
}

/// The lower layers as the image has them, what is written as it is on disk: unshifted, or containerd's own ids where it
/// maps.
fn layers(bed: &Bed<'_>) -> Result<()> {
    let pod = bed.pod(json!({}))?;
    let container = pod.sleeper()?;
    let seen = container.shell(
        "stat -c %u /bin/busybox /home/user/file; touch /root/new /home/user/new; chown 1000:1000 /home/user/new; \
         echo more >>/home/user/file; stat -c %u /home/user/file; mkdir -p /var/lib/docker; touch /var/lib/docker/inner; chown 7 /var/lib/docker/inner",
    )?;
    same(&seen, "0\n1000\n1000")?;
    let root = if bed.kind.users {
        container.shell(
            "cut -c 11-20 /proc/self/uid_map | tr -d ' '; awk '{print $2}' /proc/self/uid_map",
        )?
    } else {
        "0".into()
    };
    let root: u32 = root.lines().last().unwrap_or_default().parse()?;
    let disk = bed
        .node
        .shell(
            "cd /var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots; cd $(ls -d */fs/root/new | tail -n 1 | cut -d / -f 1); \
             stat -c %u fs/root/new fs/home/user/new fs/home/user/file sysbox/var-lib-docker/inner",
        )?
        .ok()?;
    same(
        disk.text(),
        &[root, root + 1000, root + 1000, root + 7]
            .map(|id| id.to_string())
            .join("\n"),
    )?;
    pod.remove()
}

/// `mountPropagation`: what the host mounts later is seen, as nobody's; nothing mounted inside reaches the host, nor another
/// container, though the pod asks for it.
fn later(bed: &Bed<'_>) -> Result<()> {
    bed.node
        .shell(
            "mkdir -p /srv/volume/host /srv/volume/one /srv/volume/both; mount --bind /srv/volume /srv/volume; mount --make-shared /srv/volume",
        )?
        .ok()?;
    let pod = bed.pod(json!({}))?;
    let with = |propagation: u32| {
        let mut mount = pod.volume("/srv/volume", "/volume");
        mount["propagation"] = json!(propagation);
        pod.run(json!({"command": ["/probe", "sleep"], "mounts": [mount]}))
    };
    let (to_container, both) = (with(1)?, with(2)?);
    bed.node
        .shell("mount -t tmpfs later /srv/volume/host; touch /srv/volume/host/file")?
        .ok()?;
    let seen = "stat -c '%n %u' /volume/host/*";
    same(&to_container.shell(seen)?, "/volume/host/file 65534")?;
    same(&both.shell(seen)?, "/volume/host/file 65534")?;
    to_container.shell("mount -t tmpfs inner /volume/one; touch /volume/one/inside")?;
    both.shell("mount -t tmpfs inner /volume/both; touch /volume/both/inside")?;
    let nothing = bed
        .node
        .shell("ls -A /srv/volume/one /srv/volume/both")?
        .ok()?;
    same(nothing.text(), "/srv/volume/both:\n\n/srv/volume/one:")?;
    same(&to_container.shell("ls -A /volume/both")?, "")?;
    let log = std::fs::read_to_string(bed.node.containerd_log())?;
    ensure!(
        log.lines()
            .any(|line| line.contains("/volume is shared one way")),
        "no warning that mounts made inside stay there"
    );
    pod.remove()?;
    bed.node
        .shell("umount /srv/volume/host /srv/volume; rm -r /srv/volume")?
        .ok()?;
    Ok(())
}
