//! Further processes of a task: registered, started, reaped, forgotten.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use containerd_shim_protos::api::ExecProcessRequest;
use containerd_shim_protos::events::task as event;
use runtime_core::OsContext;
use runtime_core::{Exec, ExecRequest};

use super::{Task, blocking, exit_or_unknown, warn};
use crate::convert;
use crate::error::{Error, Result};
use crate::lifecycle::{State, Verb};
use crate::process::Process;
use crate::reap::{self, Exit, UNKNOWN};
use crate::stdio::{Io, Owner, Streams};

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
        let pid = exec.pid;
        match keep(exec, process, &io) {
            Ok(pidfd) => Ok((pid, pidfd)),
            Err((exec, error)) => {
                blocking(move || Ok(exec.abandon()?)).await?;
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

/// Takes charge of a process that has just been executed: its terminal, its input, its exit. Gives it back where that fails.
fn keep(mut exec: Exec, process: &Process, io: &Io) -> Result<OwnedFd, (Exec, Error)> {
    let console = exec.console.take();
    let kept = || {
        let pidfd = exec.pidfd.try_clone().os("dup", "pidfd")?;
        if let Some(console) = console {
            io.attach_console(console)?;
        }
        process.start_input()?;
        Ok(pidfd)
    };
    match kept() {
        Ok(pidfd) => {
            process.started(exec.pid, exec.pidfd);
            Ok(pidfd)
        }
        Err(error) => Err((exec, error)),
    }
}
