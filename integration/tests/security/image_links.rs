//! Images whose directories and files are links to where the host has something: nothing outside is made, read or changed,
//! by create, exec, copying, committing (CVE-2019-19921, 2023-27561, 2023-28642, 2024-45310, 2025-31133, 2025-52565,
//! 2026-41579 and most of Incus's).

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use integration::bed::{ctr, docker};
use integration::image::Image;
use integration::node::Node;
use integration::terminal::Session;
use serde_json::json;

use crate::case::Case;

pub(crate) const CASES: &[Case] = &[
    Case::ctr("of_what_is_mounted", mounted),
    Case::ctr("of_files_that_engines_write", written),
    Case::ctr("of_device_nodes_with_a_terminal", terminal),
    Case::docker("through_every_path_of_docker", by_docker),
];

/// A directory of the node's that links lead to, with something in it.
const VICTIM: &str = "mkdir -p /srv/victim/etc /srv/victim/console; echo secret >/srv/victim/etc/passwd; echo secret >/srv/victim/file";

/// Everything of it, contents and times too; taken before and after.
fn victim(node: &Node) -> Result<String> {
    let script = "cd /srv/victim; find . -printf '%p %y %m %U %G %s %C@\\n' | sort; cat etc/passwd file; grep victim /proc/self/mountinfo || true";
    Ok(node.shell(script)?.ok()?.stdout)
}

/// Puts links into an image that lead to the victim, absolutely and by enough `..`.
fn links(root: &Path, names: &[(&str, &str)]) -> Result<()> {
    for (name, target) in names {
        let path = root.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        }
        symlink(target, &path).with_context(|| format!("link {name}"))?;
    }
    // The same path inside is there as well, so that a link resolves.
    fs::create_dir_all(root.join("srv/victim/inside")).context("create the inner one")
}

/// Links of an image, one time each.
type Links = &'static [(&'static str, &'static str)];

const UP: &str = "../../../../../../../../srv/victim";
const FARMS: [(&str, Links); 4] = [
    ("proc", &[("proc", "/srv/victim")]),
    ("sys", &[("sys", UP), ("etc", "/srv/victim/etc")]),
    ("dev", &[("dev", "/srv/victim")]),
    (
        "rest",
        &[
            ("run", UP),
            ("tmp", "/srv/victim"),
            ("lib", "/srv/victim"),
            ("usr/src", UP),
            ("var/lib", "/srv/victim"),
            ("deep", "/srv/victim"),
        ],
    ),
];

fn mounted(bed: &ctr::Bed<'_>) -> Result<()> {
    bed.node.shell(VICTIM)?.ok()?;
    bed.node.shell("mkdir /srv/volume")?.ok()?;
    let before = victim(bed.node)?;
    let mounts = [
        "--mount",
        "type=bind,src=/srv/volume,dst=/deep/new/er,options=rbind:rw",
        "--mount",
        "type=tmpfs,src=tmpfs,dst=/tmp/new",
    ];
    for (name, farm) in FARMS {
        let image = bed.import(name, &json!({}), |root| links(root, farm))?;
        for options in [&[] as &[&str], &mounts, &["--cwd", "/deep/made"]] {
            let output = bed.run_of(
                &image,
                options,
                &[
                    "/bin/sh",
                    "-c",
                    "cat /proc/self/stat /etc/passwd; : >/deep/file; : >/tmp/file; sleep 0.1",
                ],
            )?;
            ensure!(
                !output.stdout.contains("secret"),
                "{name} shows the host's file: {output:?}"
            );
            same(&before, &victim(bed.node)?, name)?;
        }
        bed.remove_image(&image)?;
    }
    bed.node.shell("rm -r /srv/victim /srv/volume")?.ok()?;
    Ok(())
}

fn same(before: &str, after: &str, what: &str) -> Result<()> {
    ensure!(
        before == after,
        "{what} changed the host:\n{before}\n{after}"
    );
    Ok(())
}

/// Files that engines bind over the image's, and directories of data roots.
fn written(bed: &ctr::Bed<'_>) -> Result<()> {
    bed.node.shell(VICTIM)?.ok()?;
    bed.node.shell("echo bound >/srv/bound")?.ok()?;
    let before = victim(bed.node)?;
    let image = bed.import("files", &json!({}), |root| {
        links(
            root,
            &[
                ("etc/hosts", "/srv/victim/file"),
                ("etc/resolv.conf", UP),
                ("etc/hostname", "/srv/victim/new"),
                ("var/lib/docker", "/srv/victim"),
                ("var/lib/containerd", UP),
                ("var/lib/kubelet", "/proc/1/root/srv/victim"),
            ],
        )
    })?;
    let mut options = Vec::new();
    let mounts: Vec<_> = ["hosts", "resolv.conf", "hostname"]
        .iter()
        .map(|file| format!("type=bind,src=/srv/bound,dst=/etc/{file},options=rbind:rw"))
        .collect();
    for mount in &mounts {
        options.extend(["--mount", mount]);
    }
    for options in [&[] as &[&str], &options] {
        let output = bed.run_of(
            &image,
            options,
            &[
                "/bin/sh",
                "-c",
                "cat /etc/hosts /etc/passwd; ls /var/lib/docker /var/lib/kubelet; sleep 0.1",
            ],
        )?;
        ensure!(!output.stdout.contains("secret"), "{output:?}");
        same(&before, &victim(bed.node)?, "a file")?;
    }
    bed.remove_image(&image)?;
    bed.node.shell("rm -r /srv/victim /srv/bound")?.ok()?;
    Ok(())
}

