//! S: builds the container from outside, with the host's rights, and leaves.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{
    CapabilitiesSecureBits, capabilities_secure_bits, set_capabilities_secure_bits,
};

use super::init::Go;
use super::maker::{self, Joins, Maker, Talk, open_proc};
use super::mounts::{self, Context};
use super::pod_network::Mover;
use super::unlocked::Unlocked;
use super::userns_fs::TmpfsMaker;
use super::{Steps, data_roots, dev, effective, inherited, kernfs, limits, masks, root};
use crate::error::{OsContext, Result, StageFailure, Warning};
use crate::kernel::features::Features;
use crate::kernel::idmap::{self, IdMap};
use crate::plan::{NsSource, Plan, Process};
use crate::rootfs::RootfsSource;
use crate::stage::Step;
use crate::stage::proto::{Channel, FdKind, InitRequest, Message, take_fd, unexpected};
use crate::sys;
use crate::sys::clone::SingleThreaded;
use crate::sys::mount::{Change, RDONLY, set_attr};

/// H, at its work.
struct AtWork {
    talk: Channel,
    /// To init, once it is there.
    go: Channel,
}

/// The user namespace.
struct Users {
    ns: OwnedFd,
    idmap: IdMap,
}

/// Init, and the further namespaces that it is in.
struct First {
    pid: i32,
    net: OwnedFd,
    ipc: OwnedFd,
    uts: OwnedFd,
    cgroup: OwnedFd,
    pid_ns: OwnedFd,
}

/// The pipeline, in the order of whole.md: namespaces, then what the container sees from outside in, then the pivot.
pub(super) fn run(
    channel: &Channel,
    proof: SingleThreaded,
    mut warnings: Vec<Warning>,
) -> Result<(), StageFailure> {
    let none = Steps::new(None);
    let (request, fds) = none.run(Step::Spawn, || {
        rustix::thread::set_name(c"sysbox:[stage]").os("prctl", "name")?;
        rustix::process::umask(Mode::empty());
        channel.recv_request::<InitRequest>()
    })?;
    let mut fds: Vec<_> = fds.into_iter().map(Some).collect();
    let host_network = take_fd(&request.fds, &mut fds, FdKind::Network);
    let build = Build {
        channel,
        proof: &proof,
        steps: &Steps::new(request.fail_at),
        request: &request,
        plan: &request.plan,
        features: &request.features,
    };
    build.steps.run(Step::Userns, || {
        keep_capabilities()?;
        limits::raise(&build.plan.process.rlimits)
    })?;
    build.steps.run(Step::MountNs, private_mounts)?;
    // While H makes the other namespaces and init, S makes what needs the user namespace only.
    let (maker, users) = build.user_namespace(fds)?;
    let tmpfs = build.start_tmpfs(&users)?;
    let mut files = build.root_file_system(&users)?;
    let first = build.init(&maker)?;
    let mover = build.start_move(&first, host_network.as_ref())?;
    let made = Made {
        users: &users,
        first: &first,
    };
    let inside = build.mounts(made, &mut files, tmpfs, mover.is_some())?;
    let moved = mover.is_some();
    let not_moved = build
        .steps
        .run(Step::NetworkMoved, || mover.map(Mover::finish).transpose())?;
    build.restrict(&users, &mut files)?;
    build.steps.run(Step::Hooks, || {
        warnings.extend(files.warnings);
        warnings.extend(inside.warnings);
        warnings.extend(not_moved.into_iter().flatten());
        let network = moved.then(|| first.net.as_fd());
        build.report(made, warnings, &inside.terminals, files.view, network)?;
        hooks(channel, build.plan, &maker.go)
    })?;
    build.pivot(&files.root.dir, files.unlocked, &maker.go)?;
    inside.tmpfs.finish();
    Ok(())
}

/// All that H made.
#[derive(Clone, Copy)]
struct Made<'a> {
    users: &'a Users,
    first: &'a First,
}

