//! The events service that a shim delivers to, recording.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use containerd_shim_protos::events::task as event;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::{Events, create_events};
use protobuf::Message;
use protobuf::well_known_types::empty::Empty;
use ttrpc::r#async::{Server, TtrpcContext};

/// Takes events, in the order in which they come.
#[derive(Debug, Default)]
pub struct Recorder {
    seen: Mutex<Vec<Told>>,
}

/// An event, as far as tests look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Container id.
    pub container: String,
    /// The last word of the topic, with the exec's id where it is about one.
    pub what: String,
    /// Exit status; 0 where the event has none.
    pub status: u32,
    /// Pid; 0 where the event has none.
    pub pid: u32,
}

impl Recorder {
    /// Serves at `socket` until the server is dropped.
    ///
    /// # Errors
    /// If nobody can listen there.
    pub async fn serve(socket: &Path) -> Result<(Arc<Self>, Server)> {
        let recorder = Arc::new(Self::default());
        let service: Arc<dyn Events + Send + Sync> = recorder.clone();
        let mut server = Server::new()
            .bind(&format!("unix://{}", socket.display()))
            .context("bind the events socket")?
            .register_service(create_events(service));
        server.start().await.context("serve events")?;
        Ok((recorder, server))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Told>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has arrived, in order; the record begins anew.
    #[must_use]
    pub fn take(&self) -> Vec<Told> {
        std::mem::take(&mut *self.lock())
    }

    /// How many have arrived.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// What was told of a container so far.
    #[must_use]
    pub fn of(&self, container: &str) -> Vec<Told> {
        self.lock()
            .iter()
            .filter(|told| told.container == container)
            .cloned()
            .collect()
    }

    /// Waits until `what` was told of the container, and gives all that was.
    ///
    /// # Errors
    /// If nothing more is told for ten seconds.
    pub async fn until(&self, container: &str, what: &str) -> Result<Vec<Told>> {
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
#[must_use]
pub fn words(told: &[Told]) -> Vec<&str> {
    told.iter().map(|told| told.what.as_str()).collect()
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
