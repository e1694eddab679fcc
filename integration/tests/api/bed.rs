//! A node in which the test is containerd: it starts shims, calls their task API, and takes their events.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use containerd_shim_protos::api::{
    ConnectRequest, CreateTaskRequest, DeleteRequest, DeleteResponse, ExecProcessRequest,
    KillRequest, ShutdownRequest, StartRequest, WaitRequest,
};
use containerd_shim_protos::events::task as event;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::{Client, Events, TaskClient, create_events};
use integration::debian::Release;
use integration::image::Image;
use integration::node::Node;
use integration::{host, leak};
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::empty::Empty;
use serde_json::{Value, json};
use ttrpc::r#async::{Server, TtrpcContext};
use ttrpc::context;

const EVENTS: &str = "/run/events.sock";
const ROOTFS: &str = "/srv/api-rootfs";

/// The node, and what shims told it.
pub(crate) struct Bed {
    pub(crate) node: Node,
    pub(crate) events: Arc<Recorder>,
    spec: Value,
    before: leak::Snapshot,
    _server: Server,
}

/// Takes events, in the order in which they come.
#[derive(Default)]
pub(crate) struct Recorder {
    seen: Mutex<Vec<Told>>,
}

/// An event, as far as tests look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) container: String,
    /// The last word of the topic, with the exec's id where it is about one.
    pub(crate) what: String,
    pub(crate) status: u32,
    pub(crate) pid: u32,
}

#[async_trait]
impl Events for Recorder {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let envelope = request.envelope.unwrap_or_default();
        let told = decode(&envelope.topic, &envelope.event.unwrap_or_default().value)
            .map_err(|e| ttrpc::Error::Others(e.to_string()))?;
        self.lock().push(told);
        Ok(Empty::new())
    }
}

fn decode(topic: &str, bytes: &[u8]) -> protobuf::Result<Told> {
    let word = topic.trim_start_matches("/tasks/");
    let told = |container: String, exec: &str, status, pid| Told {
        what: format!("{word} {exec}").trim_end().to_owned(),
        container,
        status,
        pid,
    };
    Ok(match word {
        "exit" => {
            let e = event::TaskExit::parse_from_bytes(bytes)?;
            let exec = if e.id == e.container_id { "" } else { &e.id };
            told(e.container_id, exec, e.exit_status, e.pid)
        }
        "exec-added" => {
            let e = event::TaskExecAdded::parse_from_bytes(bytes)?;
            told(e.container_id, &e.exec_id, 0, 0)
        }
        "exec-started" => {
            let e = event::TaskExecStarted::parse_from_bytes(bytes)?;
            told(e.container_id, &e.exec_id, 0, e.pid)
        }
        "delete" => {
            let e = event::TaskDelete::parse_from_bytes(bytes)?;
            told(e.container_id, "", e.exit_status, e.pid)
        }
        "create" => {
            let e = event::TaskCreate::parse_from_bytes(bytes)?;
            told(e.container_id, "", 0, e.pid)
        }
        // The container's id is field 1 of all others.
        _ => told(
            event::TaskPaused::parse_from_bytes(bytes)?.container_id,
            "",
            0,
            0,
        ),
    })
}

impl Recorder {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Told>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was told of a container so far.
    pub(crate) fn of(&self, container: &str) -> Vec<Told> {
        self.lock()
            .iter()
            .filter(|told| told.container == container)
            .cloned()
            .collect()
    }

