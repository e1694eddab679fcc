//! A container: what `create` made, and the verbs on it.
//!
//! Synchronous: the shim calls it from its blocking threads. All verbs take `&self` and may be called from several
//! threads at once.

mod cleanup;
mod create;
mod exec;
mod host_view;
mod hung;
mod kmsg;
mod limits;
mod record;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oci_spec::runtime as oci;

pub use self::cleanup::cleanup;
pub use self::create::{CreateRequest, Stdio};
pub use self::exec::{Exec, ExecRequest, Starting};
use crate::cgroup::Cgroup;
use crate::cgroup::limits::Limits;
use crate::cgroup::stats::Stats;
use crate::config::Barred;
use crate::container::hung::{Victim, Watchdog};
use crate::container::kmsg::Drain;
use crate::container::record::Record;
use crate::error::{Error, OsContext, Result, Warning};
use crate::kernel::idmap::IdMap;
use crate::kernel::reap::{reap_blocking, send_signal};
use crate::plan::{CapabilityRule, Hooks};
use crate::pod::{Membership, Pod};
use crate::rootfs::data_roots;
use crate::rootfs::mounted::Taken;
use crate::seccomp::SeccompProgram;
use crate::stage::Step;
use crate::stage::Steps;
use crate::stage::fault;
use crate::stage::hooks::{self, HookState, Status};
use crate::stage::parent::Children;
use crate::stage::proto::{Channel, Message, unexpected};

/// A created container.
#[derive(Debug)]
pub struct Container {
    membership: Membership,
    bundle: PathBuf,
    process: ProcessFacts,
    hooks: Hooks,
    cgroup: Cgroup,
    /// Whether it may open /dev/fuse.
    fuse: bool,
    pid: i32,
    pidfd: OwnedFd,
    devpts: OwnedFd,
    idmap: IdMap,
    console: Mutex<Option<OwnedFd>>,
    _kmsg: Option<Drain>,
    gate: Mutex<Option<Gate>>,
    warnings: Vec<Warning>,
    record: Record,
    /// The root file system, if the engine had mounted it.
    taken: Option<Taken>,
    capture: Capture,
}

/// Inner data becoming part of the layer, which a kill does not wait for.
#[derive(Debug, Default)]
struct Capture {
    running: AtomicBool,
    /// A kill has come meanwhile.
    cancelled: AtomicBool,
}

impl Capture {
    fn hear(&self, signal: i32) {
        if signal == libc::SIGKILL && self.running.load(Ordering::Relaxed) {
            self.cancelled.store(true, Ordering::Relaxed);
        }
    }
}

/// What ends at start.
#[derive(Debug)]
struct Gate {
    /// Init waits at the other end, and dies if this one closes before `start`.
    channel: Channel,
    /// Makers that are exiting. The end of the stage's mount namespace waits for grace periods of RCU, so nobody waits
    /// for the stage before init runs.
    makers: Children,
}

/// What exec'd processes take from the container.
#[derive(Debug)]
struct ProcessFacts {
    capability_rule: CapabilityRule,
    unbarred: Vec<Barred>,
    seccomp: Option<SeccompProgram>,
}

impl Container {
    /// Makes the container; its init waits for [`Container::start`].
    pub fn create(pod: &Arc<Pod>, request: CreateRequest) -> Result<Container> {
        let steps = Steps::new(fault::step(pod.config()));
        let bundle = request.bundle.clone();
        let created = create::build(pod, request, &steps);
        if created.is_err() {
            // All else has undone itself; without a record nothing is left for `delete`.
            Record::remove(&bundle)?;
        }
        steps.log("create");
        created
    }

    /// Undoes create: for a caller that cannot keep the container, and whose init has not been reaped.
    pub fn abandon(self) -> Result<()> {
        let gate = lock(&self.gate).take();
        self.kill_processes()?;
        drop(gate);
        reap_blocking(&self.pidfd)?;
        self.delete().map(drop)
    }

    /// Host pid of init.
    pub fn pid(&self) -> u32 {
        self.pid.unsigned_abs()
    }

    /// pidfd of init: readable when it has exited.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Master of init's terminal; `Some` once.
    pub fn take_console(&self) -> Option<OwnedFd> {
        lock(&self.console).take()
    }

    /// Downgrades that `create` made, for the log.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Runs the user's program in init. Returns when exec has succeeded or failed; poststart hooks
    /// have run then, and what one of them failed of comes as a warning.
    pub fn start(&self) -> Result<Vec<Warning>> {
        let Some(mut gate) = lock(&self.gate).take() else {
            return Err(Error::WrongState {
                verb: "start",
                state: "the container has been started".into(),
            });
        };
        gate.makers.tell(&Message::Start)?;
        match gate.channel.recv::<Message>()? {
            None => {}
            Some((Message::Failed(failure), _)) => return Err(Error::Stage(failure)),
            Some((other, _)) => return Err(unexpected(&format!("{other:?} from init"))),
        }
        gate.makers.finish()?;
        let state = state(&self.record, Status::Running, Some(self.pid), &self.bundle);
        Ok(hooks::run_all(
            "poststart",
            &self.hooks.poststart,
            &state,
            &self.bundle,
        ))
    }

