//! A process of a container: its first one, or an exec'd one. Its state, its exit, its streams.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oci_spec::runtime as oci;
use runtime_core::send_signal;
use tokio::sync::{Notify, watch};

use crate::error::{Error, Result};
use crate::lifecycle::{State, Verb};
use crate::reap::Exit;
use crate::stdio::{Io, Streams};

/// Signals that end a process on its way into the container, where no program of the user's handles them: SIGHUP, SIGINT,
/// SIGQUIT, SIGKILL, SIGTERM.
const ENDS: [i32; 5] = [1, 2, 3, 9, 15];

/// A process.
#[derive(Debug)]
pub(crate) struct Process {
    /// Container id, or exec id.
    pub(crate) id: String,
    /// Streams as the client named them.
    pub(crate) streams: Streams,
    /// Held by whoever changes the process's life: start, pause, resume, update, delete. A tokio lock: these wait.
    pub(crate) verbs: Arc<tokio::sync::Mutex<()>>,
    /// Held for a few instructions.
    inner: Mutex<Inner>,
    exit: watch::Sender<Option<Exit>>,
    /// Told when it is killed on its way into the container.
    start_killed: Notify,
}

#[derive(Debug)]
struct Inner {
    state: State,
    pid: u32,
    /// Of a running exec'd process.
    pidfd: Option<OwnedFd>,
    io: Option<Arc<Io>>,
    /// Whether the client has said that no more input comes: it may say so before a start is done.
    stdin_closed: bool,
    /// Whether it is on its way into the container.
    starting: bool,
    /// What to run, until it is run.
    spec: Option<oci::Process>,
}

impl Process {
    /// A created container's first process.
    pub(crate) fn init(id: &str, streams: Streams, pid: u32, io: Io) -> Process {
        Process::new(id, streams, pid, Some(io), None)
    }

    /// An exec'd process that has not been started.
    pub(crate) fn exec(id: &str, streams: Streams, spec: oci::Process) -> Process {
        Process::new(id, streams, 0, None, Some(spec))
    }

    fn new(
        id: &str,
        streams: Streams,
        pid: u32,
        io: Option<Io>,
        spec: Option<oci::Process>,
    ) -> Process {
        Process {
            id: id.into(),
            streams,
            verbs: Arc::default(),
            inner: Mutex::new(Inner {
                state: State::Created,
                pid,
                pidfd: None,
                io: io.map(Arc::new),
                stdin_closed: false,
                starting: false,
                spec,
            }),
            exit: watch::Sender::new(None),
            start_killed: Notify::new(),
        }
    }

    /// Whether `verb` may be done now.
    pub(crate) fn check(&self, verb: Verb) -> Result<()> {
        self.lock().state.check(verb)
    }

    /// State.
    pub(crate) fn state(&self) -> State {
        self.lock().state
    }

    /// Host pid, 0 before the start.
    pub(crate) fn pid(&self) -> u32 {
        self.lock().pid
    }

    /// Streams, if they were opened.
    pub(crate) fn io(&self) -> Option<Arc<Io>> {
        self.lock().io.clone()
    }

    /// The streams of an exec'd process are open, all but its input.
    pub(crate) fn opened(&self, io: Arc<Io>) {
        self.lock().io = Some(io);
    }

    /// Opens its input; from here on the client writes, and may be at its end at once.
    pub(crate) fn start_input(&self) -> Result<()> {
        let inner = self.lock();
        match &inner.io {
            Some(io) => io.start_input(inner.stdin_closed),
            None => Ok(()),
        }
    }

    /// No more input comes from the client.
    pub(crate) fn close_stdin(&self) {
        let mut inner = self.lock();
        inner.stdin_closed = true;
        if let Some(io) = &inner.io {
            io.close_stdin();
        }
    }

    /// What to run; once.
    pub(crate) fn take_spec(&self) -> Option<oci::Process> {
        self.lock().spec.take()
    }

    /// Moves from one state to another; a process that has exited meanwhile stays so.
    pub(crate) fn change(&self, from: State, to: State) {
        let mut inner = self.lock();
        if inner.state == from {
            inner.state = to;
        }
    }

