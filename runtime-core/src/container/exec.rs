//! `exec`: a further process in a container.

use std::os::fd::OwnedFd;

use oci_spec::runtime as oci;

use super::limits;
use super::{Container, Stdio, last_cap};
use crate::error::{Error, Result, Warning};
use crate::kernel::reap::{reap_blocking, send_signal};
use crate::plan::{Process, ProcessContext, plan_process};
use crate::stage::Step;
use crate::stage::fault;
use crate::stage::parent::{self, Fds};
use crate::stage::proto::{ExecStageRequest, FdKind, Message, unexpected};
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

/// A process that runs in a container: a child of ours, reaped through its pidfd (see [`crate::kernel::reap`]).
#[derive(Debug)]
pub struct Exec {
    /// Its pid in the host's pid namespace.
    pub pid: u32,
    /// Readable when it has exited.
    pub pidfd: OwnedFd,
    /// Master of its terminal, if one was asked.
    pub console: Option<OwnedFd>,
    /// Downgrades.
    pub warnings: Vec<Warning>,
}

impl Exec {
    /// Kills and collects the process: for a caller that cannot keep it. One that nobody collects keeps the container's init
    /// from ending (pid_namespaces(7)).
    pub fn abandon(self) -> Result<()> {
        match send_signal(&self.pidfd, libc::SIGKILL) {
            Ok(()) | Err(Error::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        reap_blocking(&self.pidfd).map(drop)
    }
}

impl Container {
    /// Runs a process in the container (created or running). Returns when exec has succeeded or
    /// failed.
    pub fn exec(&self, request: ExecRequest) -> Result<Exec> {
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
        warnings.extend(limits::settle(&mut process, false)?);
        let terminal = if process.terminal {
            Some(self.terminal(&process)?)
        } else {
            None
        };
        let leaf = self.cgroup.open_leaf()?;
        let stdio = request.stdio;
        let (channel, mut children) = steps.here(Step::Spawn, || {
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
            parent::spawn(stage::EXEC, &request, &fds.fds)
        })?;
        drop(stdio);
        let pid = match parent::next(&channel, &mut children)? {
            (Message::Spawned { pid }, _) => pid,
            (other, _) => return Err(unexpected(&format!("{other:?} from the stage"))),
        };
        warnings.extend(steps.here(Step::Limits, || Ok(limits::set_oom_score(pid, &process)))?);
        channel.send(&Message::Start)?;
        parent::executed(&channel, &mut children)?;
        let pidfd = children.release(pid)?;
        children.finish()?;
        steps.log("exec");
        let console = terminal.map(|(master, _)| master);
        Ok(Exec {
            pid: pid.unsigned_abs(),
            pidfd,
            console,
            warnings,
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