/// The nodes that covers and terminals are made of are the host's or made anew, never the image's.
fn terminal(bed: &ctr::Bed<'_>) -> Result<()> {
    bed.node.shell(VICTIM)?.ok()?;
    let before = victim(bed.node)?;
    let image = bed.import("nodes", &json!({}), |root| {
        links(
            root,
            &[
                ("dev/null", "/srv/victim/file"),
                ("dev/console", "/srv/victim/console"),
                ("dev/ptmx", "/srv/victim/file"),
                ("dev/pts", "/srv/victim"),
                ("dev/shm", UP),
                ("dev/fd", "/srv/victim"),
            ],
        )
    })?;
    let script = "stat -c '%n %F %t:%T' /dev/null /dev/console /dev/pts/0 /proc/keys /proc/timer_list; tty; sleep 0.1";
    let id = bed.id();
    let line = bed.line(&["--rm", "--tty"], &image, &id, &["/bin/sh", "-c", script]);
    let (code, shown) = Session::start(&mut bed.node.command(&line), 200, 20)?.finish()?;
    ensure!(code == 0, "exit code {code}: {shown}");
    for wanted in [
        "/dev/null character special file 1:3",
        "/dev/console character special file 88:0",
        "/dev/pts/0 character special file 88:0",
        "/proc/keys character special file 1:3",
        "/proc/timer_list character special file 1:3",
    ] {
        ensure!(shown.contains(wanted), "no {wanted:?} in {shown}");
    }
    same(&before, &victim(bed.node)?, "a terminal")?;
    bed.remove_image(&image)?;
    bed.node.shell("rm -r /srv/victim")?.ok()?;
    Ok(())
}

/// A running container, too: what its root makes a link of is used by copying, committing and starting it again.
fn by_docker(bed: &docker::Bed<'_>) -> Result<()> {
    bed.node.shell(VICTIM)?.ok()?;
    let before = victim(bed.node)?;
    let image = bed.load(
        "farm",
        &json!({"WorkingDir": "/work/made", "Volumes": {"/volume/x": {}}}),
        |root| {
            links(
                root,
                &[
                    ("etc/hosts", "/srv/victim/file"),
                    ("etc/resolv.conf", "/srv/victim/new"),
                    ("etc/hostname", UP),
                    ("work", "/srv/victim"),
                    ("volume", UP),
                    ("var/lib/docker", "/srv/victim"),
                    ("out", "/srv/victim"),
                ],
            )
        },
    )?;
    let container = bed.detached_of(&image, &[], &["/probe", "sleep"])?;
    let id = container.id.clone();
    container.shell("ln -s /srv/victim/file /name; ln -s /srv/victim /name-of-directory; cat /out/file 2>/dev/null || true; echo mine >/mine")?;
    // Each may fail; none may act outside.
    bed.node
        .shell(&format!(
            "cd /tmp; mkdir cp; cd cp; set +e
             for from in /name /name-of-directory/. /out/file /out/etc/passwd /etc/hosts; do docker cp -L {id}:$from . ; done
             echo new >new
             for to in /name /name-of-directory/ /out/new /etc/hosts /work/x /volume/x; do docker cp new {id}:$to; done
             docker exec -w /name-of-directory/made {id} true
             docker exec -u user {id} true
             docker diff {id}; docker export {id} >export.tar
             docker commit {id} farmed
             docker stop -t 0 {id}
             for to in /name /name-of-directory/ /out/new; do docker cp new {id}:$to; docker cp -L {id}:$to . ; done
             docker start {id}
             true"
        ))?
        .ok()?;
    let copied = bed
        .node
        .shell("cd /tmp/cp; grep -r secret . | grep -v export.tar || true")?
        .ok()?;
    ensure!(copied.text().is_empty(), "copied: {copied:?}");
    same(&before, &victim(bed.node)?, "Docker")?;
    container.remove()?;
    bed.docker(&["rmi", "-f", "farmed", &image])?;
    bed.node.shell("rm -r /srv/victim /tmp/cp")?.ok()?;
    ensure!(
        bed.docker(&["run", "--rm", Image::Busybox.reference(), "true"])?
            .code
            == 0,
        "Docker itself is hurt"
    );
    Ok(())
}
