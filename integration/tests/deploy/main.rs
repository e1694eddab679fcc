//! The operator's files: the installer in a root of its own, containerd's drop-ins read by real containerds.

mod engines;
mod manifests;
mod stock;
mod sysctl;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::debian::Release;
use integration::image::Image;
use integration::node::Node;
use integration::{host, process};

const SHIM: &str = "usr/local/bin/containerd-shim-sysbox-v2";
const CONFIG: &str = "etc/containerd-shim-sysbox/config.toml";

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(file)
}

/// A root to install below, and a program that stands for the shim: the installer copies it, no more.
struct Dest {
    root: tempfile::TempDir,
    binary: PathBuf,
}

impl Dest {
    fn new() -> Result<Dest> {
        let root = tempfile::tempdir()?;
        let binary = root.path().join("built");
        fs::write(&binary, "#!/bin/sh\nexit 3\n")?;
        Ok(Dest { root, binary })
    }

    fn install(&self, words: &[&str]) -> Result<process::Output> {
        let mut command = Command::new(deploy("install.sh"));
        command
            .args(words)
            .env("DESTDIR", self.root.path())
            .env_remove("PREFIX");
        if words.first() == Some(&"install") && self.binary.as_os_str() != "" {
            command.arg("--binary").arg(&self.binary);
        }
        process::run(&mut command, b"", Duration::from_secs(30))
    }

    fn path(&self, file: &str) -> PathBuf {
        self.root.path().join(file)
    }
}

#[test]
fn installs_the_binary_and_a_configuration() -> Result<()> {
    let dest = Dest::new()?;
    dest.install(&["install"])?.ok()?;
    ensure!(fs::read(dest.path(SHIM))? == fs::read(&dest.binary)?);
    ensure!(fs::metadata(dest.path(SHIM))?.permissions().mode() & 0o7777 == 0o755);
    ensure!(fs::read(dest.path(CONFIG))? == fs::read(deploy("config.toml"))?);
    ensure!(fs::metadata(dest.path(CONFIG))?.permissions().mode() & 0o7777 == 0o644);
    Ok(())
}

#[test]
fn a_second_run_changes_nothing() -> Result<()> {
    let dest = Dest::new()?;
    dest.install(&["install"])?.ok()?;
    let before = fs::metadata(dest.path(SHIM))?.modified()?;
    let again = dest.install(&["install"])?.ok()?;
    ensure!(again.stdout.lines().count() == 2, "{}", again.stdout);
    ensure!(
        again
            .stdout
            .lines()
            .all(|line| line.starts_with("unchanged ")),
        "{}",
        again.stdout
    );
    ensure!(fs::metadata(dest.path(SHIM))?.modified()? == before);
    Ok(())
}

#[test]
fn what_is_installed_needs_no_file_to_be_configured() -> Result<()> {
    let mut dest = Dest::new()?;
    let built = std::mem::take(&mut dest.binary);
    let refused = dest.install(&["install", "--docker"])?.exits(1)?;
    ensure!(refused.stderr.contains("no such file"), "{refused:?}");
    dest.binary = built;
    dest.install(&["install"])?.ok()?;
    dest.binary = PathBuf::new();
    let output = dest.install(&["install", "--docker"])?.ok()?;
    ensure!(
        output.stdout.contains("unchanged ") && dest.path("etc/docker/daemon.json").exists(),
        "{}",
        output.stdout
    );
    Ok(())
}

#[test]
fn an_upgrade_replaces_the_binary_and_keeps_the_configuration() -> Result<()> {
    let dest = Dest::new()?;
    dest.install(&["install"])?.ok()?;
    fs::write(&dest.binary, "#!/bin/sh\nexit 4\n")?;
    fs::write(dest.path(CONFIG), "unmappable-mount = 'error'\n")?;
    // The old one is running: it must be replaced, not written into.
    let running = fs::File::open(dest.path(SHIM))?;
    let output = dest.install(&["install"])?.ok()?;
    ensure!(output.stdout.contains("kept "), "{}", output.stdout);
    ensure!(fs::read(dest.path(SHIM))? == fs::read(&dest.binary)?);
    ensure!(std::io::read_to_string(running)?.contains("exit 3"));
    ensure!(fs::read_to_string(dest.path(CONFIG))? == "unmappable-mount = 'error'\n");
    Ok(())
}

