//! Devices of the host: open to a container are those that its spec names, with the access that it gives, wherever a node of
//! them comes from.

use anyhow::{Context, Result, ensure};
use integration::bed::{cri, ctr, docker};
use integration::image::Image;
use integration::node::Node;
use serde_json::{Value, json};

use crate::case::Case;

pub(crate) const CASES: &[Case] = &[
    Case::docker("nodes_without_a_rule", unnamed),
    Case::docker("named_with_an_access", named),
    Case::docker("privileged", privileged)
        .differs("--privileged opens all devices of the host there"),
    Case::ctr("a_bind_and_a_volume", binds),
    Case::ctr("privileged_by_ctr", all).differs("--privileged opens all devices of the host there"),
    Case::ctr("a_policy_that_cannot_be", refused)
        .ours("runc warns and goes on, or says no more than EPERM"),
    Case::pod("of_a_pod", pod),
    Case::pod("an_update_keeps_the_policy", updated)
        .ours("runc refuses limits without controllers"),
];

/// A block device of the node's, empty and of the test's own: a file behind a loop device.
struct Disk<'a> {
    node: &'a Node,
    path: String,
    minor: String,
}

impl<'a> Disk<'a> {
    fn new(node: &'a Node) -> Result<Disk<'a>> {
        let script =
            "for n in $(seq 0 31); do [ -e /dev/loop$n ] || mknod -m 660 /dev/loop$n b 7 $n; done
            truncate -s 64K /srv/disk; losetup --find --show /srv/disk";
        let path = node.shell(script)?.ok()?.text().to_owned();
        let minor = path
            .strip_prefix("/dev/loop")
            .context("no loop device")?
            .to_owned();
        Ok(Disk { node, path, minor })
    }

    /// Nodes of it that everybody may open, at the end of these paths of the node.
    fn nodes(&self, paths: &[&str]) -> Result<()> {
        for path in paths {
            let make = format!(
                "mkdir -p $(dirname {path}); mknod -m 666 {path} b 7 {}",
                self.minor
            );
            self.node.shell(&make)?.ok()?;
        }
        Ok(())
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let script = format!(
            "losetup --detach {}; rm -rf /srv/disk /srv/volume /dev/loop[0-9]*",
            self.path
        );
        let gone = self.node.shell(&script).and_then(|output| output.ok());
        if let Err(error) = gone {
            eprintln!("{} stays: {error:#}", self.path);
        }
    }
}

/// Every line says this.
fn each(lines: &str, wanted: &str) -> Result<()> {
    let lines: Vec<&str> = lines.lines().filter(|line| !line.is_empty()).collect();
    ensure!(
        !lines.is_empty() && lines.iter().all(|line| *line == wanted),
        "wanted {wanted:?} for each of {lines:?}"
    );
    Ok(())
}

/// A bind of the host's node, and nodes in a volume, in the image, and in what is a data root: of the first process and of one
/// that exec starts.
fn unnamed(bed: &docker::Bed<'_>) -> Result<()> {
    let disk = Disk::new(bed.node)?;
    disk.nodes(&[
        "/srv/volume/disk",
        "/srv/tree/disk",
        "/srv/tree/var/lib/docker/deep/disk",
    ])?;
    let image = Image::Busybox.reference();
    bed.node
        .shell(&format!(
            "docker create --name copied {image} true; docker export copied | tar -x -C /srv/tree --exclude=dev; \
             docker rm copied; tar -c -C /srv/tree . | docker import - nodes; rm -r /srv/tree"
        ))?
        .ok()?;
    let bind = format!("{}:/d/ml", disk.path);
    let look = "/probe open /d/ml /volume/disk /disk /var/lib/docker/deep/disk";
    let script = format!("{look}; exec sleep 1000");
    let run = bed.words(
        &[
            "-d",
            "--name",
            "nodes",
            "-v",
            &bind,
            "-v",
            "/srv/volume:/volume",
        ],
        "nodes",
        &["/bin/sh", "-c", &script],
    );
    bed.docker(&run)?;
    let seen = bed
        .docker(&["exec", "nodes", "/bin/sh", "-c", look])?
        .stdout;
    each(&seen, "EPERM EPERM")?;
    ensure!(seen.lines().count() == 4, "{seen}");
    let first = bed
        .node
        .shell("i=0; until [ $(docker logs nodes | wc -l) = 4 ]; do sleep 0.05; i=$((i + 1)); [ $i -lt 200 ]; done; docker logs nodes")?
        .ok()?;
    each(&first.stdout, "EPERM EPERM")?;
    bed.docker(&["rm", "-f", "nodes"])?;
    bed.docker(&["rmi", "nodes"])?;
    Ok(())
}

/// `--device` with and without an access, `--device-cgroup-rule` with a bind.
fn named(bed: &docker::Bed<'_>) -> Result<()> {
    let disk = Disk::new(bed.node)?;
    let (path, minor) = (&disk.path, &disk.minor);
    let bind = format!("{path}:/d/ml");
    let rule = |access: &str| format!("b 7:{minor} {access}");
    for (options, place, wanted) in [
        (
            vec!["--device".to_owned(), format!("{path}:/dev/ml:r")],
            "/dev/ml",
            "ok EPERM",
        ),
        (
            vec!["--device".into(), format!("{path}:/dev/ml:w")],
            "/dev/ml",
            "EPERM ok",
        ),
        (
            vec!["--device".into(), path.clone()],
            path.as_str(),
            "ok ok",
        ),
        (
            ["-v", &bind, "--device-cgroup-rule", &rule("r")]
                .map(str::to_owned)
                .into(),
            "/d/ml",
            "ok EPERM",
        ),
        (
            ["-v", &bind, "--device-cgroup-rule", "b 7:* rmw"]
                .map(str::to_owned)
                .into(),
            "/d/ml",
            "ok ok",
        ),
    ] {
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let output = bed.run(&options, &["/probe", "open", place])?.ok()?;
        each(output.text(), wanted).with_context(|| format!("{options:?}"))?;
    }
    Ok(())
}

/// Privileges hold inside the user namespace, where no device of the host is.
fn privileged(bed: &docker::Bed<'_>) -> Result<()> {
    let disk = Disk::new(bed.node)?;
    let bind = format!("{}:/d/ml", disk.path);
    let look = format!(
        "ls -l /dev | grep ^b; ls /dev/loop-control; /probe open /d/ml; /probe open {}",
        disk.path
    );
    let output = bed
        .run(&["--privileged", "-v", &bind], &["/bin/sh", "-c", &look])?
        .ok()?;
    ensure!(output.text() == "EPERM EPERM\nENOENT ENOENT", "{output:?}");
    // What it says to whoever looks for a device.
    let log = std::fs::read_to_string(bed.node.containerd_log())?;
    ensure!(
        log.contains("allows no device of the host"),
        "no warning in containerd's log"
    );
    Ok(())
}

fn binds(bed: &ctr::Bed<'_>) -> Result<()> {
    let disk = Disk::new(bed.node)?;
    disk.nodes(&["/srv/volume/disk"])?;
    let bind = format!("type=bind,src={},dst=/d/ml,options=rbind:rw", disk.path);
    let volume = "type=bind,src=/srv/volume,dst=/volume,options=rbind:rw";
    let options = ["--mount", &bind, "--mount", volume];
    let look = ["/probe", "open", "/d/ml", "/volume/disk"];
    each(bed.run(&options, &look)?.ok()?.text(), "EPERM EPERM")?;
    let container = bed.detached(&options, Image::Busybox, &["/probe", "sleep"])?;
    each(&container.shell(&look.join(" "))?, "EPERM EPERM")?;
    container.remove()?;
    let options = [&options[..], &["--device", &disk.path]].concat();
    let look = [&look[..], &[&disk.path]].concat();
    each(bed.run(&options, &look)?.ok()?.text(), "ok ok")
}

fn all(bed: &ctr::Bed<'_>) -> Result<()> {
    let disk = Disk::new(bed.node)?;
    let bind = format!("type=bind,src={},dst=/d/ml,options=rbind:rw", disk.path);
    let output = bed.run(
        &["--privileged", "--mount", &bind],
        &["/probe", "open", "/d/ml"],
    )?;
    each(output.ok()?.text(), "EPERM EPERM")
}

/// Where the kernel does not take the program there is no container, and the error says what to do.
fn refused(bed: &ctr::Bed<'_>) -> Result<()> {
    // As a system call filter of containerd's service has it: struct sock_filter, little-endian (linux/filter.h).
    // ld [0]; jeq #__NR_bpf, 0, 1; ret ERRNO(EPERM); ret ALLOW
    let number = if cfg!(target_arch = "x86_64") {
        321
    } else {
        280
    };
    let filter: Vec<u8> = [
        (0x20_u16, 0_u8, 0_u8, 0_u32),
        (0x15, 0, 1, number),
        (0x06, 0, 0, 0x0005_0001),
        (0x06, 0, 0, 0x7fff_0000),
    ]
    .iter()
    .flat_map(|(code, jt, jf, k)| [&code.to_le_bytes()[..], &[*jt, *jf], &k.to_le_bytes()].concat())
    .collect();
    std::fs::write(bed.node.path("/srv/nobpf"), filter)?;
    let shim = "/usr/local/bin/containerd-shim-nobpf-v2";
    bed.node
        .shell(&format!(
            "printf '#!/bin/sh\\nexec setpriv --seccomp-filter /srv/nobpf /usr/local/bin/containerd-shim-sysbox-v2 \"$@\"\\n' >{shim}; chmod 755 {shim}"
        ))?
        .ok()?;
    let image = Image::Busybox.reference();
    let output = bed.node.exec(&[
        "ctr",
        "run",
        "--rm",
        "--runtime",
        "io.containerd.nobpf.v2",
        image,
        "c",
        "true",
    ])?;
    for word in [
        "the device policy (linux.resources.devices)",
        "CONFIG_CGROUP_BPF",
    ] {
        ensure!(
            output.code != 0 && output.stderr.contains(word),
            "{output:?}"
        );
    }
    bed.node.shell(&format!("rm {shim} /srv/nobpf"))?.ok()?;
    Ok(())
}

/// A container that sleeps, with these nodes.
fn sleeper(more: Value) -> Value {
    let mut config = json!({"command": ["/probe", "sleep"]});
    if let (Some(config), Value::Object(more)) = (config.as_object_mut(), more) {
        config.extend(more);
    }
    config
}

fn pod(bed: &cri::Bed<'_>) -> Result<()> {
    let disk = Disk::new(bed.node)?;
    disk.nodes(&["/srv/volume/disk"])?;
    let pod = bed.pod(json!({}))?;
    let mounts = json!([
        {"host_path": disk.path, "container_path": "/d/ml"},
        pod.volume("/srv/volume", "/volume"),
    ]);
    let look = "/probe open /d/ml /volume/disk";
    let container = pod.run(sleeper(json!({"mounts": mounts})))?;
    each(&container.shell(look)?, "EPERM EPERM")?;
    for (access, wanted) in [("r", "ok EPERM"), ("rwm", "ok ok")] {
        let device =
            json!([{"host_path": disk.path, "container_path": "/dev/ml", "permissions": access}]);
        let container = pod.run(sleeper(json!({"devices": device, "mounts": mounts})))?;
        each(&container.shell(&format!("{look} /dev/ml"))?, wanted)?;
    }
    pod.remove()
}

/// The engine hands all of `linux.resources` to an update, the devices too.
fn updated(bed: &cri::Bed<'_>) -> Result<()> {
    let disk = Disk::new(bed.node)?;
    let pod = bed.pod(json!({}))?;
    let device = json!([{"host_path": disk.path, "container_path": "/dev/ml", "permissions": "r"}]);
    let container = pod.run(sleeper(json!({"devices": device})))?;
    let look = || container.shell("/probe open /dev/ml");
    each(&look()?, "ok EPERM")?;
    bed.crictl(&["update", "--cpu-share", "512", &container.id])?;
    each(&look()?, "ok EPERM")?;
    pod.remove()
}
