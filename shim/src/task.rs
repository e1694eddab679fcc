//! A task: a container and the processes that containerd knows in it. The verbs, and the order of their events.
//!
//! For each container: create, start, (exec-added, exec-started, exit of the exec)*, oom*, exit of init, delete.

use std::collections::HashMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use containerd_shim_protos::api::{CreateTaskRequest, ExecProcessRequest};
use containerd_shim_protos::events::task as event;
use oci_spec::runtime as oci;
use runtime_core::error::OsContext;
use runtime_core::{Container, CreateRequest, ExecRequest, Warning};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use crate::convert;
use crate::error::{Error, Result};
use crate::events::Events;
use crate::lifecycle::{State, Verb};
use crate::oom;
use crate::options::Options;
use crate::process::Process;
use crate::reap::{self, Exit, UNKNOWN};
use crate::stdio::{Io, Owner, Streams};

/// How long a killed init may take before Delete gives up for now.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long after Create, at the latest, its input is opened (see [`Io::start_input`]).
const INPUT_GRACE: Duration = Duration::from_millis(50);

/// A container's task.
#[derive(Debug)]
pub(crate) struct Task {
    /// Container id.
    pub(crate) id: String,
    /// Bundle as containerd wrote it.
    pub(crate) bundle: String,
    namespace: String,
    io_owner: Option<(u32, u32)>,
    container: Arc<Container>,
    init: Arc<Process>,
    execs: Mutex<Execs>,
    /// Exec'd processes whose start has begun and whose exit has not been published.
    running: watch::Sender<usize>,
    /// Held by Start until its event is queued, and by the exit's publisher: so the exit comes second.
    start_gate: tokio::sync::Mutex<()>,
    exit_published: watch::Sender<bool>,
    events: Arc<Events>,
}

#[derive(Debug, Default)]
struct Execs {
    by_id: HashMap<String, Arc<Process>>,
    /// Init has been reaped: nothing may be started any more.
    init_gone: bool,
}

impl Task {
    /// Makes the container and announces it.
    pub(crate) async fn create(
        pod: Arc<runtime_core::pod::Pod>,
        request: CreateTaskRequest,
        options: &Options,
        namespace: &str,
        events: Arc<Events>,
    ) -> Result<Arc<Task>> {
        if !request.checkpoint.is_empty() {
            return Err(Error::Unimplemented("create from a checkpoint".into()));
        }
        let streams = convert::streams(&request);
        let owner = Owner {
            id: &request.id,
            namespace,
            ids: options.io_owner,
        };
        let (stdio, io) = Io::open(&streams, owner).await?;
        let (id, namespace_) = (request.id.clone(), namespace.to_owned());
        let bundle = PathBuf::from(&request.bundle);
        let pid_file = bundle.join(crate::delete::PID_FILE);
        let rootfs = request.rootfs.iter().map(convert::rootfs_mount).collect();
        let terminal = request.terminal;
        let container = blocking(move || {
            let spec = read_spec(&bundle)?;
            Ok(Container::create(
                &pod,
                CreateRequest {
                    id,
                    namespace: namespace_,
                    bundle,
                    spec,
                    rootfs,
                    stdio,
                    terminal,
                },
            )?)
        })
        .await?;
        warn(&request.id, container.warnings());
        let pidfd = match adopt(&container, &io, &pid_file) {
            Ok(pidfd) => pidfd,
            Err(error) => {
                blocking(move || Ok(container.abandon()?)).await?;
                return Err(error);
            }
        };
        let pid = container.pid();
        let task = Arc::new(Task {
            init: Arc::new(Process::init(&request.id, streams, pid, io)),
            id: request.id.clone(),
            bundle: request.bundle.clone(),
            namespace: namespace.into(),
            io_owner: options.io_owner,
            container: Arc::new(container),
            execs: Mutex::default(),
            running: watch::Sender::new(0),
            start_gate: tokio::sync::Mutex::default(),
            exit_published: watch::Sender::new(false),
            events,
        });
        task.events.send(&event::TaskCreate {
            container_id: request.id,
            bundle: request.bundle,
            rootfs: request.rootfs,
            io: Some(event::TaskIO {
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                terminal: request.terminal,
                ..event::TaskIO::default()
            })
            .into(),
            pid,
            ..event::TaskCreate::default()
        });
        tokio::spawn(task.clone().watch_init(pidfd));
        // For a client that writes before it says Start; but not before containerd knows the task.
        let init = Arc::downgrade(&task.init);
        let id = task.id.clone();
        tokio::spawn(async move {
            sleep(INPUT_GRACE).await;
            let started = init.upgrade().map(|init| init.start_input());
            if let Some(Err(error)) = started {
                tracing::warn!(container = id, %error, "no input");
            }
        });
        Ok(task)
    }

