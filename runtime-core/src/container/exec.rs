//! `exec`: a further process in a container.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::Poll;

use oci_spec::runtime as oci;

use super::limits;
use super::{Container, Stdio, last_cap};
use crate::error::{Result, Warning};
use crate::plan::{Process, ProcessContext, plan_process};
use crate::stage::Step;
use crate::stage::fault;
use crate::stage::parent::{self, Children, Fds};
use crate::stage::proto::{Channel, ExecStageRequest, FdKind, Message, unexpected};
use crate::stage::{self, Steps};

/// What `exec` needs.
#[derive(Debug)]
pub struct ExecRequest {
    /// The process to run.
    pub process: oci::Process,
    /// Its standard streams.
    pub stdio: Stdio,
    /// Overrides `process.terminal` (ExecProcessRequest.terminal).
    pub terminal: bool,
}

/// A process that runs in a container: a child of ours, reaped through its pidfd (see [`crate::reap`]).
#[derive(Debug)]
pub struct Exec {
    /// Its pid in the host's pid namespace.
    pub pid: u32,
    /// Readable when it has exited.
    pub pidfd: OwnedFd,
    /// Downgrades.
    pub warnings: Vec<Warning>,
    /// Further children, which have nothing more to do, to be reaped as well.
    pub stages: Vec<OwnedFd>,
}

/// A process on its way into a container. It goes through what the container serves and may have stopped, so that it may
/// never arrive: nothing here waits for it. Whoever drives it calls [`Starting::step`] whenever its descriptor is readable,
/// until the end, or ends it by [`Starting::kill`].
#[derive(Debug)]
pub struct Starting {
    channel: Channel,
    children: Children,
    process: Process,
    /// Of the process, once the stage has made it.
    pid: Option<i32>,
    console: Option<OwnedFd>,
    warnings: Vec<Warning>,
    steps: Steps,
}

impl Starting {
    /// Does what can be done without waiting. True: the program is executed, [`Starting::finish`] is next.
    ///
    /// # Errors
    /// The program cannot be executed: [`Starting::kill`] is next.
    pub fn step(&mut self) -> Result<bool> {
        while let Poll::Ready(message) = parent::try_next(&self.channel, &mut self.children)? {
            match (message, self.pid) {
                (Some(Message::Spawned { pid }), None) => {
                    let limited = self.steps.here(Step::Limits, || {
                        Ok(limits::set_oom_score(pid, &self.process))
                    })?;
                    self.warnings.extend(limited);
                    self.pid = Some(pid);
                    self.children.tell(&Message::Start)?;
                }
                // The process and its stage both tell of it.
                (Some(Message::Spawned { .. }), Some(_)) => {}
                // The program's execution closes the other end.
                (None, Some(_)) => return Ok(true),
                (None, None) => return Err(unexpected("the stage died")),
                (Some(other), _) => {
                    return Err(unexpected(&format!("{other:?} from the stage")));
                }
            }
        }
        Ok(false)
    }

    /// The process, which runs.
    ///
    /// # Errors
    /// It does not: [`Starting::step`] has not said so.
    pub fn finish(mut self) -> Result<Exec> {
        let pid = self.pid.ok_or_else(|| unexpected("no process yet"))?;
        let pidfd = self.children.release(pid)?;
        self.steps.log("exec");
        Ok(Exec {
            pid: pid.unsigned_abs(),
            pidfd,
            warnings: self.warnings,
            stages: self.children.into_pidfds(),
        })
    }

    /// Master of its terminal, if it asked one; `Some` once. Its slave is what the container holds, and makes every call on
    /// either end wait, the last one's close included (drivers/tty): so it is not for the thread that waits for all.
    pub fn take_console(&mut self) -> Option<OwnedFd> {
        self.console.take()
    }

    /// Kills all of it, as far as it is known by now. True: that is all, and [`Starting::into_children`] is next; else
    /// again when the descriptor is readable.
    ///
    /// # Errors
    /// What is left is unknown.
    pub fn kill(&mut self) -> Result<bool> {
        self.children.kill();
        self.children.kill_unborn()
    }

    /// All children there are, killed, to be reaped: one that nobody collects keeps the container's init from ending
    /// (pid_namespaces(7)).
    pub fn into_children(self) -> Vec<OwnedFd> {
        self.children.into_pidfds()
    }
}

impl AsFd for Starting {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

impl Container {
    /// Begins to run a process in the container (created or running).
    pub fn exec(&self, request: ExecRequest) -> Result<Starting> {
        let steps = Steps::new(fault::step(self.membership.pod().config()));
        let context = ProcessContext {
            terminal: Some(request.terminal),
            last_cap: last_cap()?,
            capability_rule: self.process.capability_rule,
            ids: None,
            idmap: Some(&self.idmap),
            unbarred: &self.process.unbarred,
            seccomp: self.process.seccomp.as_ref(),
        };
        let (mut process, mut warnings) =
            steps.here(Step::Plan, || plan_process(&request.process, context))?;
        warnings.extend(limits::settle(&mut process)?);
        let terminal = if process.terminal {
            Some(self.terminal(&process)?)
        } else {
            None
        };
        let leaf = self.cgroup.open_leaf()?;
        let stdio = request.stdio;
        let (channel, children) = steps.here(Step::Spawn, || {
            let mut fds = Fds::default();
            fds.add(FdKind::Init, Some(&self.pidfd));
            fds.add(FdKind::Leaf, Some(&leaf));
            fds.add(FdKind::Stdin, stdio.stdin.as_ref());
            fds.add(FdKind::Stdout, stdio.stdout.as_ref());
            fds.add(FdKind::Stderr, stdio.stderr.as_ref());
            fds.add(FdKind::Console, terminal.as_ref().map(|(_, slave)| slave));
            let request = ExecStageRequest {
                id: self.record.id.clone(),
                process: process.clone(),
                idmap: self.idmap.clone(),
                fail_at: steps.fail_at(),
                fds: fds.kinds,
            };
            let (channel, mut children) = parent::spawn(stage::EXEC)?;
            children.request(&request, &fds.fds)?;
            Ok((channel, children))
        })?;
        drop(stdio);
        Ok(Starting {
            channel,
            children,
            process,
            pid: None,
            console: terminal.map(|(master, _)| master),
            warnings,
            steps,
        })
    }

    /// A terminal of the container's own devpts for `process`.
    fn terminal(&self, process: &Process) -> Result<(OwnedFd, OwnedFd)> {
        let (master, slave, _) = stage::dev::open_terminal(&self.devpts, process.console_size)?;
        let (owner, group) = stage::dev::terminal_owner(&self.idmap, process.uid)?;
        stage::dev::own(&slave, owner, group)?;
        Ok((master, slave))
    }
}
