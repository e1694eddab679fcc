//! A client of a shim's task service, as containerd is one, for any shim.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, bail, ensure};
use containerd_shim_protos::api::{CreateTaskRequest, Mount};
use containerd_shim_protos::shim_async::{Client, TaskClient};
use integration::shim_api::{Task, soon};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use protobuf::MessageField;
use protobuf::well_known_types::any::Any;
use serde_json::{Value, json};

use crate::runtime::Runtime;

/// How long one call may take.
const DEADLINE: Duration = Duration::from_secs(30);

const PATH: &str = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";

/// A directory of ours on a real file system.
pub(crate) const HOME: &str = "/srv/bench.d";

/// A container's bundle and the overlay that containerd would hand over for it.
///
/// Its files go with the node. Were they removed between two measurements, each new inode of the next would cost a look at
/// every one that was freed in the last minute, on ext4 without a journal (`recently_deleted()` in fs/ext4/ialloc.c): up to
/// half a millisecond, for whoever makes most files.
#[derive(Debug)]
pub(crate) struct Bundle {
    pub(crate) runtime: Runtime,
    pub(crate) task: Task,
    dir: PathBuf,
    rootfs: Mount,
    /// containerd's end of the shim's log: without a reader runc's shim does not serve.
    log: File,
}

impl Bundle {
    /// The files of a container that runs `args` above `layers` lower directories, one group of shims for equal `group`.
    pub(crate) fn new(
        runtime: Runtime,
        id: &str,
        group: &str,
        layers: usize,
        args: &[&str],
    ) -> Result<Self> {
        let id = format!("{}-{id}", runtime.name());
        let dir = Path::new(HOME).join(&id);
        for name in ["rootfs", "fs", "work"] {
            fs::create_dir_all(dir.join(name)).with_context(|| format!("create {name} of {id}"))?;
        }
        let spec = spec(&id, &format!("{}-{group}", runtime.name()), args);
        fs::write(dir.join("config.json"), serde_json::to_vec(&spec)?)
            .with_context(|| format!("write config.json of {id}"))?;
        // Uppermost first; the image's is the last one.
        let lower: Vec<_> = (0..layers)
            .rev()
            .map(|number| format!("{HOME}/l/{number}"))
            .collect();
        let rootfs = Mount {
            type_: "overlay".into(),
            source: "overlay".into(),
            options: vec![
                format!("workdir={}", dir.join("work").display()),
                format!("upperdir={}", dir.join("fs").display()),
                format!("lowerdir={}", lower.join(":")),
            ],
            ..Mount::default()
        };
        let log = dir.join("log");
        mkfifo(&log, Mode::S_IRUSR | Mode::S_IWUSR).context("make the log fifo")?;
        let log = File::options()
            .read(true)
            .write(true)
            .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
            .open(&log);
        Ok(Self {
            runtime,
            task: Task {
                id,
                bundle: dir.display().to_string(),
            },
            dir,
            rootfs,
            log: log.context("open the log fifo")?,
        })
    }

    /// The first overlay layer, of files of `image`, and others up to `more` above it with a file each; once.
    pub(crate) fn layers(image: &str, more: usize) -> Result<()> {
        let base = Path::new(HOME).join("l/0");
        if base.exists() {
            return Ok(());
        }
        fs::create_dir_all(Path::new(HOME).join("l")).context("create the layers' directory")?;
        let copy = std::process::Command::new("cp")
            .arg("-a")
            .arg(image)
            .arg(&base)
            .status()
            .context("start cp")?;
        ensure!(copy.success(), "cp of the image's layer: {copy}");
        for number in 1..more {
            let layer = Path::new(HOME).join(format!("l/{number}"));
            fs::create_dir(&layer).with_context(|| format!("create layer {number}"))?;
            fs::write(layer.join(format!("layer-{number}")), "")?;
        }
        Ok(())
    }

