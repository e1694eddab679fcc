//! Further processes of a task: registered, started, reaped, forgotten.

use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use containerd_shim_protos::api::ExecProcessRequest;
use containerd_shim_protos::events::task as event;
use runtime_core::OsContext;
use runtime_core::{Exec, ExecRequest, Starting, send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until, timeout};

use super::{MOMENT, SIGKILL, Task, exit_or_unknown, warn};
use crate::convert;
use crate::epoll;
use crate::error::{Error, Result};
use crate::lifecycle::{State, Verb};
use crate::places::Kind;
use crate::process::Process;
use crate::reap::{self, Exit, UNKNOWN};
use crate::stdio::{EXEC_AWAY, Io, Owner, Streams, Terminal};

/// How many processes of a container may be on their way into it at a time.
pub(super) const STARTING: usize = 64;

/// How long one may take: on a busy machine it is a second at most.
const START_TIMEOUT: Duration = Duration::from_secs(30);

impl Task {
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
            away: Some(EXEC_AWAY),
        };
        let (stdio, io) = Io::open(&process.streams, owner).await?;
        let io = Arc::new(io);
        process.opened(Arc::clone(&io));
        let request = ExecRequest {
            process: spec,
            stdio,
            terminal: process.streams.terminal,
        };
        let (mut exec, terminal) = self.run(process, request).await?;
        // What holds of the container as well was said when it was made: health checks would repeat it for ever.
        let said = self.container.warnings();
        exec.warnings.retain(|warning| !said.contains(warning));
        warn(&self.id, &exec.warnings);
        match keep(&exec, process, &io, terminal) {
            Ok(pidfd) => Ok((exec.pid, pidfd)),
            Err(error) => {
                match send_signal(&exec.pidfd, SIGKILL) {
                    Ok(()) | Err(runtime_core::Error::NotFound(_)) => {}
                    Err(error) => return Err(error.into()),
                }
                collect(vec![exec.pidfd]).await;
                Err(error)
            }
        }
    }

    /// Runs a process in the container; returns when it is executed. It passes through what the container serves and has
    /// stopped: so it has a deadline, can be killed meanwhile, and takes no thread, but one of [`STARTING`] places.
    async fn run(
        &self,
        process: &Process,
        request: ExecRequest,
    ) -> Result<(Exec, Option<Arc<Terminal>>)> {
        let places = self.starting.clone().acquire_owned();
        // It is never closed.
        let Ok(Ok(place)) = timeout(START_TIMEOUT, places).await else {
            return Err(Error::FailedPrecondition(format!(
                "{STARTING} processes of container {} have been started and do not come to run: something in it hangs",
                self.id
            )));
        };
        process.starting(true);
        let outcome = self.attempt(process, request, place).await;
        process.starting(false);
        let (mut exec, terminal) = outcome?;
        collect(std::mem::take(&mut exec.stages)).await;
        Ok((exec, terminal))
    }

    async fn attempt(
        &self,
        process: &Process,
        request: ExecRequest,
        place: OwnedSemaphorePermit,
    ) -> Result<(Exec, Option<Arc<Terminal>>)> {
        let deadline = Instant::now() + START_TIMEOUT;
        let (container, places) = (self.container.clone(), self.places.clone());
        // Where nobody waits for it any more it undoes itself.
        let begin = self.places.run(Kind::Exec, move || {
            let mut starting = container.exec(request)?;
            let console = starting.take_console();
            Ok((starting, console.map(|it| Terminal::new(it, places))))
        });
        let (starting, terminal) = in_time(process, deadline, begin).await?;
        let ready = starting.as_fd().try_clone_to_owned().os("dup", "socket")?;
        let mut attempt = Attempt {
            starting,
            ready: epoll::register(ready, Interest::READABLE).os("epoll on", "socket")?,
            _place: place,
        };
        match in_time(process, deadline, attempt.through()).await {
            Ok(()) => Ok((attempt.starting.finish()?, terminal)),
            Err(error) => {
                attempt.end(&self.id).await;
                Err(error)
            }
        }
    }

    /// Publishes the exit of an exec'd process.
    async fn watch_exec(self: Arc<Self>, process: Arc<Process>, pidfd: OwnedFd) {
        let exit = reap::exit(pidfd).await;
        process.exited(exit);
        self.publish_exit(&process, exit);
        self.running.send_modify(|running| *running -= 1);
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
}

/// What `work` comes to, unless the process is killed or its time is over before.
async fn in_time<T>(
    process: &Process,
    deadline: Instant,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::select! {
        done = work => done,
        () = process.start_killed() => Err(Error::Refused("killed before it ran".into())),
        () = sleep_until(deadline) => Err(Error::Internal(format!(
            "the process does not come to run within {} s: what it needs of the container hangs",
            START_TIMEOUT.as_secs()
        ))),
    }
}

/// A process on its way into the container, and its place among those.
#[derive(Debug)]
struct Attempt {
    starting: Starting,
    /// Its descriptor.
    ready: AsyncFd<OwnedFd>,
    _place: OwnedSemaphorePermit,
}

impl Attempt {
    /// Waits until the program is executed.
    async fn through(&mut self) -> Result<()> {
        while !self.starting.step()? {
            readable(&self.ready).await?;
        }
        Ok(())
    }

    /// Kills it, and waits a moment for its end. One that waits in the kernel for what the container serves ends when that
    /// answers, or with the container; until then it has its place, and nobody else waits for it.
    async fn end(mut self, container: &str) {
        let ending = tokio::spawn(async move {
            // Where that fails what is left is unknown.
            while matches!(self.starting.kill(), Ok(false)) && readable(&self.ready).await.is_ok() {
            }
            for child in self.starting.into_children() {
                reap::exit(child).await;
            }
        });
        if timeout(MOMENT, ending).await.is_err() {
            tracing::warn!(container, "a killed process does not end");
        }
    }
}

async fn readable(fd: &AsyncFd<OwnedFd>) -> Result<()> {
    let mut ready = fd.readable().await.os("epoll on", "socket")?;
    ready.clear_ready();
    Ok(())
}

/// Collects children that have ended or are about to; whoever takes longer is waited for by nobody.
async fn collect(children: Vec<OwnedFd>) {
    let collecting = tokio::spawn(async {
        for child in children {
            reap::exit(child).await;
        }
    });
    // Late is not lost: it goes on.
    let _ = timeout(MOMENT, collecting).await;
}

/// Takes charge of a process that has just been executed: its terminal, its input, its exit. It stays the caller's where that
/// fails.
fn keep(
    exec: &Exec,
    process: &Process,
    io: &Io,
    terminal: Option<Arc<Terminal>>,
) -> Result<OwnedFd> {
    let [ours, kept] = [exec.pidfd.try_clone(), exec.pidfd.try_clone()];
    let (ours, kept) = (ours.os("dup", "pidfd")?, kept.os("dup", "pidfd")?);
    if let Some(terminal) = terminal {
        io.attach(terminal)?;
    }
    process.start_input()?;
    process.started(exec.pid, kept);
    Ok(ours)
}