#[test]
fn a_dry_run_says_what_it_would_do_and_does_nothing() -> Result<()> {
    let dest = Dest::new()?;
    let dry = dest.install(&["install", "--dry-run"])?.ok()?;
    ensure!(!dest.path("usr").exists() && !dest.path("etc").exists());
    let real = dest.install(&["install"])?.ok()?;
    ensure!(dry.stdout == real.stdout, "{}{}", dry.stdout, real.stdout);
    let dry = dest.install(&["uninstall", "--dry-run"])?.ok()?;
    ensure!(dest.path(SHIM).exists() && dest.path(CONFIG).exists());
    let real = dest.install(&["uninstall"])?.ok()?;
    ensure!(dry.stdout == real.stdout, "{}{}", dry.stdout, real.stdout);
    Ok(())
}

#[test]
fn uninstalling_leaves_nothing_of_ours_but_a_changed_configuration() -> Result<()> {
    let dest = Dest::new()?;
    dest.install(&["install"])?.ok()?;
    dest.install(&["uninstall"])?.ok()?;
    ensure!(!dest.path(SHIM).exists() && !dest.path("etc/containerd-shim-sysbox").exists());
    dest.install(&["uninstall"])?.ok()?;

    dest.install(&["install"])?.ok()?;
    fs::write(dest.path(CONFIG), "data-roots = []\n")?;
    let output = dest.install(&["uninstall"])?.ok()?;
    ensure!(output.stdout.contains("kept "), "{}", output.stdout);
    ensure!(!dest.path(SHIM).exists() && dest.path(CONFIG).exists());
    Ok(())
}

#[test]
fn a_binary_whose_shims_run_is_not_removed() -> Result<()> {
    let mut dest = Dest::new()?;
    dest.binary = PathBuf::from("/bin/sleep").canonicalize()?;
    dest.install(&["install"])?.ok()?;
    let mut shim = Command::new(dest.path(SHIM)).arg("60").spawn()?;
    let refused = dest.install(&["uninstall"]);
    let forced = dest.install(&["uninstall", "--force"]);
    shim.kill()?;
    shim.wait()?;
    let refused = refused?.exits(1)?;
    ensure!(
        refused.stderr.contains("containers still run"),
        "{}",
        refused.stderr
    );
    forced?.ok()?;
    ensure!(!dest.path(SHIM).exists());
    Ok(())
}

#[test]
fn what_is_wrong_is_said() -> Result<()> {
    let mut dest = Dest::new()?;
    ensure!(
        dest.install(&[])?
            .exits(2)?
            .stderr
            .contains("install.sh install")
    );
    ensure!(
        dest.install(&["uninstall", "--what"])?
            .exits(2)?
            .stderr
            .contains("--dry-run")
    );
    dest.binary = dest.path("nothing");
    let output = dest.install(&["install"])?.exits(1)?;
    ensure!(
        output
            .stderr
            .contains("no such file: build it with `make build`"),
        "{}",
        output.stderr
    );
    Ok(())
}

/// Whether a node can run here; where it must but cannot, that is a failure.
fn can_run_nodes() -> Result<bool> {
    let Some(obstacle) = host::obstacle() else {
        return Ok(true);
    };
    ensure!(!host::strict(), "{obstacle}");
    eprintln!("not run: {obstacle}");
    Ok(false)
}

