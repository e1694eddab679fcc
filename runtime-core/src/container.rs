//! A container: what `create` made, and the verbs on it.
//!
//! Synchronous: the shim calls it from its blocking threads. All verbs take `&self` and may be called from several
//! threads at once.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oci_spec::runtime as oci;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::cgroup::limits::Limits;
use crate::cgroup::stats::Stats;
use crate::cgroup::{Cgroup, Hierarchy};
use crate::data_roots::{self, DataRoot};
use crate::error::{Error, OsContext, Result, Warning};
use crate::hooks::{self, HookState, Status};
use crate::idmap::IdMap;
use crate::kmsg::Kmsg;
use crate::mounted::{self, Mounted, Taken};
use crate::plan::{
    Hooks, NsSource, Plan, PlanInput, Process, ProcessContext, SeccompProgram, plan_process,
};
use crate::pod::{Membership, Pod};
use crate::proto::{Channel, ExecStageRequest, FdKind, InitRequest, Message, take_fd, unexpected};
use crate::reap::{reap_blocking, send_signal};
use crate::record::Record;
use crate::rootfs::{self, RootfsSource};
use crate::stage::{self, Steps};
use crate::stage_process::{self, Children, Fds};
use crate::step::Step;
use crate::{fault, limits, ranges};

/// A mount of `CreateTaskRequest.rootfs`.
#[derive(Debug, Clone)]
pub struct RootfsMount {
    /// File-system type (`overlay`, `bind`).
    pub fs_type: String,
    /// Source path or name.
    pub source: String,
    /// Path below the root file system, mostly empty.
    pub target: String,
    /// Mount options as containerd spells them (`lowerdir=…`).
    pub options: Vec<String>,
}

/// The process's ends of its standard streams; `None` is /dev/null. Ignored where a terminal is asked.
#[derive(Debug, Default)]
pub struct Stdio {
    /// Standard input.
    pub stdin: Option<OwnedFd>,
    /// Standard output.
    pub stdout: Option<OwnedFd>,
    /// Standard error.
    pub stderr: Option<OwnedFd>,
}

/// What `create` needs.
#[derive(Debug)]
pub struct CreateRequest {
    /// Container id.
    pub id: String,
    /// containerd namespace.
    pub namespace: String,
    /// Absolute path of the bundle; holds config.json.
    pub bundle: PathBuf,
    /// config.json, parsed.
    pub spec: oci::Spec,
    /// Mounts for the root file system; empty: `root.path` as it is.
    pub rootfs: Vec<RootfsMount>,
    /// Standard streams of init.
    pub stdio: Stdio,
    /// Overrides `process.terminal` (CreateTaskRequest.terminal).
    pub terminal: bool,
}

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
    /// Master of its terminal, if one was asked.
    pub console: Option<OwnedFd>,
    /// Downgrades.
    pub warnings: Vec<Warning>,
}

/// A created container.
#[derive(Debug)]
pub struct Container {
    membership: Membership,
    bundle: PathBuf,
    process: ProcessFacts,
    hooks: Hooks,
    cgroup: Cgroup,
    pid: i32,
    pidfd: OwnedFd,
    devpts: OwnedFd,
    idmap: IdMap,
    console: Mutex<Option<OwnedFd>>,
    gate: Mutex<Option<Gate>>,
    warnings: Vec<Warning>,
    record: Record,
    /// The root file system, if the engine had mounted it.
    taken: Option<Taken>,
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
    honor_caps: bool,
    seccomp: Option<SeccompProgram>,
}

impl Container {
    /// Makes the container; its init waits for [`Container::start`].
    pub fn create(pod: &Arc<Pod>, request: CreateRequest) -> Result<Container> {
        let steps = Steps::new(fault::step(pod.config()));
        let bundle = request.bundle.clone();
        let created = Container::build(pod, request, steps);
        if created.is_err() {
            // All else has undone itself; without a record nothing is left for `delete`.
            Record::remove(&bundle)?;
        }
        created
    }

