//! The main job in one command: a system container with systemd and Docker inside, on a real containerd, and an attack
//! from inside that the host does not notice. A line for each step; the last one is `demo: N passed, M failed`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use integration::debian::Release;
use integration::host;
use integration::image::Image;
use integration::leak::{self, Snapshot};
use integration::node::{DEADLINE, Node};
use nix::sys::stat::{major, minor};

const ID: &str = "demo";

fn main() -> ExitCode {
    let mut demo = Demo::default();
    // A step that fails has said so; the ones after it that need it are not tried.
    demo.run().ok();
    println!("demo: {} passed, {} failed", demo.passed, demo.failed);
    if demo.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[derive(Debug, Default)]
struct Demo {
    passed: u32,
    failed: u32,
}

impl Demo {
    fn run(&mut self) -> Result<()> {
        let host = Snapshot::of_host();
        let node = self.step("containerd in private namespaces", || {
            let shim = host::shim()?;
            let node = Node::builder(Release::Sid)
                .shim(&shim)
                .images(&[Image::DindSystemd])
                .start()?;
            let version = node.exec(&["containerd", "--version"])?.ok()?;
            let number = version
                .text()
                .split_whitespace()
                .nth(2)
                .unwrap_or("?")
                .to_owned();
            Ok((node, number))
        })?;
        let outcome = self.container(&node);
        if outcome.is_err() {
            println!("containerd's log ends with\n{}", node.log_tail());
        }
        self.step("the host is as it was", || {
            drop(node);
            let difference = host.difference(&Snapshot::of_host());
            ensure!(difference.is_empty(), "{}", difference.join("\n"));
            Ok(((), "mounts, network namespaces, files".to_owned()))
        })?;
        outcome
    }

    /// All that happens on the node.
    fn container(&mut self, node: &Node) -> Result<()> {
        let before = Snapshot::of_node(node);
        let inside = |script: &str| -> Result<String> {
            Ok(node.task_shell(ID, script)?.ok()?.text().to_owned())
        };

        self.step("ctr run --runtime io.containerd.sysbox.v2", || {
            let image = Image::DindSystemd.reference();
            node.ctr(&[
                "run",
                "--detach",
                "--null-io",
                "--runtime",
                "io.containerd.sysbox.v2",
                image,
                ID,
            ])?
            .ok()?;
            let map = inside("cat /proc/self/uid_map")?;
            let map: Vec<_> = map.split_whitespace().collect();
            ensure!(
                map.len() == 3 && map[1] != "0",
                "no user namespace: {map:?}"
            );
            Ok((
                (),
                format!("root inside is uid {} outside, {} ids", map[1], map[2]),
            ))
        })?;
        self.step("systemd is running", || {
            let state = poll(|| {
                let state = node
                    .task_shell(ID, "systemctl is-system-running --wait || true")?
                    .text()
                    .to_owned();
                Ok(matches!(state.as_str(), "running" | "degraded").then_some(state))
            })?;
            ensure!(
                state == "running",
                "{state}: {}",
                inside("systemctl --failed --no-pager --plain")?
            );
            Ok(((), inside("systemctl --version | head -n 1")?))
        })?;
        self.step("docker run", || {
            let version = poll(|| Ok(node.task_shell(ID, "docker version -f '{{.Server.Version}}'").and_then(integration::process::Output::ok).ok()))?;
            let seen = inside("docker import -c 'CMD [\"sh\"]' /root/bb.tar bb >/dev/null; docker run --rm bb echo hello from an inner container")?;
            ensure!(seen == "hello from an inner container", "{seen}");
            Ok(((), format!("docker {}", version.text())))
        })?;
        self.step("docker build", || {
            let seen = inside(
                "docker build -q -t built /root/ctx >/dev/null; docker run --rm built cat /hello",
            )?;
            ensure!(seen == "hello from the build context", "{seen}");
            Ok(((), seen))
        })?;
        self.step("an inner container over the bridge", || {
            inside("docker run -d --name web bb sh -c 'mkdir /www; echo served >/www/i; exec httpd -f -p 80 -h /www' >/dev/null")?;
            let address = inside("docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' web")?;
            let seen = inside(&format!("curl -sS --retry 5 --retry-connrefused -m 5 http://{address}/i"))?;
            ensure!(seen == "served", "{seen}");
            Ok(((), format!("http://{address}")))
        })?;
        self.step("the host's devices are not in /dev", || {
            let list = inside("find /dev -type b; find /dev -type c ! -path '/dev/pts/*' | sort | sed 's,/dev/,,' | tr '\\n' ' '")?;
            ensure!(!list.contains("/dev/"), "a block device: {list}");
            Ok(((), list))
        })?;
        self.step("an attack from inside is refused", || attack(node, &inside))?;
        self.step("stop and delete", || {
            // SIGRTMIN+3, which the image names as its stop signal.
            node.ctr(&["task", "kill", "--signal", "37", ID])?.ok()?;
            poll(|| {
                Ok(node
                    .ctr(&["task", "ls"])?
                    .ok()?
                    .stdout
                    .contains("STOPPED")
                    .then_some(()))
            })?;
            node.ctr(&["task", "delete", ID])?.ok()?;
            node.ctr(&["container", "delete", ID])?.ok()?;
            leak::settled(node, &before)?;
            Ok(((), "no mount, cgroup, process or file is left".to_owned()))
        })
    }

    /// Runs one step and prints its line.
    fn step<T>(&mut self, name: &str, body: impl FnOnce() -> Result<(T, String)>) -> Result<T> {
        let begin = Instant::now();
        let outcome = body();
        let seconds = begin.elapsed().as_secs_f64();
        match outcome {
            Ok((value, detail)) => {
                self.passed += 1;
                println!("ok      {seconds:5.1} s  {name}: {detail}");
                Ok(value)
            }
            Err(error) => {
                self.failed += 1;
                println!("FAILED  {seconds:5.1} s  {name}: {error:#}");
                Err(error)
            }
        }
    }
}

/// Asks until there is an answer.
fn poll<T>(mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let begin = Instant::now();
    while begin.elapsed() < DEADLINE {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    bail!("no answer in {DEADLINE:?}")
}

/// What the article's "scanner" does on an unsafe host: mount the disk and write its login banner; and the usual ways
/// out through /proc and /sys. The banner lies on the host's disk, and no byte of it may change.
fn attack(node: &Node, inside: &impl Fn(&str) -> Result<String>) -> Result<((), String)> {
    let banner = node.state().join("srv/motd");
    fs::write(&banner, "Welcome to the host\n").context("write a banner on the host's disk")?;
    let files = [banner.clone(), "/etc/issue".into(), "/etc/motd".into()];
    let read = || {
        files
            .iter()
            .map(|file| fs::read(file).ok())
            .collect::<Vec<_>>()
    };
    let before = read();
    let device = fs::metadata(&banner).context("stat the banner")?.dev();
    let (major, minor) = (major(device), minor(device));
    let attempts = [
        (
            "make a node of the host's disk",
            format!("mknod /tmp/disk b {major} {minor}"),
        ),
        (
            "mount it",
            format!(
                "mkdir -p /mnt/host; mount -t ext4 /tmp/disk /mnt/host && echo owned >/mnt/host{}",
                banner.display()
            ),
        ),
        (
            "the same in a privileged inner container",
            format!(
                "docker run --rm --privileged bb sh -ec 'mknod /disk b {major} {minor}; mount /disk /mnt'"
            ),
        ),
        (
            "name a program for core dumps",
            "echo '|/tmp/x' >/proc/sys/kernel/core_pattern".to_owned(),
        ),
        (
            "name a program for device events",
            "echo /tmp/x >/sys/kernel/uevent_helper".to_owned(),
        ),
        (
            "trigger the magic key",
            "echo h >/proc/sysrq-trigger".to_owned(),
        ),
        (
            "read kernel memory",
            "head -c 1 /proc/kcore >/dev/null".to_owned(),
        ),
    ];
    for (name, script) in &attempts {
        let refused = node.task_shell(ID, script)?;
        ensure!(refused.code != 0, "{name}: it worked");
    }
    inside("rm -f /tmp/disk; rm -rf /mnt/host; docker rm -f web >/dev/null")?;
    ensure!(read() == before, "a file on the host's disk changed");
    fs::remove_file(&banner).context("remove the banner")?;
    Ok((
        (),
        format!(
            "{} attempts; the host's files are the same, byte by byte",
            attempts.len()
        ),
    ))
}
