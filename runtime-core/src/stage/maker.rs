//! H: the first process in the user namespace. It makes the other namespaces as mapped root, clones
//! init into them and exits.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sched::CloneFlags;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::{PidfdFlags, pidfd_open};
use rustix::thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use serde::{Deserialize, Serialize};

use super::init::Init;
use super::{Steps, inherited};
use crate::error::{OsContext, Result, StageFailure};
use crate::kernel::idmap::{self, IdMap};
use crate::kernel::reap::reap_blocking;
use crate::plan::{Namespaces, NsSource, Plan};
use crate::stage::Step;
use crate::stage::proto::{Channel, InitRequest, Message, unexpected};
use crate::sys::clone::{Side, SingleThreaded, clone3, exit};

/// Between S and H, in this order.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Talk {
    /// H → S: it has joined the user namespace; not said where that is new.
    Joined,
    /// S → H: the mappings are written. With the file of H's clock offsets where the time namespace is new.
    Mapped,
    /// H → S: the namespaces exist, and init in them.
    Init {
        /// Its host pid.
        pid: i32,
    },
    /// H → S.
    Failed(StageFailure),
}

/// Host descriptors of namespaces to join, opened by S before it clones.
#[derive(Debug, Default)]
pub(super) struct Joins {
    pub(super) user: Option<OwnedFd>,
    others: Vec<(CloneFlags, OwnedFd)>,
    pid: Option<OwnedFd>,
}

impl Joins {
    /// Opens the paths of namespaces that are joined.
    pub(super) fn open(namespaces: &Namespaces, user: Option<OwnedFd>) -> Result<Joins> {
        let mut joins = Joins {
            user,
            ..Joins::default()
        };
        for (flag, source) in others(namespaces) {
            if let NsSource::Join(path) = source {
                joins.others.push((flag, open_ns(path)?));
            }
        }
        if let NsSource::Join(path) = &namespaces.pid {
            joins.pid = Some(open_ns(path)?);
        }
        Ok(joins)
    }
}

fn open_ns(path: &str) -> Result<OwnedFd> {
    openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).os("open namespace", path)
}

/// Namespaces that H unshares or joins itself.
fn others(namespaces: &Namespaces) -> [(CloneFlags, &NsSource); 5] {
    [
        (CloneFlags::CLONE_NEWNET, &namespaces.net),
        (CloneFlags::CLONE_NEWIPC, &namespaces.ipc),
        (CloneFlags::CLONE_NEWUTS, &namespaces.uts),
        (CloneFlags::CLONE_NEWCGROUP, &namespaces.cgroup),
        (CLONE_NEWTIME, &namespaces.time),
    ]
}

/// Linux 5.6; nix has no name for it.
pub(super) const CLONE_NEWTIME: CloneFlags = CloneFlags::from_bits_retain(0x80);

/// What H needs.
pub(super) struct Maker<'a> {
    pub(super) proof: &'a SingleThreaded,
    pub(super) steps: &'a Steps,
    pub(super) namespaces: &'a Namespaces,
    pub(super) joins: Joins,
    /// cgroup that init is born in.
    pub(super) leaf: BorrowedFd<'a>,
    pub(super) channel: &'a Channel,
    pub(super) request: &'a InitRequest,
    pub(super) stdio: &'a [Option<OwnedFd>; 3],
}

impl Maker<'_> {
    /// Starts H: in a new user namespace and born in `cgroup`, as a child of the shim. Returns to S
    /// its host pid and the channels to it and to init; H itself never returns.
    pub(super) fn spawn(self, cgroup: BorrowedFd<'_>) -> Result<(i32, Channel, Channel)> {
        let new_user = if self.joins.user.is_none() {
            libc::CLONE_NEWUSER
        } else {
            0
        };
        let (ours, theirs) = Channel::pair()?;
        let (go, init_go) = Channel::pair()?;
        match clone3(self.proof, new_user, Some(cgroup), true)
            .os("clone3", "maker of namespaces")?
        {
            Side::Parent(pid) => Ok((pid.as_raw(), ours, go)),
            Side::Child => {
                // The shim may be gone; then nobody is there to be told.
                let _ = self.channel.send(&Message::Born);
                // What S took is S's to tell.
                drop(self.steps.take_times());
                // Whoever holds both ends of a channel never sees the other side's death.
                drop((ours, go));
                let init = Init {
                    channel: self.channel,
                    go: init_go,
                    steps: self.steps,
                    request: self.request,
                    stdio: self.stdio,
                };
                match self.make(&theirs) {
                    Ok(Side::Parent(_)) => exit(0),
                    Ok(Side::Child) => {
                        drop(theirs);
                        init.run()
                    }
                    Err(failure) => {
                        let _ = theirs.send(&Talk::Failed(failure));
                        exit(1)
                    }
                }
            }
        }
    }

    /// H's work; returns in H, and in init with nothing of H's left to do.
    fn make(self, talk: &Channel) -> Result<Side, StageFailure> {
        let (joins, namespaces) = (self.joins, self.namespaces);
        self.steps.run(Step::Namespaces, || {
            if let Some(user) = &joins.user {
                nix::sched::setns(user, CloneFlags::CLONE_NEWUSER).os("setns", "user namespace")?;
                talk.send(&Talk::Joined)?;
            }
            let clocks = mapped(talk)?;
            become_root()?;
            for (flag, ns) in &joins.others {
                nix::sched::setns(ns, *flag).os("setns", format!("{flag:?}"))?;
            }
            // The ipc namespace after setresuid: else /dev/mqueue belongs to nobody (whole.md 7).
            let new = others(namespaces)
                .into_iter()
                .filter(|(_, source)| **source == NsSource::New)
                .fold(CloneFlags::empty(), |flags, (flag, _)| flags | flag);
            nix::sched::unshare(new).os("unshare", format!("{new:?}"))?;
            clocks.map_or(Ok(()), |file| write_clocks(&file, &self.request.plan))
        })?;
        let side = self.steps.run(Step::Init, || {
            let new_pid = match &joins.pid {
                Some(pid) => {
                    nix::sched::setns(pid, CloneFlags::CLONE_NEWPID)
                        .os("setns", "pid namespace")?;
                    0
                }
                None => libc::CLONE_NEWPID,
            };
            let side = clone3(self.proof, new_pid, Some(self.leaf), true).os("clone3", "init")?;
            if let Side::Child = side {
                let _ = self.channel.send(&Message::Born);
            }
            Ok(side)
        })?;
        if let Side::Parent(pid) = side {
            let pid = pid.as_raw();
            self.steps
                .run(Step::Init, || talk.send(&Talk::Init { pid }))?;
        }
        Ok(side)
    }
}

