//! `create`: the pipeline that makes a container, one named step after the other.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oci_spec::runtime as oci;

use super::host_view;
use super::kmsg::Drain;
use super::limits;
use super::{Capture, Container, Gate, ProcessFacts, last_cap, state};
use crate::cgroup::scope::{Scope, StandIn};
use crate::cgroup::{Cgroup, Hierarchy};
use crate::config::Config;
use crate::container::record::Record;
use crate::error::{Error, OsContext, Result, Warning};
use crate::kernel::features::Features;
use crate::kernel::idmap::IdMap;
use crate::plan::{NsSource, Plan, PlanInput};
use crate::pod::{Identity, Membership, Pod};
use crate::rootfs::data_roots::{self, DataRoot};
use crate::rootfs::mounted::{Mounted, Taken};
use crate::rootfs::{self, RootfsMount, RootfsSource};
use crate::stage::Step;
use crate::stage::hooks::{self, HookState, Status};
use crate::stage::parent::{self, Children, Fds};
use crate::stage::proto::{Channel, FdKind, InitRequest, Message, take_fd, unexpected};
use crate::stage::{self, Steps};
use crate::systemd::systemd_booted;

/// An annotation that containerd's CRI plugin sets. Nobody makes images of its containers, and they run once: their data
/// stay beside the layer, and no stop waits until they are part of it.
const CRI: &str = "io.kubernetes.cri.container-type";

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

/// How long the stage may take to build the mounts: what an image ships in a data root is copied meanwhile.
const BUILD_PATIENCE: Duration = Duration::from_secs(600);
/// How long init may take from there until it waits for its start: it looks at volumes, which others may hold.
const READY_PATIENCE: Duration = Duration::from_secs(60);

/// The pipeline: each phase hands the next what it made, and that undoes itself when dropped, the last first.
pub(super) fn build(pod: &Arc<Pod>, request: CreateRequest, steps: &Steps) -> Result<Container> {
    let (asked, stdio) = steps.here(Step::Plan, || Asked::new(pod, request))?;
    // It comes up while we make what it is to be told.
    let idle = steps.here(Step::Spawn, || parent::spawn(stage::INIT))?;
    let mut record = steps.here(Step::Record, || asked.record())?;
    let mut place = Place::make(pod, &asked, steps)?;
    let mut layer = Layer::take(&asked, &record, steps)?;
    let mut stage = Stage::start(idle, &asked, &place, &layer, stdio, steps)?;
    let mut made = stage.made(&mut layer, steps)?;
    record.data_roots.clone_from(&layer.roots);
    record.ids = Some(made.idmap.clone());
    steps.here(Step::Record, || record.write(&asked.bundle))?;
    outside(&asked, &mut place, &layer, &mut made, steps)?;
    let kmsg = made.take(FdKind::Kmsg).map(Drain::start).transpose()?;
    steps.here(Step::Hooks, || {
        stage.hooks(
            &asked,
            &state(&record, Status::Creating, Some(made.pid), &asked.bundle),
        )
    })?;
    stage.ready(&asked, steps)?;
    finish(pod, (asked, record), place, layer, stage, (made, kmsg))
}

/// What the spec asks for, checked: nothing exists yet.
struct Asked {
    id: String,
    bundle: PathBuf,
    config: Config,
    plan: Plan,
    rootfs: RootfsSource,
    /// The root file system as the engine has mounted it, if it has.
    mounted: Option<Mounted>,
    /// What the kernel has, for all phases.
    features: Features,
}

impl Asked {
    fn new(pod: &Pod, request: CreateRequest) -> Result<(Asked, Stdio)> {
        let annotations = request.spec.annotations().iter().flatten();
        let config = pod
            .config()
            .with_annotations(annotations.map(|(name, value)| (&**name, &**value)))?;
        let filters = Path::new(&pod.config().state_dir).join("seccomp");
        let mut plan = Plan::new(PlanInput {
            spec: &request.spec,
            bundle: &request.bundle,
            id: &request.id,
            namespace: &request.namespace,
            config: &config,
            terminal: Some(request.terminal),
            last_cap: last_cap()?,
            seccomp_cache: Some(&filters),
        })?;
        plan.warnings.extend(limits::settle(&mut plan.process)?);
        let path = Path::new(&plan.rootfs.path);
        let mounted = if request.rootfs.is_empty() {
            Mounted::find(path)?
        } else {
            None
        };
        let rootfs = match &mounted {
            Some(mounted) => RootfsSource::Overlay(mounted.ours()),
            None => rootfs::parse(&request.rootfs, path)?,
        };
        let asked = Asked {
            id: request.id,
            bundle: request.bundle,
            config,
            plan,
            rootfs,
            mounted,
            features: pod.features().clone(),
        };
        Ok((asked, request.stdio))
    }