/// What every phase uses.
#[derive(Clone, Copy)]
struct Build<'a> {
    channel: &'a Channel,
    proof: &'a SingleThreaded,
    steps: &'a Steps,
    request: &'a InitRequest,
    plan: &'a Plan,
    features: &'a Features,
}

/// The root file system, mounted at its place in the bundle.
struct Files<'a> {
    root: root::Root<'a>,
    /// Copies for the host's view: with what is mounted in it so far, and without.
    view: Option<(OwnedFd, OwnedFd)>,
    unlocked: Unlocked,
    warnings: Vec<Warning>,
}

/// What is mounted in it.
struct Inside {
    tmpfs: TmpfsMaker,
    terminals: dev::Terminals,
    warnings: Vec<Warning>,
}

impl<'a> Build<'a> {
    fn start_move(
        self,
        first: &First,
        host_network: Option<&OwnedFd>,
    ) -> Result<Option<Mover>, StageFailure> {
        self.steps.run(Step::Network, || {
            host_network
                .map(|from| Mover::spawn(self.proof, from.as_fd(), first.net.as_fd()))
                .transpose()
        })
    }

    /// Has the container's tmpfs made, to be there when their mounts are.
    fn start_tmpfs(self, users: &Users) -> Result<TmpfsMaker, StageFailure> {
        self.steps.run(Step::Userns, || {
            let shm = self.plan.base.shm.iter().cloned();
            let all = shm.chain(mounts::tmpfs_options(self.plan)).collect();
            TmpfsMaker::start(self.proof, users.ns.as_fd(), all)
        })
    }

