//! A shim in a node, started as containerd starts one and driven through its ttrpc API, its events collected.
//!
//! What containerd does around the calls (snapshots, bundles, events) is done here, so that a test has the API alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use containerd_shim_protos::api::{
    CreateTaskRequest, DeleteRequest, DeleteResponse, ExecProcessRequest, KillRequest, Mount,
    StartRequest, WaitRequest,
};
use containerd_shim_protos::events::task::{
    TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskStart,
};
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::{
    Client, Events as EventsService, TaskClient, create_events,
};
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::empty::Empty;
use protobuf::{Message, MessageField};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use ttrpc::r#async::{Server, TtrpcContext};
use ttrpc::context;

use crate::node::{DEADLINE, Node};
use crate::process;

/// Where in a node the events service of the test listens.
const EVENTS: &str = "/srv/events.sock";

/// A running shim.
pub struct Shim {
    /// Its task service; clones share the connection.
    pub client: TaskClient,
    /// Events that it has delivered.
    pub events: Arc<Events>,
    runtime: Runtime,
    address: String,
    id: String,
    _server: Server,
}

impl std::fmt::Debug for Shim {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "shim {} at {}", self.id, self.address)
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
        let events = Arc::new(Events::default());
        let socket = node.path(EVENTS);
        if socket.exists() {
            fs::remove_file(&socket).context("remove the last events socket")?;
        }
        let service: Arc<dyn EventsService + Send + Sync> = events.clone();
        let server = runtime.block_on(async {
            let mut server = Server::new()
                .bind(&format!("unix://{}", socket.display()))?
                .register_service(create_events(service));
            server.start().await.map(|()| server)
        });
        let server = server.context("serve events")?;
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
            id: bundle.id.clone(),
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
        let request = containerd_shim_protos::api::ConnectRequest {
            id: self.id.clone(),
            ..Default::default()
        };
        let reply = self.run(self.client.connect(soon(), &request));
        Ok(reply.context("Connect")?.shim_pid)
    }

    /// Asks it to exit, and waits until nobody is at its socket.
    ///
    /// # Errors
    /// If it does not exit.
    pub fn shutdown(self, node: &Node) -> Result<()> {
        let pid = self.pid()?;
        let request = containerd_shim_protos::api::ShutdownRequest {
            id: self.id.clone(),
            ..Default::default()
        };
        self.run(self.client.shutdown(soon(), &request))
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

/// The deadline of one call.
#[must_use]
pub fn soon() -> context::Context {
    context::with_duration(DEADLINE)
}

/// A container's files in a node: bundle and snapshot, below `/srv/<id>`.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// Container id.
    pub id: String,
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
            id: id.to_owned(),
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
        Path::new("/srv").join(&self.id).join(name)
    }

    /// The shim's command `verb` (`start`, `delete`) as containerd runs it.
    #[must_use]
    pub fn command(&self, node: &Node, verb: &str) -> std::process::Command {
        let dir = self.path("bundle");
        let script = format!(
            "cd {dir} && TTRPC_ADDRESS={EVENTS} exec containerd-shim-sysbox-v2 -namespace default -id {id} \
             -address /run/containerd/containerd.sock -bundle {dir} {verb}",
            dir = dir.display(),
            id = self.id,
        );
        node.command(&["/bin/sh", "-ec", &script])
    }

    /// A request to create it, without streams.
    #[must_use]
    pub fn create(&self) -> CreateTaskRequest {
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
            id: self.id.clone(),
            bundle: self.path("bundle").display().to_string(),
            rootfs: vec![rootfs],
            ..Default::default()
        }
    }

    /// Creates and starts it.
    ///
    /// # Errors
    /// Of the calls.
    pub async fn run(&self, client: &TaskClient) -> ttrpc::Result<()> {
        client.create(soon(), &self.create()).await?;
        client.start(soon(), &self.start("")).await.map(drop)
    }

    /// A request to start it, or its process `exec`.
    #[must_use]
    pub fn start(&self, exec: &str) -> StartRequest {
        StartRequest {
            id: self.id.clone(),
            exec_id: exec.into(),
            ..Default::default()
        }
    }

    /// A request to register process `exec`, without streams.
    #[must_use]
    pub fn exec(&self, exec: &str, args: &[&str]) -> ExecProcessRequest {
        let process =
            json!({"args": args, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}});
        ExecProcessRequest {
            id: self.id.clone(),
            exec_id: exec.into(),
            spec: MessageField::some(Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
                value: process.to_string().into_bytes(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// Runs a process in it: its exit code.
    ///
    /// # Errors
    /// Of the calls.
    pub async fn execute(
        &self,
        client: &TaskClient,
        exec: &str,
        args: &[&str],
    ) -> ttrpc::Result<u32> {
        client.exec(soon(), &self.exec(exec, args)).await?;
        client.start(soon(), &self.start(exec)).await?;
        client.wait(soon(), &self.wait(exec)).await?;
        let deleted = client.delete(soon(), &self.delete(exec)).await?;
        Ok(deleted.exit_status)
    }

    /// A request to wait for it, or for its process `exec`.
    #[must_use]
    pub fn wait(&self, exec: &str) -> WaitRequest {
        WaitRequest {
            id: self.id.clone(),
            exec_id: exec.into(),
            ..Default::default()
        }
    }

    /// A request to delete it, or its process `exec`.
    #[must_use]
    pub fn delete(&self, exec: &str) -> DeleteRequest {
        DeleteRequest {
            id: self.id.clone(),
            exec_id: exec.into(),
            ..Default::default()
        }
    }

    /// A request to kill it.
    #[must_use]
    pub fn kill(&self) -> KillRequest {
        KillRequest {
            id: self.id.clone(),
            signal: 9,
            ..Default::default()
        }
    }

    /// Kills it and waits for its end.
    ///
    /// # Errors
    /// Of the calls.
    pub async fn stop(&self, client: &TaskClient) -> ttrpc::Result<()> {
        client.kill(soon(), &self.kill()).await?;
        client.wait(soon(), &self.wait("")).await.map(drop)
    }

    /// Kills and deletes it.
    ///
    /// # Errors
    /// Of the calls.
    pub async fn end(&self, client: &TaskClient) -> ttrpc::Result<DeleteResponse> {
        self.stop(client).await?;
        client.delete(soon(), &self.delete("")).await
    }

    /// Removes its files.
    ///
    /// # Errors
    /// If they cannot be removed.
    pub fn remove(&self, node: &Node) -> Result<()> {
        fs::remove_dir_all(node.path(self.path("")))
            .with_context(|| format!("remove /srv/{}", self.id))
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

/// One event of the task service, what tests look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Container id.
    pub container: String,
    /// Exec id; the container's own for its first process.
    pub process: String,
    /// What happened.
    pub what: What,
}

/// Kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// `/tasks/create`
    Create,
    /// `/tasks/start`
    Start,
    /// `/tasks/exec-added`
    ExecAdded,
    /// `/tasks/exec-started`
    ExecStarted,
    /// `/tasks/exit`, with the exit status
    Exit(u32),
    /// `/tasks/delete`
    Delete,
    /// Another topic.
    Other,
}

/// The events service that the shim delivers to.
#[derive(Debug, Default)]
pub struct Events(Mutex<Vec<Event>>);

impl Events {
    /// What has arrived, in order; the record begins anew.
    #[must_use]
    pub fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many have arrived.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

#[async_trait]
impl EventsService for Events {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let envelope = request.envelope.unwrap_or_default();
        let event = parse(&envelope.topic, &envelope.event.unwrap_or_default().value);
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(event.map_err(|error| ttrpc::Error::Others(error.to_string()))?);
        Ok(Empty::new())
    }
}

fn parse(topic: &str, bytes: &[u8]) -> protobuf::Result<Event> {
    let (container, process, what) = match topic {
        "/tasks/create" => {
            let event = TaskCreate::parse_from_bytes(bytes)?;
            (event.container_id.clone(), event.container_id, What::Create)
        }
        "/tasks/start" => {
            let event = TaskStart::parse_from_bytes(bytes)?;
            (event.container_id.clone(), event.container_id, What::Start)
        }
        "/tasks/exec-added" => {
            let event = TaskExecAdded::parse_from_bytes(bytes)?;
            (event.container_id, event.exec_id, What::ExecAdded)
        }
        "/tasks/exec-started" => {
            let event = TaskExecStarted::parse_from_bytes(bytes)?;
            (event.container_id, event.exec_id, What::ExecStarted)
        }
        "/tasks/exit" => {
            let event = TaskExit::parse_from_bytes(bytes)?;
            (event.container_id, event.id, What::Exit(event.exit_status))
        }
        "/tasks/delete" => {
            let event = TaskDelete::parse_from_bytes(bytes)?;
            (event.container_id.clone(), event.container_id, What::Delete)
        }
        _ => (String::new(), String::new(), What::Other),
    };
    Ok(Event {
        container,
        process,
        what,
    })
}
