//! What a host boots from: a disk of Debian packages with images in its engines' stores, and one with what is under test.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::PACKAGES;
use crate::debian::{Recipe, Release};
use crate::dockerd::{self, Store};
use crate::image::{self, Image};
use crate::node::Node;
use crate::{cache, debian, host, process};

/// How long the tools that make disks may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(600);

/// The host's own part in being tested; it comes last, so that the engines are there when it answers.
const UNIT: &str = "[Unit]
After=docker.service containerd.service
RequiresMountsFor=/vm
[Service]
ExecStart=/vm/node-init agent /dev/ttyS1
OOMScoreAdjust=-1000
";

/// The disk image and the kernel of a release's host.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) image: PathBuf,
    pub(super) kernel: PathBuf,
}

/// The host of `release`, from the cache.
pub(super) fn root(release: Release) -> Result<Disk> {
    host::require(&PACKAGES)?;
    let recipe = Recipe {
        release,
        variant: "essential",
        packages: vec![
            "systemd",
            "systemd-sysv",
            "dbus",
            "udev",
            "docker.io",
            "docker-cli",
            "containerd",
            "runc",
            "iptables",
            "iproute2",
            "procps",
            "kmod",
            "apparmor",
            "fuse3",
            "python3",
            "linux-image-cloud-amd64",
        ],
        hooks: &[],
    };
    let text = format!(
        "vm 1 {}{}\n{}\n{}\n{UNIT}",
        recipe.text(),
        debian::node_root(release)?.display(),
        Image::DindSystemd.layout(release)?.display(),
        image::plain_busybox()?.display()
    );
    let done = cache::artefact(&format!("vm-{}", release.suite()), &text, |part| {
        let root = part.join("root");
        recipe.build(&root)?;
        let kernel = fs::read_dir(root.join("boot"))?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.display().to_string().contains("/vmlinuz-"))
            .context("the root has no kernel")?;
        fs::copy(kernel, part.join("vmlinuz")).context("copy the kernel")?;
        stores(release, &root)?;
        configure(&root)?;
        format(&root, &part.join("root.img"), "root", "12G")?;
        cache::remove(&root)
    })?;
    Ok(Disk {
        image: done.join("root.img"),
        kernel: done.join("vmlinuz"),
    })
}

/// Fills the engines' stores by the same engines in a node: in the host, whose processor is emulated, that takes many minutes.
fn stores(release: Release, root: &Path) -> Result<()> {
    let node = Node::start(release)?;
    dockerd::start(&node, Store::Overlay2)?;
    dockerd::load(&node, Image::DindSystemd)?;
    node.import(Image::DindSystemd)?;
    let busybox = fs::read(image::plain_busybox()?).context("read the busybox image")?;
    for words in [
        &["docker", "load", "--quiet"][..],
        &["ctr", "images", "import", "-"],
    ] {
        process::run(&mut node.command(words), &busybox, PATIENCE)?.ok()?;
    }
    dockerd::kill(&node, "TERM")?;
    node.kill_containerd("TERM")?;
    let made = node.state().join("containerd");
    for (from, to) in [
        (made.join("docker"), root.join("var/lib/docker")),
        (made, root.join("var/lib/containerd")),
    ] {
        cache::remove(&to)?;
        fs::rename(&from, &to).with_context(|| format!("move {}", from.display()))?;
    }
    Ok(())
}

fn configure(root: &Path) -> Result<()> {
    for (file, content) in [
        // Without an identity systemd presets all units in the first boot: 20 s.
        ("etc/machine-id", "00000000000040008000000000000001\n"),
        ("etc/hostname", "host\n"),
        ("etc/hosts", "127.0.0.1 localhost host\n"),
        ("etc/fstab", "LABEL=files /vm ext4 ro 0 0\n"),
        ("etc/systemd/system/agent.service", UNIT),
    ] {
        fs::write(root.join(file), content).with_context(|| format!("write {file}"))?;
    }
    let units = root.join("etc/systemd/system");
    let wants = units.join("multi-user.target.wants");
    fs::create_dir_all(&wants)?;
    symlink(
        "/etc/systemd/system/agent.service",
        wants.join("agent.service"),
    )?;
    // Nobody logs in, and nothing is to be fetched.
    for unit in [
        "serial-getty@ttyS0.service",
        "getty@tty1.service",
        "apt-daily.timer",
        "apt-daily-upgrade.timer",
        "man-db.timer",
    ] {
        symlink("/dev/null", units.join(unit)).with_context(|| format!("mask {unit}"))?;
    }
    fs::create_dir(root.join("vm")).context("create /vm")
}

/// Its directory is called so, and after the process that boots the host.
const NAME: &str = "vm-files-";

/// What is under test, on a disk that is made for each host. Its file is gone when that is up: QEMU has it open.
#[derive(Debug)]
pub(super) struct Files(PathBuf);

impl Files {
    pub(super) fn make() -> Result<Self> {
        let cache = cache::root()?;
        // Of a process that was killed while its host booted.
        for entry in fs::read_dir(&cache)?.flatten() {
            let name = entry.file_name();
            let owner = name.to_str().and_then(|name| name.strip_prefix(NAME));
            if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                cache::remove(&entry.path())?;
            }
        }
        let dir = cache.join(format!("{NAME}{}", std::process::id()));
        cache::remove(&dir)?;
        fs::create_dir(&dir).context("create a directory for the files")?;
        let files = Self(dir);
        let content = files.0.join("content");
        fs::create_dir(&content)?;
        for program in [
            host::shim()?,
            host::sibling("node-init")?,
            host::sibling("probe")?,
        ] {
            let name = program.file_name().context("a program has a name")?;
            let mut strip = Command::new("strip");
            strip.arg("-o").arg(content.join(name)).arg(&program);
            process::run(&mut strip, b"", PATIENCE)?.ok()?;
        }
        let mut copy = Command::new("cp");
        copy.arg("-r")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy"))
            .arg(&content);
        process::run(&mut copy, b"", PATIENCE)?.ok()?;
        format(&content, &files.image(), "files", "256M")?;
        Ok(files)
    }

    pub(super) fn image(&self) -> PathBuf {
        self.0.join("files.img")
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if let Err(error) = cache::remove(&self.0) {
            eprintln!("{error:#}");
        }
    }
}

/// An ext4 file system with what `dir` has.
fn format(dir: &Path, image: &Path, label: &str, size: &str) -> Result<()> {
    let mut mke2fs = Command::new("mke2fs");
    mke2fs
        .args(["-q", "-t", "ext4", "-L", label, "-d"])
        .arg(dir)
        .arg(image)
        .arg(size);
    process::run(&mut mke2fs, b"", PATIENCE)?.ok()?;
    Ok(())
}