    /// The scope that its cgroup is, if it is one: systemd's form of the path, and systemd is there.
    fn scope(&self) -> Option<&Scope> {
        self.plan.scope.as_ref().filter(|_| systemd_booted())
    }

    /// Writes the record, before anything is made that `delete` would have to find.
    fn record(&self) -> Result<Record> {
        let upper = match &self.rootfs {
            RootfsSource::Overlay(_) if self.plan.annotations.contains_key(CRI) => None,
            RootfsSource::Overlay(overlay) => {
                overlay.upper.as_ref().map(|(upper, _)| upper.clone())
            }
            _ => None,
        };
        let record = Record {
            id: self.id.clone(),
            cgroup: self.plan.cgroup_path.clone(),
            unit: self.scope().map(|scope| scope.unit.clone()),
            state_dir: PathBuf::from(&self.config.state_dir),
            data_roots: match &upper {
                Some(upper) => data_roots::captured(upper)?,
                None => Vec::new(),
            },
            upper,
            ids: None,
            mounted: self.mounted.clone(),
            features: self.features.clone(),
            poststop: self.plan.hooks.poststop.clone(),
            annotations: self.plan.annotations.clone(),
        };
        in_use(&self.plan.cgroup_path)?;
        record.write(&self.bundle)?;
        Ok(record)
    }
}

/// What is the container's alone, or its share of the pod, outside its namespaces. Fields in the order of their undoing.
struct Place {
    cgroup: Cgroup,
    /// Where the cgroup is a scope: it would end without a process, which init is once it is there.
    stand_in: Option<StandIn>,
    membership: Membership,
    identity: Identity,
    warnings: Vec<Warning>,
}

impl Place {
    fn make(pod: &Arc<Pod>, asked: &Asked, steps: &Steps) -> Result<Place> {
        let Asked {
            id, plan, config, ..
        } = asked;
        let mut warnings = plan.warnings.clone();
        let (identity, membership) = steps.here(Step::Range, || pod.join(plan, id, &config.ids))?;
        asked.rootfs.check_mappings(&identity.idmap)?;
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
        let (cgroup, stand_in, limited) = steps.here(Step::Cgroup, || {
            let (hierarchy, path) = (Hierarchy::find()?, &plan.cgroup_path);
            if let Some(scope) = asked.scope() {
                let limits = (&plan.limits, pod.device_programs());
                let (cgroup, stand_in, limited) =
                    Cgroup::create_scope(&hierarchy, path, scope, owner, &config.cgroup, limits)?;
                return Ok((cgroup, Some(stand_in), limited));
            }
            let devices = (&*plan.limits.devices, pod.device_programs());
            let cgroup = Cgroup::create_sharing(&hierarchy, path, owner, &config.cgroup, devices)?;
            let limited = cgroup.apply(&plan.limits)?;
            Ok((cgroup, None, limited))
        })?;
        warnings.extend(limited);
        Ok(Place {
            cgroup,
            stand_in,
            membership,
            identity,
            warnings,
        })
    }
}

/// The root file system during create: unless kept, inner data go back into the writable layer, empty mount points out of
/// it, and then the engine has back what it had mounted.
struct Layer {
    upper: Option<PathBuf>,
    roots: Vec<DataRoot>,
    kept: bool,
    taken: Option<Taken>,
}

impl Layer {
    fn take(asked: &Asked, record: &Record, steps: &Steps) -> Result<Layer> {
        let taken = steps.here(Step::TakeRootfs, || {
            let point = asked.bundle.join("rootfs");
            let mounted = asked.mounted.clone();
            mounted
                .map(|mounted| Taken::new(mounted, point, &asked.features))
                .transpose()
        })?;
        let layer = Layer {
            upper: record.upper.clone(),
            roots: record.data_roots.clone(),
            kept: false,
            taken,
        };
        layer.upper.as_deref().map_or(Ok(()), data_roots::restore)?;
        Ok(layer)
    }
}

