//! `create`: the pipeline that makes a container, one named step after the other.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use oci_spec::runtime as oci;

use super::limits;
use super::{Container, Gate, ProcessFacts, last_cap, state};
use crate::cgroup::{Cgroup, Hierarchy};
use crate::container::record::Record;
use crate::error::{Error, Result, Warning};
use crate::kernel::idmap::IdMap;
use crate::plan::{NsSource, Plan, PlanInput};
use crate::pod::Pod;
use crate::pod::kmsg::Kmsg;
use crate::rootfs::data_roots::{self, DataRoot};
use crate::rootfs::mounted::{Mounted, Taken};
use crate::rootfs::{self, RootfsMount, RootfsSource};
use crate::stage::Step;
use crate::stage::hooks::{self, Status};
use crate::stage::parent::{self, Fds};
use crate::stage::proto::{FdKind, InitRequest, Message, take_fd, unexpected};
use crate::stage::{self, Steps};

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

impl Container {
    pub(super) fn build(pod: &Arc<Pod>, request: CreateRequest, steps: Steps) -> Result<Container> {
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
                &plan.limits.devices,
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
            capability_rule: plan.capability_rule,
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
            parent::spawn(stage::INIT, &request, &fds.fds)
        })?;
        drop(stdio);

        let made = loop {
            match parent::news(&channel, &mut children)? {
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
        steps.here(Step::NetworkPlace, || {
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
        match parent::news(&channel, &mut children)? {
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