    fn build(pod: &Arc<Pod>, request: CreateRequest, steps: Steps) -> Result<Container> {
        let CreateRequest {
            id,
            namespace,
            bundle,
            spec,
            rootfs,
            stdio,
            terminal,
        } = request;
        let (config, plan, rootfs, mounted) = steps.here(Step::Plan, || {
            let annotations = spec.annotations().iter().flatten();
            let config = pod
                .config()
                .with_annotations(annotations.map(|(name, value)| (&**name, &**value)))?;
            let filters = Path::new(&pod.config().state_dir).join("seccomp");
            let plan = Plan::new(PlanInput {
                spec: &spec,
                bundle: &bundle,
                id: &id,
                namespace: &namespace,
                config: &config,
                terminal: Some(terminal),
                last_cap: last_cap()?,
                seccomp_cache: Some(&filters),
            })?;
            let path = Path::new(&plan.rootfs.path);
            let mounted = if rootfs.is_empty() {
                Mounted::find(path)?
            } else {
                None
            };
            let rootfs = match &mounted {
                Some(mounted) => RootfsSource::Overlay(mounted.ours()),
                None => rootfs::parse(&rootfs, path)?,
            };
            Ok((config, plan, rootfs, mounted))
        })?;
        let upper = match &rootfs {
            RootfsSource::Overlay(overlay) => {
                overlay.upper.as_ref().map(|(upper, _)| upper.clone())
            }
            _ => None,
        };
        // Before anything is made that `delete` would have to find.
        let mut record = Record {
            id: id.clone(),
            cgroup: plan.cgroup_path.clone(),
            state_dir: PathBuf::from(&pod.config().state_dir),
            data_roots: match &upper {
                Some(upper) => data_roots::captured(upper)?,
                None => Vec::new(),
            },
            upper,
            mounted: mounted.clone(),
            poststop: plan.hooks.poststop.clone(),
            annotations: plan.annotations.clone(),
        };
        steps.here(Step::Record, || {
            in_use(&plan.cgroup_path)?;
            record.write(&bundle)
        })?;
        let (identity, membership) =
            steps.here(Step::Range, || pod.join(&plan, &id, &config.ids))?;
        rootfs.check_mappings(&identity.idmap)?;
        let owner = identity
            .idmap
            .host_uid(0)
            .zip(identity.idmap.host_gid(0))
            .ok_or_else(|| {
                Error::invalid(
                    "linux.uidMappings",
                    "no mapping of id 0",
                    "map user and group 0",
                )
            })?;
        let mut warnings = plan.warnings.clone();
        let cgroup = steps.here(Step::Cgroup, || {
            let cgroup = Cgroup::create(
                &Hierarchy::find()?,
                &plan.cgroup_path,
                owner,
                &config.cgroup,
            )?;
            warnings.extend(cgroup.apply(&plan.limits)?);
            Ok(cgroup)
        })?;
        let kmsg = steps.here(Step::Fuse, || Ok(start_kmsg(pod, &mut warnings)))?;
        let taken = steps.here(Step::TakeRootfs, || {
            let point = bundle.join("rootfs");
            mounted
                .map(|mounted| Taken::new(mounted, point))
                .transpose()
        })?;
        let mut layer = Layer {
            upper: record.upper.clone(),
            roots: record.data_roots.clone(),
            kept: false,
        };
        record
            .upper
            .as_deref()
            .map_or(Ok(()), data_roots::restore)?;

        let hooks = plan.hooks.clone();
        let process = ProcessFacts {
            honor_caps: plan.honor_caps,
            seccomp: plan.process.seccomp.clone(),
        };
        let (channel, mut children) = steps.here(Step::Spawn, || {
            let (dir, leaf) = (cgroup.open_dir()?, cgroup.open_leaf()?);
            let kmsg = kmsg.as_ref().map(|kmsg| kmsg.mount());
            let mut fds = Fds::default();
            fds.add(FdKind::Cgroup, Some(&dir));
            fds.add(FdKind::Leaf, Some(&leaf));
            fds.add(FdKind::Stdin, stdio.stdin.as_ref());
            fds.add(FdKind::Stdout, stdio.stdout.as_ref());
            fds.add(FdKind::Stderr, stdio.stderr.as_ref());
            fds.add(FdKind::Kmsg, kmsg.as_ref());
            fds.add(FdKind::Userns, identity.join.as_ref());
            let mut plan = plan.clone();
            if let Some(host) = &identity.host_network {
                fds.add(FdKind::Network, Some(&host.ns));
                plan.namespaces.net = NsSource::New;
            }
            let request = InitRequest {
                id: id.clone(),
                plan,
                idmap: identity.join.is_none().then(|| identity.idmap.clone()),
                rootfs,
                view: taken.is_some(),
                bundle: bundle.to_string_lossy().into_owned(),
                unmappable_mount: config.unmappable_mount,
                fail_at: steps.fail_at(),
                fds: fds.kinds,
            };
            stage_process::spawn(stage::INIT, &request, &fds.fds)
        })?;
        drop(stdio);

        let made = loop {
            match stage_process::news(&channel, &mut children)? {
                (
                    Message::Created {
                        pid,
                        idmap,
                        warnings,
                        fds: kinds,
                    },
                    fds,
                ) => {
                    break Made {
                        pid,
                        idmap,
                        warnings,
                        kinds,
                        fds: fds.into_iter().map(Some).collect(),
                    };
                }
                (Message::DataRoots(roots), _) => layer.roots = roots,
                (other, _) => return Err(unexpected(&format!("{other:?} from the stage"))),
            }
        };
        let Made {
            pid,
            idmap,
            warnings: more,
            kinds,
            mut fds,
        } = made;
        warnings.extend(more);
        record.data_roots.clone_from(&layer.roots);
        steps.here(Step::Record, || record.write(&bundle))?;
        warnings.extend(steps.here(Step::Limits, || limits::apply(pid, &plan.process))?);
        steps.here(Step::Network, || {
            let new = take_fd(&kinds, &mut fds, FdKind::Network);
            match (&identity.host_network, new) {
                (Some(host), Some(new)) => host.replace_by(&new),
                (None, None) => Ok(()),
                _ => Err(unexpected("a network that nobody wants, or none")),
            }
        })?;
        steps.here(Step::View, || {
            let mut take = |kind| take_fd(&kinds, &mut fds, kind);
            match (&taken, take(FdKind::Rootfs).zip(take(FdKind::Overlay))) {
                (Some(taken), Some(mounts)) => taken.show(mounts, &idmap),
                (None, None) => Ok(()),
                _ => Err(unexpected("a view that nobody wants, or none")),
            }
        })?;
        steps.here(Step::Hooks, || {
            let state = state(&record, Status::Creating, Some(pid), &bundle);
            hooks::run("prestart", &hooks.prestart, &state, &bundle)?;
            hooks::run("createRuntime", &hooks.create_runtime, &state, &bundle)?;
            if hooks.prestart.is_empty() && hooks.create_runtime.is_empty() {
                Ok(())
            } else {
                channel.send(&Message::Go)
            }
        })?;
        match stage_process::news(&channel, &mut children)? {
            (Message::Ready, _) => {}
            (other, _) => return Err(unexpected(&format!("{other:?} from init"))),
        }
        taken.as_ref().map_or(Ok(()), Taken::anchor)?;
        let mut take = |kind| take_fd(&kinds, &mut fds, kind);
        let missing = || unexpected("a descriptor is missing");
        pod.made(&take(FdKind::Userns).ok_or_else(missing)?, &idmap)?;
        let (devpts, console) = (
            take(FdKind::Devpts).ok_or_else(missing)?,
            take(FdKind::Console),
        );
        let pidfd = children.release(pid)?;
        layer.kept = true;
        Ok(Container {
            membership,
            bundle,
            process,
            hooks,
            cgroup,
            pid,
            pidfd,
            devpts,
            idmap,
            console: Mutex::new(console),
            gate: Mutex::new(Some(Gate {
                channel,
                makers: children,
            })),
            warnings,
            record,
            taken,
        })
    }

