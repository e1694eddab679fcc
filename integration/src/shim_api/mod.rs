//! A shim in a node, started as containerd starts one and driven through its ttrpc API, its events collected.
//!
//! What containerd does around the calls (snapshots, bundles, events) is done here, so that a test has the API alone.

mod events;
mod task;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::api::{CreateTaskRequest, Mount};
use containerd_shim_protos::shim_async::{Client, TaskClient};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use ttrpc::r#async::Server;

use crate::node::{DEADLINE, Node};
use crate::process;

pub use events::{Recorder, Told, words};
pub use task::{Task, soon};

/// Where in a node the events service of the test listens.
const EVENTS: &str = "/srv/events.sock";

/// A running shim.
pub struct Shim {
    /// Its task service; clones share the connection.
    pub client: TaskClient,
    /// Events that it has delivered.
    pub events: Arc<Recorder>,
    runtime: Runtime,
    address: String,
    task: Task,
    _server: Server,
}

impl std::fmt::Debug for Shim {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "shim {} at {}", self.task.id, self.address)
    }
}

impl Shim {
    /// Starts the shim of container `bundle` in `node`.
    ///
    /// # Errors
    /// If `start` fails, or nobody answers at the address that it prints.
    pub fn start(node: &Node, bundle: &Bundle) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("start a runtime")?;
        let socket = node.path(EVENTS);
        if socket.exists() {
            fs::remove_file(&socket).context("remove the last events socket")?;
        }
        let (events, server) = runtime.block_on(Recorder::serve(&socket))?;
        let output = process::run(&mut bundle.command(node, "start"), b"", DEADLINE)?.ok()?;
        let address = output.text().to_owned();
        let path = address
            .strip_prefix("unix://")
            .with_context(|| format!("start printed {address:?}"))?;
        let outside = format!("unix://{}", node.path(path).display());
        let client = runtime.block_on(Client::connect(&outside));
        let client = TaskClient::new(client.with_context(|| format!("connect to {outside}"))?);
        Ok(Self {
            client,
            events,
            runtime,
            address,
            task: bundle.task.clone(),
            _server: server,
        })
    }

    /// Runs calls to their end.
    pub fn run<T>(&self, calls: impl Future<Output = T>) -> T {
        self.runtime.block_on(calls)
    }

    /// Begins calls that go on beside others.
    pub fn spawn<T: Send + 'static>(
        &self,
        calls: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.runtime.spawn(calls)
    }

    /// The shim's pid in the node.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn pid(&self) -> Result<u32> {
        self.run(self.task.shim_pid(&self.client))
            .context("Connect")
    }

    /// Asks it to exit, and waits until nobody is at its socket.
    ///
    /// # Errors
    /// If it does not exit.
    pub fn shutdown(self, node: &Node) -> Result<()> {
        let pid = self.pid()?;
        self.run(self.task.shutdown(&self.client))
            .context("Shutdown")?;
        let proc = node.path(format!("/proc/{pid}"));
        let begin = Instant::now();
        while proc.exists() {
            ensure!(begin.elapsed() < DEADLINE, "the shim does not exit");
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(self);
        fs::remove_file(node.path(EVENTS)).context("remove the events socket")
    }
}

/// A container's files in a node: bundle and snapshot, below `/srv/<id>`.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The task to be made of it.
    pub task: Task,
    lower: String,
}

impl Bundle {
    /// Makes the files of a busybox container that runs `args`; `change` may alter its spec. The image must have been
    /// imported.
    ///
    /// # Errors
    /// If they cannot be made.
    pub fn new(
        node: &Node,
        id: &str,
        args: &[&str],
        change: impl FnOnce(&mut Value),
    ) -> Result<Self> {
        let bundle = Self {
            task: Task {
                id: id.to_owned(),
                bundle: format!("/srv/{id}/bundle"),
            },
            lower: busybox(node)?,
        };
        for dir in ["bundle/rootfs", "snapshot/fs", "snapshot/work"] {
            fs::create_dir_all(node.path(bundle.path(dir)))
                .with_context(|| format!("make {dir}"))?;
        }
        let mut spec = spec(id, args);
        change(&mut spec);
        fs::write(
            node.path(bundle.path("bundle/config.json")),
            serde_json::to_vec(&spec)?,
        )
        .context("write config.json")?;
        Ok(bundle)
    }

    /// Path in the node of `name` below the container's directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        Path::new("/srv").join(&self.task.id).join(name)
    }

    /// The shim's command `verb` (`start`, `delete`) as containerd runs it.
    #[must_use]
    pub fn command(&self, node: &Node, verb: &str) -> std::process::Command {
        let dir = self.path("bundle");
        let script = format!(
            "cd {dir} && TTRPC_ADDRESS={EVENTS} exec containerd-shim-sysbox-v2 -namespace default -id {id} \
             -address /run/containerd/containerd.sock -bundle {dir} {verb}",
            dir = dir.display(),
            id = self.task.id,
        );
        node.command(&["/bin/sh", "-ec", &script])
    }

    /// A request to create it, without streams.
    #[must_use]
    pub fn create_request(&self) -> CreateTaskRequest {
        let layers = format!(
            "lowerdir={},upperdir={},workdir={}",
            self.lower,
            self.path("snapshot/fs").display(),
            self.path("snapshot/work").display()
        );
        let rootfs = Mount {
            type_: "overlay".into(),
            source: "overlay".into(),
            options: layers.split(',').map(str::to_owned).collect(),
            ..Default::default()
        };
        CreateTaskRequest {
            rootfs: vec![rootfs],
            ..self.task.create_request()
        }
    }

    /// Creates and starts it.
    ///
    /// # Errors
    /// Of the calls.
    pub async fn run(&self, client: &TaskClient) -> ttrpc::Result<()> {
        client.create(soon(), &self.create_request()).await?;
        self.task.start(client, "").await.map(drop)
    }

    /// Removes its files.
    ///
    /// # Errors
    /// If they cannot be removed.
    pub fn remove(&self, node: &Node) -> Result<()> {
        fs::remove_dir_all(node.path(self.path("")))
            .with_context(|| format!("remove /srv/{}", self.task.id))
    }
}

/// A copy of the busybox image's only layer, as the node's containerd unpacked it, beside the snapshots made here.
fn busybox(node: &Node) -> Result<String> {
    const COPY: &str = "/srv/layer";
    if node.path(COPY).exists() {
        return Ok(COPY.to_owned());
    }
    let snapshots = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots";
    for entry in fs::read_dir(node.path(snapshots)).context("list snapshots")? {
        let name = entry?.file_name();
        let layer = Path::new(snapshots).join(name).join("fs");
        if node.path(layer.join("probe")).exists() {
            node.exec(&["cp", "-a", &layer.display().to_string(), COPY])?
                .ok()?;
            return Ok(COPY.to_owned());
        }
    }
    anyhow::bail!("the busybox image is not unpacked in {snapshots}")
}

/// What containerd writes for a plain container.
fn spec(id: &str, args: &[&str]) -> Value {
    let namespaces: Vec<_> = ["pid", "ipc", "uts", "mount", "network", "cgroup"]
        .iter()
        .map(|kind| json!({"type": kind}))
        .collect();
    json!({
        "ociVersion": "1.2.0",
        "process": {"args": args, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}},
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
        ],
        "linux": {
            "cgroupsPath": format!("/robust/{id}"),
            "namespaces": namespaces,
            "maskedPaths": ["/proc/kcore", "/proc/keys"],
            "readonlyPaths": ["/proc/bus", "/proc/irq"],
        },
    })
}