/// The lines of the README's `sh` block below the marker `name`.
fn readme(name: &str) -> Result<Vec<String>> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md"))?;
    let lines: Vec<String> = text
        .lines()
        .skip_while(|line| *line != format!("<!-- tested: {name} -->"))
        .skip_while(|line| *line != "```sh")
        .skip(1)
        .take_while(|line| *line != "```")
        .map(|line| line.split(" #").next().unwrap_or(line).trim().to_owned())
        .collect();
    ensure!(!lines.is_empty(), "the README has no block {name}");
    Ok(lines)
}

#[test]
fn the_commands_of_the_readme_work() -> Result<()> {
    if !can_run_nodes()? {
        return Ok(());
    }
    let node = Node::builder(Release::Sid).images(&[Image::Dind]).start()?;
    for line in readme("ctr")? {
        // No registry is to be had; the image that is here stands for it.
        let line = line.replace("docker.io/library/docker:29-dind", "localhost/dind:latest");
        if line.starts_with("ctr image pull ") {
            continue;
        }
        let retried = format!("for i in $(seq 100); do {line} && exit 0; sleep 0.2; done; exit 1");
        // dockerd takes a moment; all else works at once.
        let script = if line.contains(" docker ") {
            &retried
        } else {
            &line
        };
        node.shell(script)?.ok().with_context(|| line.clone())?;
    }
    let left = node
        .shell("ctr container ls -q; ctr task ls -q; ls -A /run/containerd-shim-sysbox/ranges")?
        .ok()?;
    ensure!(left.text().is_empty(), "left: {}", left.stdout);
    Ok(())
}

#[test]
fn a_file_decides_which_annotations_hold() -> Result<()> {
    if !can_run_nodes()? {
        return Ok(());
    }
    let node = Node::builder(Release::Sid)
        .images(&[Image::Busybox])
        .start()?;
    let run = |name: &str| {
        node.shell(&format!(
            "ctr run --rm --runtime io.containerd.sysbox.v2 --annotation io.containerd.sysbox.cgroup.max-depth=7 \
             localhost/busybox:latest {name} cat /sys/fs/cgroup/cgroup.max.depth"
        ))
    };
    let refused = run("a")?;
    ensure!(
        refused.code != 0
            && refused
                .stderr
                .contains("annotations.io.containerd.sysbox.cgroup.max-depth: 7: not allowed"),
        "{refused:?}"
    );
    let file = node.path("/etc/containerd-shim-sysbox");
    fs::create_dir_all(&file)?;
    let file = file.join("config.toml");
    fs::write(
        &file,
        "annotations = ['io.containerd.sysbox.cgroup.max-depth']\n",
    )?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
    let allowed = run("b")?.ok()?;
    ensure!(allowed.text() == "7", "{allowed:?}");

    fs::write(&file, "colour = 'red'\n")?;
    let refused = run("c")?;
    ensure!(
        refused.code != 0
            && refused
                .stderr
                .contains("config.toml: colour: \"red\": no such key"),
        "{refused:?}"
    );
    Ok(())
}

/// Under runc's name, as a configuration written for runc finds it.
#[test]
fn an_option_of_runcs_that_means_nothing_here_is_named() -> Result<()> {
    if !can_run_nodes()? {
        return Ok(());
    }
    let node = Node::builder(Release::Sid)
        .images(&[Image::Busybox])
        .start()?;
    node.shell(
        "cp /usr/local/bin/containerd-shim-sysbox-v2 /usr/local/bin/containerd-shim-runc-v2",
    )?
    .ok()?;
    let run = |name: &str, options: &str| {
        node.shell(&format!(
            "ctr run --rm --runtime io.containerd.runc.v2 {options} localhost/busybox:latest {name} true"
        ))
    };
    let said = || -> Result<bool> {
        let log = fs::read_to_string(node.containerd_log())?;
        Ok(log.lines().any(|line| {
            line.contains("level=warning") && line.contains("field=options.BinaryName")
        }))
    };
    run("a", "")?.ok()?;
    ensure!(!said()?, "nothing was asked");
    run("b", "--runc-binary /usr/bin/crun")?.ok()?;
    ensure!(said()?, "{}", node.log_tail());
    Ok(())
}
