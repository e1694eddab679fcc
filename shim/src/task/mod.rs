//! A task: a container and the processes that containerd knows in it. The verbs, and the order of their events.
//!
//! For each container: create, start, (exec-added, exec-started, exit of the exec)*, oom*, exit of init, delete.

mod execs;
mod exits;

use std::collections::HashMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use containerd_shim_protos::api::CreateTaskRequest;
use containerd_shim_protos::events::task as event;
use oci_spec::runtime as oci;
use runtime_core::OsContext;
use runtime_core::{Container, CreateRequest, Warning};
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::convert;
use crate::error::{Error, Result};
use crate::events::Events;
use crate::lifecycle::{State, Verb};
use crate::options::Options;
use crate::places::{Kind, Places};
use crate::process::Process;
use crate::reap::Exit;
use crate::stdio::{Io, Owner, Terminal};

/// signal(7).
const SIGKILL: i32 = 9;

/// How long a killed init may take before Delete gives up for now.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an init that got SIGKILL may take to end before whatever keeps it is ended, too.
const MOMENT: Duration = Duration::from_secs(1);

/// How long a verb may wait for another one that changes the container: longer than those take that end by themselves.
const TURN_TIMEOUT: Duration = Duration::from_secs(15);

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
    /// Places of those on their way into the container.
    starting: Arc<Semaphore>,
    /// Held by Start until its event is queued, and by the exit's publisher: so the exit comes second.
    start_gate: tokio::sync::Mutex<()>,
    exit_published: watch::Sender<bool>,
    /// For what may hang in the container.
    places: Arc<Places>,
    events: Arc<Events>,
}

/// What a verb has that changes the container.
type Turn = (OwnedMutexGuard<()>, OwnedSemaphorePermit);

#[derive(Debug, Default)]
struct Execs {
    by_id: HashMap<String, Arc<Process>>,
    /// Init has been reaped: nothing may be started any more.
    init_gone: bool,
}

impl Task {
    /// Makes the container and announces it.
    pub(crate) async fn create(
        pod: Arc<runtime_core::Pod>,
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
            away: None,
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
        warn(&request.id, &options.warnings);
        warn(&request.id, container.warnings());
        let places = Places::new(&request.id);
        let pidfd = match adopt(&container, &io, &pid_file, &places) {
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
            starting: Arc::new(Semaphore::new(execs::STARTING)),
            start_gate: tokio::sync::Mutex::default(),
            exit_published: watch::Sender::new(false),
            places,
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
        let _turn = self.turn(Kind::Start).await?;
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

    /// Removes the container. Can be tried again after an error.
    pub(crate) async fn delete(self: &Arc<Self>) -> Result<(u32, Exit)> {
        let _turn = self.turn(Kind::Delete).await?;
        self.init.check(Verb::Delete)?;
        if self.init.state() == State::Created {
            match self.container.kill(SIGKILL) {
                Ok(()) | Err(runtime_core::Error::NotFound(_)) => {}
                Err(error) => return Err(error.into()),
            }
            tokio::spawn(self.clone().insist());
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

    /// Freezes the container.
    pub(crate) async fn pause(&self) -> Result<()> {
        let _turn = self.turn(Kind::Pause).await?;
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
        let _turn = self.turn(Kind::Resume).await?;
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
        let turn = self.turn(Kind::Update).await?;
        self.init.check(Verb::Update)?;
        let until = Places::deadline(Kind::Update);
        let container = self.container.clone();
        let update = move || Ok(container.update(&resources)?);
        let warnings = self.places.within(Kind::Update, until, turn, update);
        warn(&self.id, &warnings.await?);
        Ok(())
    }

    /// Sets the size of a process's terminal; without one nothing.
    pub(crate) async fn resize(&self, exec_id: &str, columns: u32, rows: u32) -> Result<()> {
        let process = self.process(exec_id)?;
        if !exec_id.is_empty() {
            process.check(Verb::Resize)?;
        }
        let Some(terminal) = process.io().and_then(|io| io.terminal()) else {
            return Ok(());
        };
        let resize = move || terminal.resize(columns, rows);
        self.places.run(Kind::Resize, resize).await
    }

    /// Sends a signal to a process, or to all of the container's.
    pub(crate) async fn kill(
        self: &Arc<Self>,
        exec_id: &str,
        signal: i32,
        all: bool,
    ) -> Result<()> {
        if !exec_id.is_empty() {
            return self.process(exec_id)?.kill(signal);
        }
        if matches!(self.init.state(), State::Stopped | State::Deleted) {
            return Err(Error::NotFound("process already finished".into()));
        }
        match (all, signal) {
            (true, SIGKILL) => self.kill_processes().await,
            (true, signal) => {
                self.placed(Kind::Signal, move |container| container.kill_all(signal))
                    .await
            }
            (false, signal) => {
                self.container.kill(signal)?;
                if signal == SIGKILL {
                    tokio::spawn(self.clone().insist());
                }
                Ok(())
            }
        }
    }

    async fn kill_processes(&self) -> Result<()> {
        self.placed(Kind::Kill, |container| container.kill_all(SIGKILL))
            .await
    }

    /// Sees to it that an init that got SIGKILL ends. It does not before every process of its pid namespace has
    /// (pid_namespaces(7)), and one of them may wait for what only the library ends.
    async fn insist(self: Arc<Self>) {
        let mut published = self.exit_published.subscribe();
        let ended = published.wait_for(|done| *done);
        if timeout(MOMENT, ended).await.is_err()
            && let Err(error) = self.kill_processes().await
        {
            tracing::warn!(container = self.id, %error, "a killed container does not end");
        }
    }

    /// Counters of the cgroup.
    pub(crate) async fn stats(&self) -> Result<runtime_core::stats::Stats> {
        self.placed(Kind::Stats, Container::stats).await
    }

    /// Host pids of the container's processes, each with its exec id if it has one.
    ///
    /// A container that has exited but was not deleted has its init's: an empty answer makes a restarted containerd
    /// take the shim for a leak and throw the exit status away.
    pub(crate) async fn pids(&self) -> Result<Vec<(u32, Option<String>)>> {
        let mut pids = self.placed(Kind::Pids, Container::pids).await?;
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

    /// Waits until no other verb changes the container: one of each kind does at a time, so that many of one keep nobody from
    /// another.
    async fn turn(&self, kind: Kind) -> Result<Turn> {
        let until = Instant::now() + TURN_TIMEOUT;
        let place = self.places.take(kind, until).await?;
        let verbs = timeout_at(until, self.init.verbs.clone().lock_owned()).await;
        let verbs = verbs.map_err(|_| self.places.busy("another verb"))?;
        Ok((verbs, place))
    }

    /// Runs a verb of the library that may hang, and can be left to itself then.
    async fn placed<T: Send + 'static>(
        &self,
        kind: Kind,
        verb: impl FnOnce(&Container) -> runtime_core::Result<T> + Send + 'static,
    ) -> Result<T> {
        let container = self.container.clone();
        self.places.run(kind, move || Ok(verb(&container)?)).await
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
fn adopt(container: &Container, io: &Io, pid_file: &Path, places: &Arc<Places>) -> Result<OwnedFd> {
    if let Some(console) = container.take_console() {
        io.attach(Terminal::new(console, places.clone()))?;
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
