//! The main job in one command: a system container with systemd and Docker inside, on a real containerd, and an attack
//! from inside that the host does not notice. A line for each step; the last one is `demo: N passed, M failed`.

mod attack;

use std::fs;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use integration::debian::Release;
use integration::host;
use integration::image::Image;
use integration::leak::{self, Snapshot};
use integration::node::{DEADLINE, Node};
use integration::process::Output;

use attack::{Bytes, Disk};

const ID: &str = "demo";
const IMAGE: Image = Image::DindSystemd;

const HEADLINE: &str = "\
Docker and systemd in a container without --privileged: its root is nobody on this host.
containerd and everything below it runs in namespaces of its own and is removed at the end. The first run builds an
image from Debian packages, in $SYSBOX_CACHE or /var/cache/sysbox-v2-test. The shim is built quickly here, not to be
quick: `make build` makes the one that is released, which the tests and the benchmark run.
";

fn main() -> ExitCode {
    println!("{HEADLINE}");
    if let Err(lack) = ready() {
        eprintln!("demo: this machine cannot run it: {lack:#}");
        return ExitCode::FAILURE;
    }
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

/// Everything that takes a while once only: packages of this machine, the node's root, the image.
fn ready() -> Result<()> {
    if let Some(obstacle) = host::obstacle() {
        bail!("{obstacle}");
    }
    host::require_packages()?;
    host::shim()?;
    Node::builder(Release::Sid).images(&[IMAGE]).prepare()
}

#[derive(Debug, Default)]
struct Demo {
    passed: u32,
    failed: u32,
}

impl Demo {
    fn run(&mut self) -> Result<()> {
        let host = Snapshot::of_host();
        let node = self.step("containerd up in namespaces of its own", || {
            let node = Node::builder(Release::Sid).images(&[IMAGE]).start()?;
            let version = node.exec(&["containerd", "--version"])?.ok()?;
            let number = version.text().split_whitespace().nth(2).unwrap_or("?");
            let number = number.split('+').next().unwrap_or(number).to_owned();
            Ok((node, format!("containerd {number}")))
        })?;
        let outcome = self.container(&node);
        if outcome.is_err() {
            println!("containerd's log ends with\n{}", node.log_tail());
        }
        self.step("the host is as it was", || {
            drop(node);
            let difference = host.difference(&Snapshot::of_host());
            ensure!(difference.is_empty(), "{}", difference.join("\n"));
            Ok(((), "mounts, network namespaces, files in /run".to_owned()))
        })?;
        outcome
    }

    /// All that happens on the node.
    fn container(&mut self, node: &Node) -> Result<()> {
        let before = Snapshot::of_node(node);
        self.step("ctr run -d --runtime io.containerd.sysbox.v2", || {
            let line = [
                "run",
                "--detach",
                "--null-io",
                "--runtime",
                "io.containerd.sysbox.v2",
                IMAGE.reference(),
                ID,
            ];
            node.ctr(&line)?.ok()?;
            let map = inside(node, "cat /proc/self/uid_map")?;
            let [first, base, count] = map.split_whitespace().collect::<Vec<_>>()[..] else {
                bail!("a map of another form: {map:?}")
            };
            ensure!(first == "0" && base != "0", "no user namespace: {map:?}");
            Ok((
                (),
                format!("its root is uid {base} of this host, it has {count} ids"),
            ))
        })?;
        let outcome = self.inside(node).and_then(|()| self.attack(node));
        // Also after a failure: stop and delete must leave nothing whatever happened before.
        self.remove(node, &before)?;
        outcome
    }

    /// systemd and Docker in the container.
    fn inside(&mut self, node: &Node) -> Result<()> {
        self.step("systemctl is-system-running", || {
            let state = poll(|| {
                let state = node.task_shell(ID, "systemctl is-system-running --wait || true")?;
                let state = state.text().to_owned();
                Ok(matches!(state.as_str(), "running" | "degraded").then_some(state))
            })?;
            ensure!(
                state == "running",
                "{state}: {}",
                inside(node, "systemctl --failed --no-pager --plain")?
            );
            let seen = inside(node, "cat /proc/1/comm; systemctl --version | head -n 1")?;
            let (first, version) = seen.split_once('\n').unwrap_or_default();
            ensure!(first == "systemd", "PID 1 is {first:?}");
            Ok(((), format!("running; PID 1 is {version}")))
        })?;
        self.step("docker run", || {
            let version = poll(|| {
                let asked = node.task_shell(ID, "docker version -f '{{.Server.Version}}'")?;
                Ok(asked.ok().ok())
            })?;
            let seen = inside(
                node,
                "docker import -c 'CMD [\"sh\"]' /root/bb.tar bb >/dev/null
                 docker run --rm bb echo hello from an inner container",
            )?;
            ensure!(seen == "hello from an inner container", "{seen}");
            Ok(((), format!("{seen} (Docker {})", version.text())))
        })?;
        self.step("docker build", || {
            let seen = inside(
                node,
                "docker build -q -t built /root/ctx >/dev/null; docker run --rm built cat /hello",
            )?;
            ensure!(seen == "hello from the build context", "{seen}");
            Ok(((), seen))
        })?;
        self.step("an inner container over the bridge", || {
            inside(
                node,
                "docker run -d --name web -p 8080:80 bb \
                 sh -c 'mkdir /www; echo served >/www/i; exec httpd -f -p 80 -h /www' >/dev/null",
            )?;
            let address = inside(
                node,
                "docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' web",
            )?;
            let url = format!("http://{address}/i");
            ensure!(fetch(node, &url)? == "served", "{url} gave something else");
            Ok(((), url))
        })?;
        self.step("its published port", || {
            let url = "http://127.0.0.1:8080/i".to_owned();
            ensure!(fetch(node, &url)? == "served", "{url} gave something else");
            Ok(((), url))
        })
    }

    /// The article's attack, and what is left of it on the host.
    fn attack(&mut self, node: &Node) -> Result<()> {
        let banner = node.state().join("srv/motd");
        fs::write(&banner, "Welcome to this host\n")?;
        let bytes = Bytes::now(&banner);
        let outcome = self.attempts(node, &banner);
        self.step("the host's files, byte by byte", || {
            Ok(((), format!("unchanged: {}", bytes.unchanged()?)))
        })?;
        fs::remove_file(&banner)?;
        // Its server ignores SIGTERM, as PID 1 does without a handler: dockerd would give it ten seconds at the stop.
        inside(node, "docker rm -f web >/dev/null")?;
        outcome
    }

    fn attempts(&mut self, node: &Node, banner: &std::path::Path) -> Result<()> {
        self.step("attack: list /dev", || {
            let list = inside(
                node,
                "for node in $(find /dev ! -type d ! -path '/dev/pts/*' | sort); do
                     if [ -b $node ]; then echo block:$node; elif [ -c $node ]; then echo ${node#/dev/}; fi
                 done | tr '\\n' ' '",
            )?;
            ensure!(!list.contains("block:"), "there is a disk: {list}");
            ensure!(list.contains("null"), "nothing was listed: {list:?}");
            Ok(((), format!("no disk; {list}")))
        })?;
        if let Some(disk) = Disk::of_host() {
            // Without it a refusal could come from a wrong device number.
            self.step(
                "attack: a node of the host's disk under runc --privileged",
                || {
                    let words = [
                        "run",
                        "--rm",
                        "--privileged",
                        "--cpu-shares",
                        "0",
                        IMAGE.reference(),
                        "privileged",
                        "sh",
                        "-ec",
                        &disk.mknod(),
                    ];
                    node.ctr(&words)?.ok()?;
                    Ok(((), format!("made, as {} is in reach there", disk.name)))
                },
            )?;
            self.step("attack: mount that disk, write its banner", || {
                Ok(((), attack::refused(node, ID, &disk.attempts(banner))?))
            })?;
        }
        self.step("attack: out through /proc and /sys", || {
            Ok(((), attack::refused(node, ID, &attack::other_attempts())?))
        })
    }

    fn remove(&mut self, node: &Node, before: &Snapshot) -> Result<()> {
        self.step("stop", || {
            // SIGRTMIN+3, which the image names as its stop signal.
            node.ctr(&["task", "kill", "--signal", "37", ID])?.ok()?;
            poll(|| {
                let list = node.ctr(&["task", "ls"])?.ok()?;
                Ok(list.stdout.contains("STOPPED").then_some(()))
            })?;
            Ok(((), "systemd shut its services down".to_owned()))
        })?;
        self.step("delete", || {
            node.ctr(&["task", "delete", ID])?.ok()?;
            node.ctr(&["container", "delete", ID])?.ok()?;
            leak::settled(node, before)?;
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

/// What a shell script prints in the container, where it must succeed.
fn inside(node: &Node, script: &str) -> Result<String> {
    Ok(node
        .task_shell(ID, script)
        .and_then(Output::ok)?
        .text()
        .to_owned())
}

/// What `url` gives in the container, as soon as something listens there.
fn fetch(node: &Node, url: &str) -> Result<String> {
    inside(
        node,
        &format!("curl -sS --retry 20 --retry-delay 0 --retry-all-errors -m 5 {url}"),
    )
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
