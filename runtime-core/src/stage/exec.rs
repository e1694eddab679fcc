//! The exec stage: joins a container and becomes the user's program.

use std::os::fd::{AsFd, OwnedFd};

use nix::sched::CloneFlags;
use rustix::fs::{CWD, Mode, OFlags, openat};

use super::{Steps, builder, inherited, limits, maker, security};
use crate::error::{OsContext, Result, StageFailure, Warning};
use crate::stage::Step;
use crate::stage::proto::{Channel, ExecStageRequest, FdKind, Message, take_fd, unexpected};
use crate::sys::clone::{Side, SingleThreaded, clone3};

/// The pipeline.
pub(super) fn run(
    channel: &Channel,
    proof: SingleThreaded,
    _told_at_create: Vec<Warning>,
) -> Result<(), StageFailure> {
    let none = Steps::new(None);
    let (request, fds) = none.run(Step::Spawn, || {
        rustix::thread::set_name(c"sysbox:[exec]").os("prctl", "name")?;
        channel.recv_request::<ExecStageRequest>()
    })?;
    let steps = Steps::new(request.fail_at);
    let mut fds: Vec<_> = fds.into_iter().map(Some).collect();
    let mut take = |kind| take_fd(&request.fds, &mut fds, kind);
    let process = &request.process;
    let stdio = [
        take(FdKind::Stdin),
        take(FdKind::Stdout),
        take(FdKind::Stderr),
    ];
    let terminal = take(FdKind::Console);

    let missing = || unexpected("a descriptor is missing");
    let (init, side) = steps.run(Step::Join, || {
        let (init, leaf) = (
            take(FdKind::Init).ok_or_else(missing)?,
            take(FdKind::Leaf).ok_or_else(missing)?,
        );
        builder::own_pipes(&stdio, process, &request.idmap)?;
        limits::raise(&process.rlimits)?;
        // The cgroup namespace comes after the clone: with nsdelegate the kernel forbids to place a
        // process from outside the caller's cgroup namespace. So do the ids: the common ancestor of
        // the two cgroups is the host root's.
        let all = CloneFlags::CLONE_NEWUSER
            | CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS
            | maker::CLONE_NEWTIME;
        nix::sched::setns(&init, all).os("setns", "the container")?;
        let side = clone3(&proof, 0, Some(leaf.as_fd()), true).os("clone3", "exec'd process")?;
        if let Side::Child = side {
            // The shim may be gone; then nobody is there to be told.
            let _ = channel.send(&Message::Born);
        }
        Ok((init, side))
    })?;
    match side {
        Side::Parent(pid) => steps.run(Step::Join, || {
            channel.send(&Message::Spawned { pid: pid.as_raw() })
        }),
        Side::Child => {
            if !steps.run(Step::Setup, || wait_for_start(channel))? {
                crate::sys::clone::exit(1);
            }
            steps.run(Step::Join, || {
                become_root_inside(&init)?;
                inherited::reset_inside(&request.id)
            })?;
            steps.run(Step::BaseFilter, || security::base_filter(process))?;
            steps.run(Step::Setup, || {
                match &terminal {
                    Some(slave) => {
                        rustix::process::setsid().os("setsid", "")?;
                        security::control(by_name(slave).as_ref().unwrap_or(slave).as_fd())?;
                    }
                    None => security::new_session(None, &stdio)?,
                }
                security::make_cwd(process)
            })?;
            let program = steps.run(Step::Setup, || security::Program::new(process))?;
            steps.run(Step::Security, || security::drop_privileges(process))?;
            program.exec(channel, &steps)
        }
    }
}

/// The shim has taken our pid and lets us go on.
fn wait_for_start(channel: &Channel) -> Result<bool> {
    Ok(matches!(
        channel.recv::<Message>()?,
        Some((Message::Start, _))
    ))
}

/// The terminal opened by its name inside, which is the one that ttyname(3) and /proc/self/fd tell; `None` where the
/// container has something else there.
fn by_name(slave: &OwnedFd) -> Option<OwnedFd> {
    let of = |fd: &OwnedFd| {
        let stat = rustix::fs::fstat(fd).ok()?;
        Some((stat.st_dev, stat.st_ino, stat.st_rdev))
    };
    let own = of(slave)?;
    let path = format!("/dev/pts/{}", rustix::fs::minor(own.2));
    let open = |flags| {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(CWD, &path, flags, Mode::empty()).ok()?;
        (of(&fd) == Some(own)).then_some(fd)
    };
    // Looked at first: what the container put there instead is not opened.
    open(OFlags::PATH)?;
    open(OFlags::RDWR | OFlags::NOCTTY)
}

/// The last namespace, and the ids of root inside.
fn become_root_inside(init: &OwnedFd) -> Result<()> {
    nix::sched::setns(init, CloneFlags::CLONE_NEWCGROUP).os("setns", "cgroup namespace")?;
    maker::become_root()
}