    /// From here on new files belong to root inside; capabilities stay (kernel.md (a)).
    fn root_file_system(self, users: &'a Users) -> Result<Files<'a>, StageFailure> {
        let (steps, request, features) = (self.steps, self.request, self.features);
        let mut warnings = Vec::new();
        let mut root = steps.run(Step::Rootfs, || {
            act_as_root_inside(&users.idmap)?;
            root::mount(
                &request.rootfs,
                &self.mount_point(),
                users.ns.as_fd(),
                features,
            )
        })?;
        let mut unlocked = steps.run(Step::Rootfs, || Unlocked::new(&root.dir))?;
        if let (RootfsSource::Overlay(overlay), Some(layers)) = (&request.rootfs, &mut root.upper) {
            warnings = steps.run(Step::DataRoots, || {
                data_roots::mount(
                    &root.dir,
                    self.plan,
                    overlay,
                    layers,
                    features,
                    &mut unlocked,
                    |roots| self.channel.send(&Message::DataRoots(roots)),
                )
            })?;
        }
        let view = steps.run(Step::View, || {
            let copy = |recursive| root::for_view(features, &root.dir, recursive);
            request
                .view
                .then(|| Ok((copy(true)?, copy(false)?)))
                .transpose()
        })?;
        Ok(Files {
            root,
            view,
            unlocked,
            warnings,
        })
    }

    fn mounts(
        self,
        made: Made<'_>,
        files: &mut Files<'_>,
        mut tmpfs: TmpfsMaker,
        network_moves: bool,
    ) -> Result<Inside, StageFailure> {
        let (steps, plan, proof) = (self.steps, self.plan, self.proof);
        let (root, unlocked) = (&files.root.dir, &mut files.unlocked);
        let (userns, pid_ns) = (made.users.ns.as_fd(), made.first.pid_ns.as_fd());
        steps.run(Step::EnterNs, || enter(made.first, plan, network_moves))?;
        let context = Context {
            proof,
            root,
            plan,
            idmap: &made.users.idmap,
            userns,
            pid_ns,
            unmappable: self.request.unmappable_mount,
            features: self.features,
        };
        steps.run(Step::Proc, || {
            let owner = dev::owner(&made.users.idmap, 0, 0)?;
            kernfs::mount(&context, owner, unlocked)
        })?;
        let mut warnings = Vec::new();
        let terminals = steps.run(Step::Dev, || {
            dev::mount(&context, &mut tmpfs, unlocked, &mut warnings)
        })?;
        let more = steps.run(Step::Mounts, || {
            let more = mounts::mount_all(&context, &mut tmpfs, unlocked)?;
            mounts::kernel_files(&context, unlocked)?;
            Ok(more)
        })?;
        warnings.extend(more);
        Ok(Inside {
            tmpfs,
            terminals,
            warnings,
        })
    }

    /// Sysctls, when the network is there, and what of the mounts is hidden or read-only.
    fn restrict(self, users: &Users, files: &mut Files<'_>) -> Result<(), StageFailure> {
        let plan = self.plan;
        let (root, unlocked) = (&files.root.dir, &mut files.unlocked);
        self.steps.run(Step::Sysctl, || {
            sysctls(plan, dev::owner(&users.idmap, 0, 0)?)
        })?;
        self.steps.run(Step::Masks, || {
            masks::readonly(self.features, root, &plan.readonly_paths, unlocked)?;
            masks::mask(self.features, root, &plan.masked_paths, unlocked)?;
            if plan.rootfs.readonly {
                let change = Change {
                    set: RDONLY,
                    ..Change::default()
                };
                set_attr(root, change).os("mount_setattr read-only", "root file system")?;
            }
            Ok(())
        })
    }

    /// Leaves nothing but the container's mounts, for init as well, which is to put them in place. The message is the last act that
    /// can fail: from there on init speaks for the container.
    fn pivot(self, root: &OwnedFd, unlocked: Unlocked, go: &Channel) -> Result<(), StageFailure> {
        let staged = self.steps.run(Step::Pivot, || {
            unlocked.stage(root, Path::new(&self.request.bundle))
        })?;
        Steps::new(None).run(Step::Pivot, || go.send(&Go::Staged(staged)))
    }

    fn mount_point(self) -> PathBuf {
        Path::new(&self.request.bundle).join("rootfs")
    }

    /// Has H make the user namespace, and begin with the others.
    fn user_namespace(
        self,
        mut fds: Vec<Option<OwnedFd>>,
    ) -> Result<(AtWork, Users), StageFailure> {
        let (request, steps) = (self.request, self.steps);
        let mut take = |kind| take_fd(&request.fds, &mut fds, kind);
        let stdio = [
            take(FdKind::Stdin),
            take(FdKind::Stdout),
            take(FdKind::Stderr),
        ];
        let (work, proc) = steps.run(Step::Userns, || {
            let missing = || unexpected("a descriptor is missing");
            let (cgroup, leaf) = (
                take(FdKind::Cgroup).ok_or_else(missing)?,
                take(FdKind::Leaf).ok_or_else(missing)?,
            );
            let maker = Maker {
                proof: self.proof,
                steps,
                namespaces: &self.plan.namespaces,
                joins: Joins::open(&self.plan.namespaces, take(FdKind::Userns))?,
                leaf: leaf.as_fd(),
                channel: self.channel,
                request,
                stdio: &stdio,
            };
            let (pid, talk, go) = match &request.idmap {
                // Who makes the namespace is whom the kernel charges what is counted in it: were it the host's root, one
                // pod could use up its inotify instances, and every other pod's.
                Some(idmap) => {
                    let (uid, gid) = dev::owner(idmap, 0, 0)?;
                    effective::as_user(uid, gid, || maker.spawn(cgroup.as_fd()))??
                }
                None => maker.spawn(cgroup.as_fd())?,
            };
            self.channel.send(&Message::Spawned { pid })?;
            Ok((AtWork { talk, go }, open_proc(pid)?))
        })?;
        if request.idmap.is_none() {
            hear(&work.talk, |t| matches!(t, Talk::Joined).then_some(()))?;
        }
        let users = steps.run(Step::Userns, || {
            if let Some(idmap) = &request.idmap {
                maker::write_maps(&proc, idmap)?;
            }
            let users = Users {
                ns: open(&proc, "ns/user", OFlags::RDONLY)?,
                idmap: read_idmap(&proc)?,
            };
            own_pipes(&stdio, &self.plan.process, &users.idmap)?;
            let clocks = (self.plan.namespaces.time == NsSource::New)
                .then(|| open(&proc, "timens_offsets", OFlags::WRONLY))
                .transpose()?;
            let clocks: Vec<_> = clocks.iter().map(AsFd::as_fd).collect();
            work.talk.send_with(&Talk::Mapped, &clocks)?;
            Ok(users)
        })?;
        Ok((work, users))
    }

    /// Waits for init, which waits for us and is in all namespaces.
    fn init(self, maker: &AtWork) -> Result<First, StageFailure> {
        let pid = hear(&maker.talk, |t| match t {
            Talk::Init { pid } => Some(*pid),
            _ => None,
        })?;
        self.steps.run(Step::Init, || {
            let proc = open_proc(pid)?;
            let ns = |name: &str| open(&proc, name, OFlags::RDONLY);
            Ok(First {
                pid,
                net: ns("ns/net")?,
                ipc: ns("ns/ipc")?,
                uts: ns("ns/uts")?,
                cgroup: ns("ns/cgroup")?,
                pid_ns: ns("ns/pid")?,
            })
        })
    }

    fn report(
        self,
        made: Made<'_>,
        warnings: Vec<Warning>,
        terminals: &dev::Terminals,
        view: Option<(OwnedFd, OwnedFd)>,
        network: Option<BorrowedFd<'_>>,
    ) -> Result<()> {
        let mut kinds = vec![FdKind::Devpts, FdKind::Userns];
        let mut fds = vec![terminals.devpts.as_fd(), made.users.ns.as_fd()];
        if let Some(console) = &terminals.console {
            kinds.push(FdKind::Console);
            fds.push(console.as_fd());
        }
        if let Some((kmsg, _)) = &terminals.kmsg {
            kinds.push(FdKind::Kmsg);
            fds.push(kmsg.as_fd());
        }
        if let Some((rootfs, overlay)) = &view {
            kinds.extend([FdKind::Rootfs, FdKind::Overlay]);
            fds.extend([rootfs.as_fd(), overlay.as_fd()]);
        }
        if let Some(network) = network {
            kinds.push(FdKind::Network);
            fds.push(network);
        }
        let idmap = made.users.idmap.clone();
        self.channel.send_with(
            &Message::Created {
                pid: made.first.pid,
                idmap,
                warnings,
                times: self.steps.take_times(),
                fds: kinds,
            },
            &fds,
        )
    }
}

/// An own mount namespace whose mounts still follow the host's: an unmount there must not be held
/// up by us, and `rslave` binds need the link.
pub(super) fn private_mounts() -> Result<()> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS).os("unshare", "mount namespace")?;
    mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )
    .os("mount", "/ rslave")
}