    /// Waits until `what` was told of the container, and gives all that was.
    pub(crate) async fn until(&self, container: &str, what: &str) -> Result<Vec<Told>> {
        let (mut told, mut waited) = (self.of(container), 0);
        while !told.iter().any(|told| told.what == what) {
            let last = told.last();
            ensure!(
                waited < 1000,
                "{what} was not told of {container} but {last:?}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
            let before = std::mem::replace(&mut told, self.of(container)).len();
            waited = if told.len() == before { waited + 1 } else { 0 };
        }
        Ok(told)
    }
}

/// The words of what was told.
pub(crate) fn words(told: &[Told]) -> Vec<&str> {
    told.iter().map(|told| told.what.as_str()).collect()
}

impl Bed {
    /// A node; none, with the reason printed, where there can be none.
    pub(crate) async fn new() -> Result<Option<Bed>> {
        if let Some(obstacle) = host::obstacle() {
            ensure!(!host::strict(), "{obstacle}");
            println!("skipped: {obstacle}");
            return Ok(None);
        }
        let node = Node::builder(Release::Sid)
            .shim(host::shim()?)
            .images(&[Image::Busybox])
            .start()?;
        let image = Image::Busybox.reference();
        node.shell(&format!(
            "mkdir -p /srv/image {ROOTFS}; ctr images mount {image} /srv/image; \
             cp -a /srv/image/. {ROOTFS}; ctr images unmount /srv/image"
        ))?
        .ok()?;
        let spec = node.exec(&["ctr", "oci", "spec"])?.ok()?;
        let events = Arc::new(Recorder::default());
        let service: Arc<dyn Events + Send + Sync> = events.clone();
        let address = format!("unix://{}", node.path(EVENTS).display());
        let mut server = Server::new()
            .bind(&address)?
            .register_service(create_events(service));
        server.start().await?;
        Ok(Some(Bed {
            spec: serde_json::from_str(&spec.stdout)?,
            before: leak::Snapshot::of_node(&node),
            node,
            events,
            _server: server,
        }))
    }

    /// Starts the shim of a container whose init runs `args`.
    pub(crate) async fn shim(&self, id: &str, args: &[&str]) -> Result<Shim> {
        let bundle = self.bundle(id, args, &[])?;
        self.start(id, &bundle).await
    }

    /// Writes a bundle; returns its path in the node.
    pub(crate) fn bundle(
        &self,
        id: &str,
        args: &[&str],
        annotations: &[(&str, &str)],
    ) -> Result<String> {
        let bundle = format!("/run/api/{id}");
        let mut spec = self.spec.clone();
        spec["process"]["args"] = json!(args);
        spec["process"]["terminal"] = json!(false);
        spec["root"] = json!({"path": ROOTFS});
        spec["linux"]["cgroupsPath"] = json!(format!("/api/{id}"));
        spec["linux"]["resources"] = json!({});
        for (key, value) in annotations {
            spec["annotations"][key] = json!(value);
        }
        // containerd makes the mount point, too.
        std::fs::create_dir_all(self.node.path(&bundle).join("rootfs"))?;
        std::fs::write(
            self.node.path(&bundle).join("config.json"),
            spec.to_string(),
        )?;
        Ok(bundle)
    }

    /// Runs `start` in a bundle and connects.
    pub(crate) async fn start(&self, id: &str, bundle: &str) -> Result<Shim> {
        let script = format!(
            "cd {bundle}; TTRPC_ADDRESS={EVENTS} exec containerd-shim-sysbox-v2 \
             -namespace api -address /run/none -publish-binary /none -id {id} start"
        );
        let output = self.node.exec(&["/bin/sh", "-ec", &script])?.ok()?;
        let path = output
            .stdout
            .strip_prefix("unix://")
            .context("no address")?;
        let shim = Shim {
            id: id.into(),
            bundle: bundle.into(),
            socket: self.node.path(path),
            proc: self.node.path("/proc"),
        };
        shim.client().await?;
        Ok(shim)
    }