    /// Runs the user's program.
    pub(crate) async fn start(&self) -> Result<u32> {
        let _verbs = self.init.verbs.lock().await;
        let _gate = self.start_gate.lock().await;
        self.init.check(Verb::Start)?;
        self.init.start_input()?;
        let warnings = self.on_container(Container::start).await?;
        warn(&self.id, &warnings);
        self.init.change(State::Created, State::Running);
        let pid = self.init.pid();
        self.events.send(&event::TaskStart {
            container_id: self.id.clone(),
            pid,
            ..event::TaskStart::default()
        });
        Ok(pid)
    }

    /// Registers a process to be started later.
    pub(crate) fn exec(&self, request: &ExecProcessRequest) -> Result<()> {
        let spec = convert::process(request.spec.as_ref())?;
        let streams = Streams {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let mut execs = self.lock();
        self.init.check(Verb::Exec)?;
        if request.exec_id.is_empty() || execs.by_id.contains_key(&request.exec_id) {
            return Err(Error::AlreadyExists(format!("id {}", request.exec_id)));
        }
        let process = Arc::new(Process::exec(&request.exec_id, streams, spec));
        execs.by_id.insert(request.exec_id.clone(), process);
        self.events.send(&event::TaskExecAdded {
            container_id: self.id.clone(),
            exec_id: request.exec_id.clone(),
            ..event::TaskExecAdded::default()
        });
        Ok(())
    }

    /// Starts a registered process.
    pub(crate) async fn start_exec(self: &Arc<Self>, exec_id: &str) -> Result<u32> {
        let process = self.process(exec_id)?;
        let _verbs = process.verbs.lock().await;
        process.check(Verb::Start)?;
        if self.init.state() == State::Paused {
            return Err(Error::FailedPrecondition(
                "cannot exec in a paused container".into(),
            ));
        }
        {
            let execs = self.lock();
            if execs.init_gone {
                return Err(Error::FailedPrecondition(format!(
                    "container {} init process is not running",
                    self.id
                )));
            }
            self.running.send_modify(|running| *running += 1);
        }
        match self.spawn(&process).await {
            Ok((pid, pidfd)) => {
                self.events.send(&event::TaskExecStarted {
                    container_id: self.id.clone(),
                    exec_id: exec_id.into(),
                    pid,
                    ..event::TaskExecStarted::default()
                });
                tokio::spawn(self.clone().watch_exec(process.clone(), pidfd));
                Ok(pid)
            }
            Err(error) => {
                process.failed(Exit {
                    status: UNKNOWN,
                    at: None,
                });
                self.running.send_modify(|running| *running -= 1);
                Err(error)
            }
        }
    }

    async fn spawn(&self, process: &Process) -> Result<(u32, OwnedFd)> {
        let spec = process
            .take_spec()
            .ok_or_else(|| Error::Refused("cannot start a process twice".into()))?;
        let owner = Owner {
            id: &process.id,
            namespace: &self.namespace,
            ids: self.io_owner,
        };
        let (stdio, io) = Io::open(&process.streams, owner).await?;
        let io = Arc::new(io);
        process.opened(Arc::clone(&io));
        let request = ExecRequest {
            process: spec,
            stdio,
            terminal: process.streams.terminal,
        };
        let exec = self
            .on_container(|container| container.exec(request))
            .await?;
        warn(&self.id, &exec.warnings);
        let pidfd = exec.pidfd.try_clone().os("dup", "pidfd")?;
        if let Some(console) = exec.console {
            io.attach_console(console)?;
        }
        process.start_input()?;
        process.started(exec.pid, exec.pidfd);
        Ok((exec.pid, pidfd))
    }

    /// Publishes the exit of an exec'd process.
    async fn watch_exec(self: Arc<Self>, process: Arc<Process>, pidfd: OwnedFd) {
        let exit = reap::exit(pidfd).await;
        process.exited(exit);
        self.publish_exit(&process, exit);
        self.running.send_modify(|running| *running -= 1);
    }

    /// Publishes kills for want of memory, and last of all the exit of init.
    async fn watch_init(self: Arc<Self>, pidfd: OwnedFd) {
        let oom = oom::Watch::oom_kills(&self.container.cgroup_dir());
        let mut kills = oom.as_ref().and_then(oom::Watch::count).unwrap_or(0);
        let exit = {
            let exit = reap::exit(pidfd);
            tokio::pin!(exit);
            loop {
                let changed = async {
                    match &oom {
                        Some(oom) => oom.changed().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    exit = &mut exit => break exit,
                    () = changed => self.publish_oom(oom.as_ref(), &mut kills),
                }
            }
        };
        self.lock().init_gone = true;
        if let Err(error) = self.on_container(Container::stopped).await {
            tracing::error!(container = self.id, %error, "stopping");
        }
        // The sender is ours, so the wait cannot fail.
        let _ = self
            .running
            .subscribe()
            .wait_for(|running| *running == 0)
            .await;
        let _gate = self.start_gate.lock().await;
        self.publish_oom(oom.as_ref(), &mut kills);
        self.init.exited(exit);
        self.publish_exit(&self.init, exit);
        self.exit_published.send_replace(true);
    }

    fn publish_exit(&self, process: &Process, exit: Exit) {
        self.events.send(&event::TaskExit {
            container_id: self.id.clone(),
            id: process.id.clone(),
            pid: process.pid(),
            exit_status: exit.status,
            exited_at: convert::timestamp_field(exit.at),
            ..event::TaskExit::default()
        });
    }

    fn publish_oom(&self, watch: Option<&oom::Watch>, seen: &mut u64) {
        if let Some(count) = watch.and_then(oom::Watch::count)
            && count > *seen
        {
            *seen = count;
            self.events.send(&event::TaskOOM {
                container_id: self.id.clone(),
                ..event::TaskOOM::default()
            });
        }
    }

    /// Removes the container. Can be tried again after an error.
    pub(crate) async fn delete(&self) -> Result<(u32, Exit)> {
        let _verbs = self.init.verbs.lock().await;
        self.init.check(Verb::Delete)?;
        if self.init.state() == State::Created {
            match self.container.kill(9) {
                Ok(()) | Err(runtime_core::Error::NotFound(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut published = self.exit_published.subscribe();
        if timeout(KILL_TIMEOUT, published.wait_for(|done| *done))
            .await
            .is_err()
        {
            return Err(Error::Internal(format!("init of {} does not die", self.id)));
        }
        if let Some(io) = self.init.io() {
            io.drain().await;
        }
        let warnings = self.on_container(Container::delete).await?;
        warn(&self.id, &warnings);
        self.init.deleted();
        let (pid, exit) = (self.init.pid(), exit_or_unknown(&self.init));
        self.events.send(&event::TaskDelete {
            container_id: self.id.clone(),
            pid,
            exit_status: exit.status,
            exited_at: convert::timestamp_field(exit.at),
            ..event::TaskDelete::default()
        });
        Ok((pid, exit))
    }

    /// Forgets an exec'd process.
    pub(crate) async fn delete_exec(&self, exec_id: &str) -> Result<(u32, Exit)> {
        let process = self.process(exec_id)?;
        let _verbs = process.verbs.lock().await;
        process.check(Verb::Delete)?;
        if let Some(io) = process.io() {
            io.drain().await;
        }
        process.deleted();
        self.lock().by_id.remove(exec_id);
        Ok((process.pid(), exit_or_unknown(&process)))
    }

    /// Freezes the container.
    pub(crate) async fn pause(&self) -> Result<()> {
        let _verbs = self.init.verbs.lock().await;
        self.init.check(Verb::Pause)?;
        self.on_container(Container::pause).await?;
        self.init.change(State::Running, State::Paused);
        self.events.send(&event::TaskPaused {
            container_id: self.id.clone(),
            ..event::TaskPaused::default()
        });
        Ok(())
    }

    /// Thaws the container.
    pub(crate) async fn resume(&self) -> Result<()> {
        let _verbs = self.init.verbs.lock().await;
        self.init.check(Verb::Resume)?;
        self.on_container(Container::resume).await?;
        self.init.change(State::Paused, State::Running);
        self.events.send(&event::TaskResumed {
            container_id: self.id.clone(),
            ..event::TaskResumed::default()
        });
        Ok(())
    }

    /// Changes limits.
    pub(crate) async fn update(&self, resources: oci::LinuxResources) -> Result<()> {
        let _verbs = self.init.verbs.lock().await;
        self.init.check(Verb::Update)?;
        let warnings = self
            .on_container(move |container| container.update(&resources))
            .await?;
        warn(&self.id, &warnings);
        Ok(())
    }

    /// Sends a signal to a process, or to all of the container's.
    pub(crate) async fn kill(&self, exec_id: &str, signal: i32, all: bool) -> Result<()> {
        if !exec_id.is_empty() {
            return self.process(exec_id)?.kill(signal);
        }
        if matches!(self.init.state(), State::Stopped | State::Deleted) {
            return Err(Error::NotFound("process already finished".into()));
        }
        if all {
            self.on_container(move |container| container.kill_all(signal))
                .await
        } else {
            Ok(self.container.kill(signal)?)
        }
    }

    /// Counters of the cgroup.
    pub(crate) async fn stats(&self) -> Result<runtime_core::cgroup::stats::Stats> {
        self.on_container(Container::stats).await
    }

    /// Host pids of the container's processes, each with its exec id if it has one.
    ///
    /// A container that has exited but was not deleted has its init's: an empty answer makes a restarted containerd
    /// take the shim for a leak and throw the exit status away.
    pub(crate) async fn pids(&self) -> Result<Vec<(u32, Option<String>)>> {
        let mut pids = self.on_container(Container::pids).await?;
        if pids.is_empty() {
            pids.push(self.init.pid());
        }
        let execs = self.lock();
        let exec_id = |pid| {
            let mut processes = execs.by_id.values();
            processes.find(|p| p.pid() == pid).map(|p| p.id.clone())
        };
        Ok(pids.into_iter().map(|pid| (pid, exec_id(pid))).collect())
    }

    /// Init, or the exec'd process of this id.
    pub(crate) fn process(&self, exec_id: &str) -> Result<Arc<Process>> {
        if exec_id.is_empty() {
            return Ok(self.init.clone());
        }
        let execs = self.lock();
        let process = execs.by_id.get(exec_id).cloned();
        process.ok_or_else(|| Error::NotFound(format!("process does not exist {exec_id}")))
    }

    /// State of a process; a paused container pauses all of them.
    pub(crate) fn state_of(&self, process: &Process) -> State {
        match (self.init.state(), process.state()) {
            (State::Paused, State::Running) => State::Paused,
            (_, state) => state,
        }
    }

    /// Runs a verb of the library on a blocking thread.
    async fn on_container<T: Send + 'static>(
        &self,
        verb: impl FnOnce(&Container) -> runtime_core::Result<T> + Send + 'static,
    ) -> Result<T> {
        let container = self.container.clone();
        blocking(move || Ok(verb(&container)?)).await
    }

    /// Held for a few instructions.
    fn lock(&self) -> MutexGuard<'_, Execs> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes charge of a container that has just been made: its terminal, its pid for `delete`, its exit.
fn adopt(container: &Container, io: &Io, pid_file: &Path) -> Result<OwnedFd> {
    if let Some(console) = container.take_console() {
        io.attach_console(console)?;
    }
    let pid = container.pid().to_string();
    fs::write(pid_file, pid).os("write", pid_file.display())?;
    Ok(container.pidfd().try_clone_to_owned().os("dup", "pidfd")?)
}

fn read_spec(bundle: &Path) -> Result<oci::Spec> {
    let path = bundle.join("config.json");
    let json = fs::read(&path).os("read", path.display())?;
    serde_json::from_slice(&json)
        .map_err(|e| Error::InvalidArgument(format!("{}: {e}", path.display())))
}

/// A process that was deleted before it was started has no exit.
fn exit_or_unknown(process: &Process) -> Exit {
    process.exit().unwrap_or(Exit {
        status: 0,
        at: None,
    })
}

fn warn(container: &str, warnings: &[Warning]) {
    for warning in warnings {
        tracing::warn!(container, field = warning.field, "{}", warning.text);
    }
}

/// Runs `f` on a blocking thread; a panic there is an error here.
async fn blocking<T: Send + 'static>(f: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match spawn_blocking(f).await {
        Ok(result) => result,
        Err(panicked) => Err(Error::Internal(panicked.to_string())),
    }
}
