//! `install.sh install --sysctl`: bounds of the kernel's in a file of ours, none of them lowered.

use std::fs;

use anyhow::{Context, Result, ensure};
use integration::debian::Release;
use integration::image::Image;
use integration::node::Node;

use crate::{Dest, can_run_nodes, deploy};

const FILE: &str = "etc/sysctl.d/60-containerd-shim-sysbox.conf";

/// What a kernel shows below the root of `dest`.
fn kernel(dest: &Dest, values: &[(&str, &str)]) -> Result<()> {
    for (key, value) in values {
        let file = dest.path("proc/sys").join(key.replace('.', "/"));
        fs::create_dir_all(file.parent().context("a parent")?)?;
        fs::write(file, format!("{value}\n"))?;
    }
    Ok(())
}

/// The settings that a file has.
fn settings(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect()
}

#[test]
fn a_root_without_a_kernel_gets_the_file_as_it_is() -> Result<()> {
    let dest = Dest::new()?;
    dest.install(&["install"])?.ok()?;
    ensure!(!dest.path(FILE).exists(), "nobody asked");
    dest.install(&["install", "--sysctl"])?.ok()?;
    ensure!(fs::read(dest.path(FILE))? == fs::read(deploy("sysctl.conf"))?);
    let removed = dest.install(&["uninstall"])?.ok()?;
    ensure!(!dest.path(FILE).exists(), "{}", removed.stdout);
    ensure!(
        removed.stdout.contains("hold until the next boot"),
        "{}",
        removed.stdout
    );
    Ok(())
}

#[test]
fn what_is_higher_already_stays_and_what_is_not_there_is_named() -> Result<()> {
    let dest = Dest::new()?;
    kernel(
        &dest,
        &[
            ("kernel.pty.max", "4096"),
            ("kernel.pid_max", "4194304"),
            ("vm.max_map_count", "2147483642"),
            ("fs.nr_open", "1073741816"),
            ("fs.inotify.max_user_instances", "128"),
            ("fs.fuse.max_request_timeout", "60"),
        ],
    )?;
    let output = dest.install(&["install", "--sysctl"])?.ok()?;
    let text = fs::read_to_string(dest.path(FILE))?;
    let settings = settings(&text);
    for (key, set) in [
        ("kernel.pty.max", true),
        ("kernel.pid_max", true),
        ("vm.max_map_count", false),
        ("fs.nr_open", false),
        ("fs.inotify.max_user_instances", true),
        ("fs.fuse.max_request_timeout", false),
        ("net.netfilter.nf_conntrack_max", true),
    ] {
        let there = settings
            .iter()
            .any(|line| line.starts_with(&format!("{key} = ")));
        ensure!(there == set, "{key}\n{text}");
    }
    ensure!(text.contains("# vm.max_map_count: already 2147483642\n"));
    for (key, skipped) in [
        ("net.netfilter.nf_conntrack_max", true),
        ("kernel.pty.max", false),
        ("vm.max_map_count", false),
    ] {
        let said = output.stdout.contains(&format!("skipped {key}: "));
        ensure!(said == skipped, "{key}\n{}", output.stdout);
    }
    // As after a boot with the file: its own values are no reason to leave them out.
    kernel(&dest, &[("kernel.pty.max", "65536")])?;
    let again = dest.install(&["install", "--sysctl"])?.ok()?;
    ensure!(
        again
            .stdout
            .contains(&format!("unchanged {}", dest.path(FILE).display())),
        "{}",
        again.stdout
    );
    // Who raised a value since then has it.
    kernel(&dest, &[("kernel.pty.max", "1048576")])?;
    dest.install(&["install", "--sysctl"])?.ok()?;
    ensure!(fs::read_to_string(dest.path(FILE))?.contains("# kernel.pty.max: already 1048576\n"));
    Ok(())
}

/// In a mount namespace where a file of ours lies over each of the keys: the machine's stay as they are.
#[test]
fn the_file_is_applied_and_check_is_content() -> Result<()> {
    if !can_run_nodes()? {
        return Ok(());
    }
    let node = Node::builder(Release::Sid)
        .images(&[Image::Busybox])
        .start()?;
    for file in [
        "install.sh",
        "engines.sh",
        "sysctl.sh",
        "sysctl.conf",
        "config.toml",
        "daemon.json",
    ] {
        let to = node.path("/root/deploy");
        fs::create_dir_all(&to)?;
        fs::copy(deploy(file), to.join(file))?;
    }
    let output = node.shell(include_str!("sysctl.sh"))?.ok()?;
    ensure!(output.text().ends_with("done"), "{output:?}");
    Ok(())
}