/// Root of the user namespace that this process is in.
pub(super) fn become_root() -> Result<()> {
    set_thread_groups(&[]).os("setgroups", "none")?;
    set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).os("setresgid", "0")?;
    set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).os("setresuid", "0")?;
    inherited::hide()
}

/// Waits until the mappings are written; the file of our clock offsets came with that.
fn mapped(talk: &Channel) -> Result<Option<OwnedFd>> {
    match talk.recv::<Talk>()? {
        Some((Talk::Mapped, fds)) => Ok(fds.into_iter().next()),
        other => Err(unexpected(&format!("{other:?} from the stage"))),
    }
}

/// The container's clocks: boottime starts at 0 at create, unless the spec says otherwise
/// (time_namespaces(7)).
fn write_clocks(file: &OwnedFd, plan: &Plan) -> Result<()> {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime).tv_sec;
    let (seconds, nanoseconds) = plan.boottime_offset.unwrap_or((-now, 0));
    let mut text = format!("boottime {seconds} {nanoseconds}\n");
    if let Some((seconds, nanoseconds)) = plan.monotonic_offset {
        text.push_str(&format!("monotonic {seconds} {nanoseconds}\n"));
    }
    rustix::io::write(file, text.as_bytes()).os("write", format!("timens_offsets {text:?}"))?;
    Ok(())
}

/// Writes the mappings of the process behind `proc`, its directory of /proc.
pub(super) fn write_maps(proc: &OwnedFd, idmap: &IdMap) -> Result<()> {
    for (file, lines) in [("uid_map", &idmap.uids), ("gid_map", &idmap.gids)] {
        let text = idmap::format(lines);
        let fd =
            openat(proc, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).os("open", file)?;
        rustix::io::write(fd, text.as_bytes()).os("write", format!("{file} {text:?}"))?;
    }
    Ok(())
}

/// A user namespace with these mappings and nobody in it, for ID-mapped mounts.
pub(super) fn userns_for(proof: &SingleThreaded, idmap: &IdMap) -> Result<OwnedFd> {
    let (ours, theirs) = Channel::pair()?;
    match clone3(proof, libc::CLONE_NEWUSER, None, false)
        .os("clone3", "holder of a user namespace")?
    {
        Side::Child => {
            drop(ours);
            // Lives until S has taken the namespace and closes its end.
            let _ = theirs.recv::<Talk>();
            exit(0)
        }
        Side::Parent(pid) => {
            drop(theirs);
            let taken = open_proc(pid.as_raw()).and_then(|proc| {
                write_maps(&proc, idmap)?;
                openat(
                    &proc,
                    "ns/user",
                    OFlags::RDONLY | OFlags::CLOEXEC,
                    Mode::empty(),
                )
                .os("open", "ns/user")
            });
            drop(ours);
            let pid =
                rustix::process::Pid::from_raw(pid.as_raw()).ok_or_else(|| unexpected("pid 0"))?;
            let pidfd = pidfd_open(pid, PidfdFlags::empty())
                .os("pidfd_open", "holder of a user namespace")?;
            reap_blocking(pidfd.as_fd())?;
            taken
        }
    }
}

/// The directory of process `pid` in the host's /proc.
pub(super) fn open_proc(pid: i32) -> Result<OwnedFd> {
    let path = format!("/proc/{pid}");
    openat(
        CWD,
        &path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .os("open", path)
}