impl Drop for Layer {
    fn drop(&mut self) {
        if let (Some(upper), false) = (&self.upper, self.kept)
            && let Err(error) = data_roots::capture(upper, &self.roots, &AtomicBool::new(false))
        {
            tracing::warn!(layer = %upper.display(), error = error.chain(), "left inner data beside the layer");
        }
    }
}

/// The stage at its work, and what it makes for us.
struct Stage {
    channel: Channel,
    children: Children,
}

impl Stage {
    fn start(
        (channel, mut children): (Channel, Children),
        asked: &Asked,
        place: &Place,
        layer: &Layer,
        stdio: Stdio,
        steps: &Steps,
    ) -> Result<Stage> {
        let Place {
            cgroup, identity, ..
        } = place;
        steps.here(Step::Spawn, || {
            let (dir, leaf) = (cgroup.open_dir()?, cgroup.open_leaf()?);
            let mut fds = Fds::default();
            fds.add(FdKind::Cgroup, Some(&dir));
            fds.add(FdKind::Leaf, Some(&leaf));
            fds.add(FdKind::Stdin, stdio.stdin.as_ref());
            fds.add(FdKind::Stdout, stdio.stdout.as_ref());
            fds.add(FdKind::Stderr, stdio.stderr.as_ref());
            fds.add(FdKind::Userns, identity.join.as_ref());
            let mut plan = asked.plan.clone();
            if let Some(host) = &identity.host_network {
                fds.add(FdKind::Network, Some(&host.ns));
                plan.namespaces.net = NsSource::New;
            }
            let request = InitRequest {
                id: asked.id.clone(),
                plan,
                idmap: identity.join.is_none().then(|| identity.idmap.clone()),
                rootfs: asked.rootfs.clone(),
                view: layer.taken.is_some(),
                bundle: asked.bundle.to_string_lossy().into_owned(),
                unmappable_mount: asked.config.unmappable_mount,
                features: asked.features.clone(),
                fail_at: steps.fail_at(),
                fds: fds.kinds,
            };
            children.request(&request, &fds.fds)?;
            Ok(Stage { channel, children })
        })
    }

    fn news(&mut self, patience: Duration) -> Result<(Message, Vec<OwnedFd>)> {
        parent::news(&self.channel, &mut self.children, patience)
    }

    /// Waits for the namespaces, mounts and init. Data roots that are about to be made are noted in `layer`, also where a
    /// stage could not tell the end of it.
    fn made(&mut self, layer: &mut Layer, steps: &Steps) -> Result<Made> {
        let made = self.hear_of_made(&mut layer.roots, steps);
        if made.is_err()
            && let Some(roots) = self.children.end()
        {
            layer.roots = roots;
        }
        made
    }

    fn hear_of_made(&mut self, roots: &mut Vec<DataRoot>, steps: &Steps) -> Result<Made> {
        loop {
            match self.news(BUILD_PATIENCE)? {
                (Message::DataRoots(new), _) => *roots = new,
                (
                    Message::Created {
                        pid,
                        idmap,
                        warnings,
                        times,
                        fds: kinds,
                    },
                    fds,
                ) => {
                    steps.add("stage", times);
                    return Ok(Made {
                        pid,
                        idmap,
                        warnings,
                        kinds,
                        fds: fds.into_iter().map(Some).collect(),
                    });
                }
                (other, _) => return Err(unexpected(&format!("{other:?} from the stage"))),
            }
        }
    }

    /// Runs the hooks of the host's side; the stage waits for them.
    fn hooks(&mut self, asked: &Asked, state: &HookState) -> Result<()> {
        let (hooks, bundle) = (&asked.plan.hooks, &asked.bundle);
        hooks::run("prestart", &hooks.prestart, state, bundle)?;
        hooks::run("createRuntime", &hooks.create_runtime, state, bundle)?;
        if hooks.prestart.is_empty() && hooks.create_runtime.is_empty() {
            Ok(())
        } else {
            self.children.tell(&Message::Go)
        }
    }

    /// Waits for init, which then waits for `start`.
    fn ready(&mut self, asked: &Asked, steps: &Steps) -> Result<()> {
        let patience = match asked.plan.hooks.create_container.is_empty() {
            true => READY_PATIENCE,
            false => BUILD_PATIENCE,
        };
        match self.news(patience)? {
            (Message::Ready { times }, _) => {
                steps.add("init", times);
                Ok(())
            }
            (other, _) => Err(unexpected(&format!("{other:?} from init"))),
        }
    }
}

