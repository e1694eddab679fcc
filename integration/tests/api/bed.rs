//! A node in which the test is containerd: it starts shims, calls their task API, and takes their events.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::shim_async::{Client, TaskClient};
use integration::debian::Release;
use integration::image::Image;
use integration::node::Node;
use integration::shim_api::{Recorder, Task, soon};
use integration::{host, leak};
use serde_json::{Value, json};
use ttrpc::r#async::Server;

/// Where shims find containerd's events service.
pub(crate) const EVENTS: &str = "/run/events.sock";
pub(crate) const ROOTFS: &str = "/srv/api-rootfs";

/// The node, and what shims told it.
pub(crate) struct Bed {
    pub(crate) node: Node,
    pub(crate) events: Arc<Recorder>,
    spec: Value,
    before: leak::Snapshot,
    _server: Server,
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
        let (events, server) = Recorder::serve(&node.path(EVENTS)).await?;
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
            task: Task {
                id: id.into(),
                bundle: bundle.into(),
            },
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
    pub(crate) task: Task,
    pub(crate) socket: PathBuf,
    proc: PathBuf,
}

impl Shim {
    /// A connection of its own.
    pub(crate) async fn client(&self) -> Result<TaskClient> {
        let address = format!("unix://{}", self.socket.display());
        Ok(TaskClient::new(Client::connect(&address).await?))
    }

    /// The shim's pid in the node.
    pub(crate) async fn pid(&self) -> Result<u32> {
        Ok(self.task.shim_pid(&self.client().await?).await?)
    }

    /// Creates and starts the container.
    pub(crate) async fn run(&self, client: &TaskClient) -> Result<()> {
        client.create(soon(), &self.task.create_request()).await?;
        self.task.start(client, "").await?;
        Ok(())
    }

    /// Kills and deletes the container, ends the shim.
    pub(crate) async fn end(&self, client: &TaskClient) -> Result<()> {
        ensure!(self.task.end(client).await?.exit_status == 137);
        self.shutdown(client).await
    }

    /// Ends the shim; returns when it has delivered its last event and is gone.
    pub(crate) async fn shutdown(&self, client: &TaskClient) -> Result<()> {
        let process = self.proc.join(self.pid().await?.to_string());
        self.task.shutdown(client).await?;
        for _ in 0..12_000 {
            if !process.exists() {
                ensure!(
                    !self.socket.exists(),
                    "the socket of {} is left",
                    self.task.id
                );
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        anyhow::bail!("the shim of {} does not end", self.task.id)
    }
}