    /// Checks that nothing is left of what the test made.
    pub(crate) fn settled(&self) -> Result<()> {
        let _ = std::fs::remove_dir_all(self.node.path("/run/api"));
        leak::settled(&self.node, &self.before)
    }
}

/// A shim, and the container whose bundle it was started in.
#[derive(Debug, Clone)]
pub(crate) struct Shim {
    pub(crate) id: String,
    bundle: String,
    pub(crate) socket: PathBuf,
    proc: PathBuf,
}

/// A call's deadline.
pub(crate) fn soon() -> context::Context {
    context::with_duration(Duration::from_secs(60))
}

impl Shim {
    /// A connection of its own.
    pub(crate) async fn client(&self) -> Result<TaskClient> {
        let address = format!("unix://{}", self.socket.display());
        Ok(TaskClient::new(Client::connect(&address).await?))
    }

    /// The shim's pid in the node.
    pub(crate) async fn pid(&self) -> Result<u32> {
        let client = self.client().await?;
        Ok(client
            .connect(soon(), &ConnectRequest::new())
            .await?
            .shim_pid)
    }

    /// A create request without streams.
    pub(crate) fn create_request(&self) -> CreateTaskRequest {
        CreateTaskRequest {
            id: self.id.clone(),
            bundle: self.bundle.clone(),
            ..CreateTaskRequest::default()
        }
    }

    /// Creates and starts the container.
    pub(crate) async fn run(&self, client: &TaskClient) -> Result<()> {
        client.create(soon(), &self.create_request()).await?;
        self.start(client, "").await?;
        Ok(())
    }

    /// Starts init or an exec'd process.
    pub(crate) async fn start(&self, client: &TaskClient, exec: &str) -> ttrpc::Result<u32> {
        let request = StartRequest {
            id: self.id.clone(),
            exec_id: exec.into(),
            ..StartRequest::default()
        };
        Ok(client.start(soon(), &request).await?.pid)
    }

    /// An exec request without streams.
    pub(crate) fn exec_request(&self, exec: &str, args: &[&str]) -> ExecProcessRequest {
        let process = json!({
            "args": args, "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"],
        });
        let spec = Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
            value: process.to_string().into_bytes(),
            ..Any::default()
        };
        ExecProcessRequest {
            id: self.id.clone(),
            exec_id: exec.into(),
            spec: Some(spec).into(),
            ..ExecProcessRequest::default()
        }
    }

    /// Waits for a process's end.
    pub(crate) async fn wait(&self, client: &TaskClient, exec: &str) -> ttrpc::Result<u32> {
        let request = WaitRequest {
            id: self.id.clone(),
            exec_id: exec.into(),
            ..WaitRequest::default()
        };
        Ok(client.wait(soon(), &request).await?.exit_status)
    }

    /// Deletes a process.
    pub(crate) async fn delete(
        &self,
        client: &TaskClient,
        exec: &str,
    ) -> ttrpc::Result<DeleteResponse> {
        let request = DeleteRequest {
            id: self.id.clone(),
            exec_id: exec.into(),
            ..DeleteRequest::default()
        };
        client.delete(soon(), &request).await
    }

    /// Sends a signal.
    pub(crate) async fn kill(
        &self,
        client: &TaskClient,
        exec: &str,
        signal: u32,
    ) -> ttrpc::Result<()> {
        let request = KillRequest {
            id: self.id.clone(),
            exec_id: exec.into(),
            signal,
            ..KillRequest::default()
        };
        client.kill(soon(), &request).await.map(drop)
    }

    /// Kills and deletes the container, ends the shim.
    pub(crate) async fn end(&self, client: &TaskClient) -> Result<()> {
        self.kill(client, "", 9).await?;
        ensure!(self.wait(client, "").await? == 137);
        self.delete(client, "").await?;
        self.shutdown(client).await
    }

    /// Ends the shim; returns when it has delivered its last event and is gone.
    pub(crate) async fn shutdown(&self, client: &TaskClient) -> Result<()> {
        let process = self.proc.join(self.pid().await?.to_string());
        client.shutdown(soon(), &ShutdownRequest::new()).await?;
        for _ in 0..12_000 {
            if !process.exists() {
                ensure!(!self.socket.exists(), "the socket of {} is left", self.id);
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        anyhow::bail!("the shim of {} does not end", self.id)
    }
}