/// What the stage has told of the container.
struct Made {
    pid: i32,
    idmap: IdMap,
    warnings: Vec<Warning>,
    kinds: Vec<FdKind>,
    fds: Vec<Option<OwnedFd>>,
}

impl Made {
    fn take(&mut self, kind: FdKind) -> Option<OwnedFd> {
        take_fd(&self.kinds, &mut self.fds, kind)
    }

    fn need(&mut self, kind: FdKind) -> Result<OwnedFd> {
        self.take(kind)
            .ok_or_else(|| unexpected("a descriptor is missing"))
    }

    /// A copy of one that others take.
    fn copy(&self, kind: FdKind) -> Result<OwnedFd> {
        let index = self.kinds.iter().position(|known| *known == kind);
        let fd = index.and_then(|index| self.fds.get(index)?.as_ref());
        let fd = fd.ok_or_else(|| unexpected("a descriptor is missing"))?;
        fd.try_clone().os("dup", format!("{kind:?}"))
    }
}

/// What only the host's side can do for a container that exists: limits of init, its network's and its files' place.
fn outside(
    asked: &Asked,
    place: &mut Place,
    layer: &Layer,
    made: &mut Made,
    steps: &Steps,
) -> Result<()> {
    let limits = steps.here(Step::Limits, || {
        Ok(limits::set_oom_score(made.pid, &asked.plan.process))
    })?;
    place.warnings.append(&mut made.warnings);
    place.warnings.extend(limits);
    steps.here(Step::NetworkPlace, || {
        match (&place.identity.host_network, made.take(FdKind::Network)) {
            (Some(host), Some(new)) => host.replace_by(&new),
            (None, None) => Ok(()),
            _ => Err(unexpected("a network that nobody wants, or none")),
        }
    })?;
    steps.here(Step::View, || {
        let mounts = made.take(FdKind::Rootfs).zip(made.take(FdKind::Overlay));
        match (&layer.taken, mounts) {
            (Some(taken), Some((root, overlay))) => {
                let userns = made.copy(FdKind::Userns)?;
                let cgroup = &asked.plan.cgroup_path;
                taken.show(overlay, host_view::starter(root, userns, cgroup))
            }
            (None, None) => Ok(()),
            _ => Err(unexpected("a view that nobody wants, or none")),
        }
    })
}

/// The container lives: what was taken and made stays.
fn finish(
    pod: &Pod,
    (asked, record): (Asked, Record),
    place: Place,
    mut layer: Layer,
    mut stage: Stage,
    (mut made, kmsg): (Made, Option<Drain>),
) -> Result<Container> {
    layer.taken.as_ref().map_or(Ok(()), Taken::anchor)?;
    pod.made(&made.need(FdKind::Userns)?, &made.idmap)?;
    let (devpts, console) = (made.need(FdKind::Devpts)?, made.take(FdKind::Console));
    let pidfd = stage.children.release(made.pid)?;
    drop(place.stand_in);
    layer.kept = true;
    Ok(Container {
        membership: place.membership,
        bundle: asked.bundle,
        process: ProcessFacts {
            capability_rule: asked.plan.capability_rule,
            unbarred: asked.plan.process.unbarred,
            seccomp: asked.plan.process.seccomp,
        },
        hooks: asked.plan.hooks,
        cgroup: place.cgroup,
        fuse: asked.plan.base.fuse,
        pid: made.pid,
        pidfd,
        devpts,
        idmap: made.idmap,
        console: Mutex::new(console),
        _kmsg: kmsg,
        gate: Mutex::new(Some(Gate {
            channel: stage.channel,
            makers: stage.children,
        })),
        warnings: place.warnings,
        record,
        taken: layer.taken.take(),
        capture: Capture::default(),
    })
}

/// Refuses a cgroup in which somebody lives: `delete` must not find it in a record of ours.
fn in_use(cgroup: &str) -> Result<()> {
    match Cgroup::open(&Hierarchy::find()?, cgroup) {
        Ok(found) if found.populated()? => Err(Error::AlreadyExists(format!("cgroup {cgroup}"))),
        Ok(_) | Err(Error::NotFound(_)) => Ok(()),
        Err(error) => Err(error),
    }
}