    /// Undoes create: for a caller that cannot keep the container, and whose init has not been reaped.
    pub fn abandon(self) -> Result<()> {
        let gate = lock(&self.gate).take();
        self.cgroup.kill()?;
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
        let Some(gate) = lock(&self.gate).take() else {
            return Err(Error::WrongState {
                verb: "start",
                state: "the container has been started".into(),
            });
        };
        gate.channel.send(&Message::Start)?;
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

    /// Runs a process in the container (created or running). Returns when exec has succeeded or
    /// failed.
    pub fn exec(&self, request: ExecRequest) -> Result<Exec> {
        let steps = Steps::new(fault::step(self.membership.pod().config()));
        let context = ProcessContext {
            terminal: Some(request.terminal),
            last_cap: last_cap()?,
            honor_caps: self.process.honor_caps,
            ids: None,
            idmap: Some(&self.idmap),
            seccomp: self.process.seccomp.as_ref(),
        };
        let (process, mut warnings) =
            steps.here(Step::Plan, || plan_process(&request.process, context))?;
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
                process: process.clone(),
                idmap: self.idmap.clone(),
                fail_at: steps.fail_at(),
                fds: fds.kinds,
            };
            stage_process::spawn(stage::EXEC, &request, &fds.fds)
        })?;
        drop(stdio);
        let pid = match stage_process::next(&channel, &mut children)? {
            (Message::Spawned { pid }, _) => pid,
            (other, _) => return Err(unexpected(&format!("{other:?} from the stage"))),
        };
        warnings.extend(steps.here(Step::Limits, || limits::apply(pid, &process))?);
        channel.send(&Message::Start)?;
        stage_process::executed(&channel, &mut children)?;
        let pidfd = children.release(pid)?;
        children.finish()?;
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

    /// Sends a signal to init. [`crate::Error::NotFound`] when it has exited.
    pub fn kill(&self, signal: i32) -> Result<()> {
        send_signal(&self.pidfd, signal)
    }

    /// Sends a signal to every process of the container.
    pub fn kill_all(&self, signal: i32) -> Result<()> {
        if signal == libc::SIGKILL {
            return self.cgroup.kill();
        }
        for pid in self.cgroup.pids()? {
            let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
                continue;
            };
            let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else {
                continue;
            };
            // Still one of the container's, so the number has not gone to somebody else.
            if self
                .cgroup
                .pids()?
                .contains(&pid.as_raw_nonzero().get().unsigned_abs())
            {
                match send_signal(&pidfd, signal) {
                    Ok(()) | Err(Error::NotFound(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
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
        match &self.record.upper {
            Some(upper) => data_roots::capture(upper, &self.record.data_roots),
            None => Ok(()),
        }
    }

    /// Changes limits (`linux.resources`); returns what was not done.
    pub fn update(&self, resources: &oci::LinuxResources) -> Result<Vec<Warning>> {
        let (limits, mut warnings) = Limits::new(Some(resources))?;
        warnings.extend(self.cgroup.apply(&limits)?);
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
        self.cgroup.kill()?;
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
        let killed = steps.here(Step::Kill, || self.cgroup.kill());
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
        Ok(warnings)
    }
}

/// Undoes what a dead shim left of the container whose bundle this is. Nothing to undo is success.
pub fn cleanup(bundle: &Path) -> Result<Vec<Warning>> {
    let Some(record) = Record::read(bundle)? else {
        return Ok(Vec::new());
    };
    match Cgroup::open(&Hierarchy::find()?, &record.cgroup) {
        Ok(cgroup) => {
            cgroup.kill()?;
            cgroup.remove()?;
        }
        Err(Error::NotFound(_)) => {}
        Err(error) => return Err(error),
    }
    if let Some(mounted) = &record.mounted {
        mounted::cleanup(mounted, &bundle.join("rootfs"))?;
    }
    if let Some(upper) = &record.upper {
        data_roots::capture(upper, &record.data_roots)?;
    }
    ranges::reclaim_of(&record.state_dir, &record.cgroup)?;
    let warnings = poststop(&record, bundle);
    Record::remove(bundle)?;
    Ok(warnings)
}

/// What the stage has told of the container.
struct Made {
    pid: i32,
    idmap: IdMap,
    warnings: Vec<Warning>,
    kinds: Vec<FdKind>,
    fds: Vec<Option<OwnedFd>>,
}

/// The writable layer during create: unless kept, inner data go back into it and empty mount points out of it.
struct Layer {
    upper: Option<PathBuf>,
    roots: Vec<DataRoot>,
    kept: bool,
}

impl Drop for Layer {
    fn drop(&mut self) {
        if let (Some(upper), false) = (&self.upper, self.kept)
            && let Err(error) = data_roots::capture(upper, &self.roots)
        {
            tracing::warn!(layer = %upper.display(), error = error.chain(), "left inner data beside the layer");
        }
    }
}

/// Refuses a cgroup in which somebody lives: `delete` must not find it in a record of ours.
fn in_use(cgroup: &str) -> Result<()> {
    match Cgroup::open(&Hierarchy::find()?, cgroup) {
        Ok(found) if found.populated()? => Err(Error::AlreadyExists(format!("cgroup {cgroup}"))),
        Ok(_) | Err(Error::NotFound(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The pod's kmsg file; without FUSE there is none, and a warning.
fn start_kmsg(pod: &Pod, warnings: &mut Vec<Warning>) -> Option<Arc<Kmsg>> {
    match pod.kmsg() {
        Ok(kmsg) => Some(kmsg),
        Err(error) => {
            let text = format!("not there: {}; load the fuse module", error.chain());
            warnings.push(Warning::new("/dev/kmsg", text));
            None
        }
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
