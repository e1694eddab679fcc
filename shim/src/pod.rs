//! The tasks of one shim, and when it may exit.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use containerd_shim_protos::api::CreateTaskRequest;
use tokio::sync::watch;

use crate::config::Source;
use crate::error::{Error, Result};
use crate::events::Events;
use crate::members;
use crate::options::Options;
use crate::reap::Exit;
use crate::socket::Served;
use crate::task::Task;

/// The containers of one shim.
#[derive(Debug)]
pub(crate) struct Pod {
    core: Arc<runtime_core::Pod>,
    namespace: String,
    /// Where the pod's configuration comes from.
    config: Source,
    /// Bundle that the shim was started in; has the list of members.
    bundle: PathBuf,
    events: Arc<Events>,
    /// Held to look up and to change the map, never while acting on a task.
    tasks: Mutex<Tasks>,
    socket: Arc<Served>,
    done: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Tasks {
    by_id: HashMap<String, Entry>,
    /// Shutdown came while the last tasks were already being deleted.
    exit_when_empty: bool,
}

#[derive(Debug)]
struct Entry {
    task: Slot,
    /// Delete has been called.
    doomed: bool,
}

#[derive(Debug, Clone)]
enum Slot {
    /// Being created; the channel closes when that has ended.
    Creating(watch::Receiver<()>),
    Ready(Arc<Task>),
}

impl Pod {
    /// A pod without tasks.
    pub(crate) fn new(
        core: Arc<runtime_core::Pod>,
        namespace: &str,
        config: Source,
        bundle: &Path,
        events: Arc<Events>,
        socket: Arc<Served>,
    ) -> Arc<Pod> {
        Arc::new(Pod {
            core,
            namespace: namespace.into(),
            config,
            bundle: bundle.into(),
            events,
            tasks: Mutex::default(),
            socket,
            done: watch::Sender::new(false),
        })
    }

    /// Creates a task.
    pub(crate) async fn create(&self, request: CreateTaskRequest) -> Result<Arc<Task>> {
        let options = request
            .options
            .as_ref()
            .map_or(Ok(Options::default()), Options::from_any)?;
        if options.config != Source::default() && options.config != self.config {
            return Err(Error::InvalidArgument(format!(
                "options: {:?}: the pod was started with {:?}; give all its containers the same",
                options.config, self.config,
            )));
        }
        let id = request.id.clone();
        let _creating = self.reserve(&id)?;
        members::add(&self.bundle, Path::new(&request.bundle)).inspect_err(|_| {
            self.remove(&mut self.lock(), &id);
        })?;
        let (core, events) = (self.core.clone(), self.events.clone());
        let created = Task::create(core, request, &options, &self.namespace, events).await;
        let mut tasks = self.lock();
        match &created {
            Ok(task) => {
                if let Some(entry) = tasks.by_id.get_mut(&id) {
                    entry.task = Slot::Ready(task.clone());
                }
            }
            Err(_) => self.remove(&mut tasks, &id),
        }
        created
    }

    /// Takes the id; whoever wants to delete the task meanwhile waits until what is returned is dropped.
    fn reserve(&self, id: &str) -> Result<watch::Sender<()>> {
        let mut tasks = self.lock();
        if *self.done.borrow() {
            return Err(Error::FailedPrecondition(
                "the shim is shutting down".into(),
            ));
        }
        if tasks.by_id.contains_key(id) {
            return Err(Error::AlreadyExists(format!("task {id}")));
        }
        let (sender, receiver) = watch::channel(());
        let entry = Entry {
            task: Slot::Creating(receiver),
            doomed: false,
        };
        tasks.by_id.insert(id.into(), entry);
        Ok(sender)
    }

    /// The task of this id, once it has been created.
    pub(crate) fn task(&self, id: &str) -> Result<Arc<Task>> {
        match self.lock().by_id.get(id) {
            Some(Entry {
                task: Slot::Ready(task),
                ..
            }) => Ok(task.clone()),
            _ => Err(not_created()),
        }
    }

    /// Deletes a task. One that is being created, for a client that gave up, is deleted as soon as it is there.
    pub(crate) async fn delete(&self, id: &str) -> Result<(u32, Exit)> {
        let task = loop {
            let slot = {
                let mut tasks = self.lock();
                let entry = tasks.by_id.get_mut(id).ok_or_else(not_created)?;
                entry.doomed = true;
                entry.task.clone()
            };
            match slot {
                Slot::Ready(task) => break task,
                // An error says that the creation has ended.
                Slot::Creating(mut ended) => while ended.changed().await.is_ok() {},
            }
        };
        let deleted = task.delete().await;
        let mut tasks = self.lock();
        match &deleted {
            Ok(_) => self.remove(&mut tasks, id),
            Err(_) => {
                if let Some(entry) = tasks.by_id.get_mut(id) {
                    entry.doomed = false;
                }
            }
        }
        deleted
    }