/// The next message of H, which `wanted` must know.
fn hear<T>(talk: &Channel, wanted: impl Fn(&Talk) -> Option<T>) -> Result<T, StageFailure> {
    let died = |what: String| StageFailure {
        step: Step::Namespaces.to_string(),
        chain: what,
        errno: None,
    };
    match talk.recv::<Talk>() {
        Ok(Some((Talk::Failed(failure), _))) => Err(failure),
        Ok(Some((message, _))) => {
            wanted(&message).ok_or_else(|| died(format!("{message:?} from the maker")))
        }
        Ok(None) => Err(died("the maker of namespaces died".into())),
        Err(error) => Err(died(error.chain())),
    }
}

/// File `name` of the process behind `proc`, its directory of /proc.
fn open(proc: &OwnedFd, name: &str, flags: OFlags) -> Result<OwnedFd> {
    openat(proc, name, flags | OFlags::CLOEXEC, Mode::empty()).os("open", name)
}

fn read_idmap(proc: &OwnedFd) -> Result<IdMap> {
    let read = |name: &str| {
        let fd = open(proc, name, OFlags::RDONLY)?;
        let text = std::io::read_to_string(std::fs::File::from(fd)).os("read", name)?;
        idmap::parse(&text).ok_or_else(|| unexpected(name))
    };
    Ok(IdMap {
        uids: read("uid_map")?,
        gids: read("gid_map")?,
    })
}