    /// What the shim has logged since the last asking.
    pub(crate) fn logged(&self) -> Result<String> {
        let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            match (&self.log).read(&mut buffer) {
                Ok(length) => text.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("read the shim's log"),
            }
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Runs the shim's `start` and connects to the address that it prints.
    pub(crate) async fn start_shim(&self) -> Result<Shim> {
        self.start_shim_with(&[]).await
    }

    /// The same with further flags.
    pub(crate) async fn start_shim_with(&self, flags: &[&str]) -> Result<Shim> {
        let output = self
            .runtime
            .shim()
            .args(flags)
            .args(["-namespace", "bench", "-id", &self.task.id])
            .args(["-address", "/run/containerd/containerd.sock"])
            .args(["-publish-binary", "/usr/bin/containerd", "start"])
            .env("TTRPC_ADDRESS", "/run/containerd/containerd.sock.ttrpc")
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .output()
            .context("run the shim's start")?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if !output.status.success() {
            bail!(
                "start of {}: {said} {}",
                self.task.id,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        // A plain address, or JSON since containerd 2.0.
        let address = match serde_json::from_str::<Value>(&said) {
            Ok(reply) => reply["address"].as_str().unwrap_or_default().to_owned(),
            Err(_) => said,
        };
        let client = Client::connect(&address).await;
        let client = TaskClient::new(client.with_context(|| format!("connect to {address}"))?);
        Ok(Shim { client })
    }
}

/// A connection to a running shim.
#[derive(Clone)]
pub(crate) struct Shim {
    client: TaskClient,
}

impl std::fmt::Debug for Shim {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Shim").finish_non_exhaustive()
    }
}

impl Shim {
    pub(crate) async fn create(&self, bundle: &Bundle) -> Result<()> {
        let options = bundle.runtime.create_options().map(|value| Any {
            type_url: "containerd.runc.v1.Options".into(),
            value,
            ..Any::default()
        });
        let request = CreateTaskRequest {
            rootfs: vec![bundle.rootfs.clone()],
            options: MessageField::from_option(options),
            ..bundle.task.create_request()
        };
        let reply = self.client.create(soon(), &request).await;
        reply
            .map(drop)
            .with_context(|| format!("Create {}", bundle.task.id))
    }

    pub(crate) async fn start(&self, bundle: &Bundle) -> Result<()> {
        let started = bundle.task.start(&self.client, "").await;
        started
            .map(drop)
            .with_context(|| format!("Start {}", bundle.task.id))
    }

    /// create → start → exit → delete.
    pub(crate) async fn cycle(&self, bundle: &Bundle) -> Result<()> {
        self.create(bundle).await?;
        self.start(bundle).await?;
        self.finish(bundle).await
    }

    /// Waits for a container that ends well by itself, and deletes it.
    pub(crate) async fn finish(&self, bundle: &Bundle) -> Result<()> {
        bundle.task.wait(&self.client, "").await.context("Wait")?;
        let deleted = bundle.task.delete(&self.client, "").await;
        let status = deleted.context("Delete")?.exit_status;
        ensure!(status == 0, "{} exited with {status}", bundle.task.id);
        Ok(())
    }

    /// The same for a process in a running container.
    pub(crate) async fn exec(&self, bundle: &Bundle, exec: &str, args: &[&str]) -> Result<()> {
        let status = bundle.task.execute(&self.client, exec, args).await;
        let status = status.with_context(|| format!("exec in {}", bundle.task.id))?;
        ensure!(status == 0, "{exec} exited with {status}");
        Ok(())
    }

    /// Kills the container and deletes it.
    pub(crate) async fn kill(&self, bundle: &Bundle) -> Result<()> {
        let deleted = bundle.task.end(&self.client).await.context("Kill")?;
        let status = deleted.exit_status;
        ensure!(status == 128 + 9, "{} exited with {status}", bundle.task.id);
        Ok(())
    }

    pub(crate) async fn pid(&self, bundle: &Bundle) -> Result<u32> {
        let pid = bundle.task.shim_pid(&self.client).await;
        pid.context("Connect")
    }

    /// Ends the shim, whose containers are deleted, and waits until it is gone.
    pub(crate) async fn shutdown(self, bundle: &Bundle, pid: u32) -> Result<()> {
        // runc's shim may be gone before its answer is.
        drop(bundle.task.shutdown(&self.client).await);
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let begin = Instant::now();
        while proc.exists() {
            ensure!(
                begin.elapsed() < DEADLINE,
                "the shim of {} stays",
                bundle.task.id
            );
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

/// What `ctr run` writes, without what ours does on top by itself.
fn spec(id: &str, group: &str, args: &[&str]) -> Value {
    let spaces = ["pid", "ipc", "uts", "mount", "network", "cgroup"];
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    json!({
        "ociVersion": "1.2.0",
        "process": {"args": args, "cwd": "/", "env": [PATH], "user": {"uid": 0, "gid": 0}, "noNewPrivileges": true},
        "root": {"path": "rootfs"},
        "annotations": {"io.containerd.runc.v2.group": group},
        "mounts": [
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/run", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        ],
        "linux": {
            "cgroupsPath": format!("/bench/{id}"),
            "namespaces": spaces.map(|kind| json!({"type": kind})),
            "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}