    /// Sends a signal to init. [`crate::Error::NotFound`] when it has exited.
    pub fn kill(&self, signal: i32) -> Result<()> {
        self.capture.hear(signal);
        send_signal(&self.pidfd, signal)
    }

    /// Kills every process of the container, also one that does not die by itself ([`hung`]).
    fn kill_processes(&self) -> Result<()> {
        if !self.cgroup.populated()? {
            return Ok(());
        }
        let _watchdog = Watchdog::start(Victim {
            cgroup: self.record.cgroup.clone(),
            ids: self.idmap.clone(),
            features: self.record.features.clone(),
        });
        self.cgroup.kill()
    }

    /// Sends a signal to every process of the container.
    pub fn kill_all(&self, signal: i32) -> Result<()> {
        self.capture.hear(signal);
        if signal == libc::SIGKILL {
            return self.kill_processes();
        }
        self.cgroup
            .signal(|pidfd| match send_signal(pidfd, signal) {
                Err(Error::NotFound(_)) => Ok(()),
                other => other,
            })
    }

    /// Freezes the container and makes inner data part of the layer.
    pub fn pause(&self) -> Result<()> {
        self.cgroup.freeze()?;
        self.capture().inspect_err(|_| {
            // The error to report is why there was no capture.
            let _ = self.resume();
        })
    }

    /// Undoes [`Container::pause`].
    pub fn resume(&self) -> Result<()> {
        if let Some(upper) = &self.record.upper {
            data_roots::restore(upper)?;
        }
        self.cgroup.thaw()
    }

    fn capture(&self) -> Result<()> {
        let Some(upper) = &self.record.upper else {
            return Ok(());
        };
        let Capture { running, cancelled } = &self.capture;
        running.store(true, Ordering::Relaxed);
        let captured = data_roots::capture(upper, &self.record.data_roots, cancelled);
        running.store(false, Ordering::Relaxed);
        captured
    }

    /// Changes limits (`linux.resources`); returns what was not done.
    pub fn update(&self, resources: &oci::LinuxResources) -> Result<Vec<Warning>> {
        let (limits, mut warnings) = Limits::new(Some(resources), self.fuse)?;
        let devices = resources.devices().is_some();
        warnings.extend(self.cgroup.update(&limits, devices)?);
        Ok(warnings)
    }

    /// Counters of the container's cgroup; works until delete, also after init's exit.
    pub fn stats(&self) -> Result<Stats> {
        self.cgroup.stats()
    }

    /// Host pids of all processes of the container.
    pub fn pids(&self) -> Result<Vec<u32>> {
        self.cgroup.pids()
    }

    /// Path of the container's cgroup directory on the host (for watching `memory.events`).
    pub fn cgroup_dir(&self) -> PathBuf {
        self.cgroup.dir().to_path_buf()
    }

    /// To be called once init has been reaped, before its exit is published: kills what is left of
    /// the container and makes inner data part of the layer, so that commit and diff capture it.
    pub fn stopped(&self) -> Result<()> {
        self.kill_processes()?;
        let given_back = self.give_back();
        self.capture()?;
        given_back
    }

    fn give_back(&self) -> Result<()> {
        self.taken.as_ref().map_or(Ok(()), Taken::give_back)
    }

    /// Removes all that is left: cgroup, id range, record; runs poststop hooks, whose failures come
    /// as warnings. Kills first if it still runs. Goes on past a failing step and returns the first
    /// error.
    pub fn delete(&self) -> Result<Vec<Warning>> {
        let steps = Steps::new(fault::step(self.membership.pod().config()));
        let gate = lock(&self.gate).take();
        let killed = steps.here(Step::Kill, || self.kill_processes());
        // Only now: it waits for init, which may be frozen.
        drop(gate);
        let results = [
            killed,
            steps.here(Step::GiveBackRootfs, || self.give_back()),
            steps.here(Step::Capture, || self.capture()),
            steps.here(Step::RemoveCgroup, || self.cgroup.remove()),
            steps.here(Step::ReleaseRange, || self.membership.leave()),
        ];
        let warnings = poststop(&self.record, &self.bundle);
        results.into_iter().collect::<Result<()>>()?;
        Record::remove(&self.bundle)?;
        steps.log("delete");
        Ok(warnings)
    }
}

fn poststop(record: &Record, bundle: &Path) -> Vec<Warning> {
    hooks::run_all(
        "poststop",
        &record.poststop,
        &state(record, Status::Stopped, None, bundle),
        bundle,
    )
}

fn state(record: &Record, status: Status, pid: Option<i32>, bundle: &Path) -> HookState {
    HookState::new(
        &record.id,
        status,
        pid.map(i32::unsigned_abs),
        bundle,
        &record.annotations,
    )
}

/// The kernel's last capability.
fn last_cap() -> Result<u8> {
    const PATH: &str = "/proc/sys/kernel/cap_last_cap";
    let text = std::fs::read_to_string(PATH).os("read", PATH)?;
    text.trim()
        .parse()
        .map_err(std::io::Error::other)
        .os("parse", PATH)
}

/// A lock that a panic elsewhere does not spoil: what it guards is replaced as a whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