    /// An exec'd process is on its way into the container, or not any more.
    pub(crate) fn starting(&self, starting: bool) {
        self.lock().starting = starting;
    }

    /// Waits until it is killed on that way.
    pub(crate) async fn start_killed(&self) {
        self.start_killed.notified().await;
    }

    /// An exec'd process has been started.
    pub(crate) fn started(&self, pid: u32, pidfd: OwnedFd) {
        let mut inner = self.lock();
        inner.state = State::Running;
        inner.pid = pid;
        inner.pidfd = Some(pidfd);
    }

    /// An exec'd process could not be started: it can be deleted, and whoever waits for it need not wait longer.
    pub(crate) fn failed(&self, exit: Exit) {
        self.lock().io = None;
        self.exit.send_replace(Some(exit));
    }

    /// The process has exited.
    pub(crate) fn exited(&self, exit: Exit) {
        let io = {
            let mut inner = self.lock();
            inner.state = State::Stopped;
            inner.pidfd = None;
            inner.io.clone()
        };
        if let Some(io) = io {
            io.process_exited();
        }
        self.exit.send_replace(Some(exit));
    }

    /// The process is gone from the API.
    pub(crate) fn deleted(&self) {
        let mut inner = self.lock();
        inner.state = State::Deleted;
        inner.io = None;
    }

    /// How it ended, if it has.
    pub(crate) fn exit(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    /// Waits for the end.
    pub(crate) async fn wait(&self) -> Exit {
        let mut exit = self.exit.subscribe();
        match exit.wait_for(Option::is_some).await.map(|exit| *exit) {
            Ok(Some(exit)) => exit,
            // The sender is `self`, which is borrowed here.
            _ => std::future::pending().await,
        }
    }

    /// Sends a signal to an exec'd process.
    pub(crate) fn kill(&self, signal: i32) -> Result<()> {
        let inner = self.lock();
        match (&inner.pidfd, inner.state) {
            (Some(pidfd), _) => Ok(send_signal(pidfd, signal)?),
            (None, State::Created) if inner.starting && ENDS.contains(&signal) => {
                self.start_killed.notify_one();
                Ok(())
            }
            (None, State::Created) => Err(Error::FailedPrecondition("process not created".into())),
            (None, _) => Err(Error::NotFound("process already finished".into())),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reap::UNKNOWN;

    fn exec() -> Process {
        Process::exec("e1", Streams::default(), oci::Process::default())
    }

    #[tokio::test]
    async fn whoever_waits_hears_of_a_failed_start_and_it_can_be_deleted() {
        let process = Arc::new(exec());
        let waiting = tokio::spawn({
            let process = process.clone();
            async move { process.wait().await }
        });
        tokio::task::yield_now().await;
        let exit = Exit {
            status: UNKNOWN,
            at: None,
        };
        process.failed(exit);
        assert_eq!(waiting.await.unwrap(), exit);
        assert_eq!(process.state(), State::Created);
        process.check(Verb::Delete).unwrap();
    }

    #[test]
    fn a_late_change_does_not_raise_the_dead() {
        let process = exec();
        process.exited(Exit {
            status: 0,
            at: None,
        });
        process.change(State::Running, State::Paused);
        assert_eq!(process.state(), State::Stopped);
    }

    #[tokio::test]
    async fn a_signal_ends_a_start() {
        let process = exec();
        process.starting(true);
        assert!(process.kill(10).is_err(), "nobody is there to handle it");
        process.kill(9).unwrap();
        process.start_killed().await;
        process.starting(false);
        assert!(process.kill(9).is_err());
    }

    #[test]
    fn a_signal_needs_a_process() {
        let process = exec();
        assert_eq!(
            process.kill(15).unwrap_err().code(),
            ttrpc::Code::FAILED_PRECONDITION
        );
        process.exited(Exit {
            status: 0,
            at: None,
        });
        assert_eq!(process.kill(15).unwrap_err().code(), ttrpc::Code::NOT_FOUND);
    }
}