    fn remove(&self, tasks: &mut Tasks, id: &str) {
        tasks.by_id.remove(id);
        if tasks.exit_when_empty && tasks.by_id.is_empty() {
            self.finish();
        }
    }

    /// From here on a `start` for this group makes a shim of its own: before Shutdown is answered, for the container may
    /// be started again the moment after.
    fn finish(&self) {
        if let Err(error) = self.socket.release() {
            tracing::error!(%error, "the socket is left");
        }
        self.done.send_replace(true);
    }

    /// Lets the shim exit unless it has tasks. If all are being deleted, for a client that gave up, it exits after them.
    pub(crate) fn shutdown(&self) {
        let mut tasks = self.lock();
        if tasks.by_id.is_empty() {
            self.finish();
        } else if tasks.by_id.values().all(|entry| entry.doomed) {
            tasks.exit_when_empty = true;
        }
    }

    /// Returns when the shim may exit.
    pub(crate) async fn done(&self) {
        // The sender is ours, so the wait cannot fail.
        let _ = self.done.subscribe().wait_for(|done| *done).await;
    }

    fn lock(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// containerd's own words; its clients look at the code.
fn not_created() -> Error {
    Error::NotFound("container not created".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime_core::Config;
    use std::time::Duration;
    use tokio::time::timeout;

    fn pod() -> Arc<Pod> {
        let core = runtime_core::Pod::new(Config::default()).unwrap();
        let bundle = Path::new("/nonexistent");
        let socket = Arc::new(Served::new(None));
        Pod::new(
            core,
            "ns",
            Source::default(),
            bundle,
            Events::new("ns"),
            socket,
        )
    }

    fn request(id: &str) -> CreateTaskRequest {
        CreateTaskRequest {
            id: id.into(),
            bundle: "/nonexistent".into(),
            ..CreateTaskRequest::default()
        }
    }

    async fn is_done(pod: &Pod) -> bool {
        timeout(Duration::from_millis(20), pod.done()).await.is_ok()
    }

    #[tokio::test]
    async fn an_id_is_taken_from_the_first_moment_and_free_after_a_failure() {
        let pod = pod();
        let creating = pod.reserve("c1").unwrap();
        assert_eq!(
            pod.reserve("c1").unwrap_err().code(),
            ttrpc::Code::ALREADY_EXISTS
        );
        assert_eq!(pod.task("c1").unwrap_err().code(), ttrpc::Code::NOT_FOUND);
        drop(creating);
        pod.lock().by_id.clear();
        for _ in 0..2 {
            let error = pod.create(request("c1")).await.unwrap_err();
            assert!(
                error.to_string().contains("/nonexistent/config.json"),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn shutdown_waits_for_tasks() {
        let pod = pod();
        let creating = pod.reserve("c1").unwrap();
        pod.shutdown();
        assert!(!is_done(&pod).await);
        drop(creating);
        pod.remove(&mut pod.lock(), "c1");
        assert!(
            !is_done(&pod).await,
            "nobody asked for it after the last task was gone"
        );
        pod.shutdown();
        assert!(is_done(&pod).await);
        assert_eq!(
            pod.reserve("c2").unwrap_err().code(),
            ttrpc::Code::FAILED_PRECONDITION
        );
    }

    #[tokio::test]
    async fn a_client_that_gave_up_on_a_create_leaves_no_shim() {
        let pod = pod();
        let creating = pod.reserve("c1").unwrap();
        let deleting = tokio::spawn({
            let pod = pod.clone();
            async move { pod.delete("c1").await }
        });
        tokio::task::yield_now().await;
        pod.shutdown();
        assert!(!is_done(&pod).await);
        // The creation fails.
        pod.remove(&mut pod.lock(), "c1");
        drop(creating);
        assert_eq!(
            deleting.await.unwrap().unwrap_err().code(),
            ttrpc::Code::NOT_FOUND
        );
        assert!(is_done(&pod).await);
    }

    #[tokio::test]
    async fn a_pod_has_one_configuration() {
        use protobuf::well_known_types::any::Any;
        let mut request = request("c1");
        request.options = Some(Any {
            type_url: "runtimeoptions.v1.Options".into(),
            value: b"\x12\x06/etc/x".to_vec(),
            ..Any::default()
        })
        .into();
        let error = pod().create(request).await.unwrap_err();
        assert!(error.to_string().contains("/etc/x"), "{error}");
        assert_eq!(error.code(), ttrpc::Code::INVALID_ARGUMENT);
    }
}