/// Pipes of standard streams belong to the process's user, so that it may reopen them
/// (`/dev/stdout`).
pub(super) fn own_pipes(stdio: &[Option<OwnedFd>], process: &Process, idmap: &IdMap) -> Result<()> {
    let (uid, gid) = dev::owner(idmap, process.uid, process.gid)?;
    for fd in stdio.iter().flatten() {
        let stat = rustix::fs::fstat(fd).os("stat", "standard stream")?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Fifo {
            dev::own(fd, uid, gid)?;
        }
    }
    Ok(())
}

fn act_as_root_inside(idmap: &IdMap) -> Result<()> {
    let (uid, gid) = dev::owner(idmap, 0, 0)?;
    sys::process::set_fs_ids(uid, gid).os("setfsuid", uid)?;
    inherited::hide()
}

/// Keeps the capabilities through the changes of ids that follow (capabilities(7), "securebits").
fn keep_capabilities() -> Result<()> {
    let bits = capabilities_secure_bits().os("prctl", "securebits")?;
    set_capabilities_secure_bits(bits | CapabilitiesSecureBits::NO_SETUID_FIXUP)
        .os("prctl", "securebits")
}

/// Joins what file systems and sysctls are made from.
fn enter(first: &First, plan: &Plan, network_moves: bool) -> Result<()> {
    for (ns, flag, name) in [
        (&first.net, CloneFlags::CLONE_NEWNET, "network"),
        (&first.ipc, CloneFlags::CLONE_NEWIPC, "ipc"),
        (&first.uts, CloneFlags::CLONE_NEWUTS, "uts"),
        (&first.cgroup, CloneFlags::CLONE_NEWCGROUP, "cgroup"),
    ] {
        nix::sched::setns(ns, flag).os("setns", name)?;
    }
    if plan.namespaces.net == NsSource::New && !network_moves {
        sys::net::loopback_up().os("set up", "lo")?;
    }
    Ok(())
}

/// Written through the host's /proc/sys, which shows the namespaces of the writer. As `root` inside: those of the ipc
/// namespace ask for its user, not for capabilities (ipc/ipc_sysctl.c, ipc_permissions()).
fn sysctls(plan: &Plan, (root, group): (u32, u32)) -> Result<()> {
    if plan.sysctl.is_empty() {
        return Ok(());
    }
    let written = effective::as_user(root, 0, || write_sysctls(plan))?;
    // They follow the effective ids.
    sys::process::set_fs_ids(root, group).os("setfsuid", root)?;
    written
}

fn write_sysctls(plan: &Plan) -> Result<()> {
    for (key, value) in &plan.sysctl {
        let path = crate::plan::sysctl_path(key).ok_or_else(|| unexpected(key))?;
        std::fs::write(Path::new("/proc/sys").join(path), value)
            .os("write sysctl", format!("{key}={value}"))?;
    }
    Ok(())
}

/// createRuntime hooks by the shim, then createContainer hooks by init, both before pivot_root.
fn hooks(channel: &Channel, plan: &Plan, go: &Channel) -> Result<()> {
    let hooks = &plan.hooks;
    if !hooks.prestart.is_empty() || !hooks.create_runtime.is_empty() {
        match channel.recv::<Message>()? {
            Some((Message::Go, _)) => {}
            other => return Err(unexpected(&format!("{other:?} while hooks run"))),
        }
    }
    if !hooks.create_container.is_empty() {
        go.send(&Go::Hooks)?;
        match go.recv::<Go>()? {
            Some((Go::Hooks, _)) => {}
            Some((Go::Failed(failure), _)) => return Err(crate::error::Error::Stage(failure)),
            other => return Err(unexpected(&format!("{other:?} while hooks run"))),
        }
    }
    Ok(())
}
