//! proc, sysfs and cgroup2 of the container's namespaces.
//!
//! The kernel lets a user namespace mount its own procfs or sysfs only where one is fully visible
//! already (mount_too_revealing() in fs/namespace.c), and masks make the visible ones partial. So a
//! pristine instance of each lies hidden under the visible /proc: on a tmpfs of mode 0000 that the
//! visible procfs covers, and that stays behind where nobody can reach it (see `unlocked`). The rule does not ask that
//! anybody can.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sched::CloneFlags;
use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{MountAttrFlags, fsconfig_set_fd};
use rustix::process::{PidfdFlags, pidfd_open};

use super::dev;
use super::inroot::{self, Target};
use super::mounts::Context;
use super::unlocked::Unlocked;
use crate::error::{Error, OsContext, Result, StageFailure};
use crate::kernel::features::{Feature, Features};
use crate::kernel::fs::{self, PLAIN, option};
use crate::kernel::reap::reap_blocking;
use crate::stage::Step;
use crate::stage::proto::{Channel, Message, unexpected};
use crate::sys::clone::{Side, SingleThreaded, clone3, exit};
use crate::sys::mount::{Change, NODEV, NOEXEC, NOSUID, RDONLY, set_attr};

/// What /sys/class/tty/console/active says inside: without it agetty reads the host's consoles and
/// loops on a device that is not there (whole.md 3).
const ACTIVE_CONSOLE: &[u8] = b"console\n";

/// Mounts /proc, /sys and /sys/fs/cgroup; the caller is in the network and cgroup namespaces that
/// they show. `owner` are the host's ids of root inside. Where /sys is to be read-only, so is what is below it, and what
/// of sysfs is mounted further inside (the hidden instance is what the kernel measures that by).
///
/// The root of /sys stays nobody's: the owners of sysfs are kept with its entries, which all instances share, so that a
/// chown here would be one of the host's /sys. Of the container's network interfaces root inside is owner by the kernel's doing.
pub(super) fn mount(
    context: &Context<'_>,
    owner: (u32, u32),
    unlocked: &mut Unlocked,
) -> Result<()> {
    let Context {
        proof,
        root,
        plan,
        pid_ns,
        features,
        ..
    } = *context;
    let readonly = plan.base.readonly;
    let cover = [
        option("mode", "0000"),
        option("size", "8k"),
        option("nr_inodes", 8),
    ];
    let target = inroot::target(root, "/proc", Target::Directory(0o755))?;
    unlocked.attach(fs::new("tmpfs", &cover, PLAIN)?, target, "/proc")?;
    attach(procfs(proof, pid_ns, features)?, root, "/proc/p")?;
    attach(further("sysfs", readonly)?, root, "/proc/s")?;
    let active = active_console(root, features)?;
    let cover = inroot::open(root, "/proc", OFlags::PATH).os("open", "/proc")?;
    set_attr(
        &cover,
        Change {
            set: RDONLY,
            ..Change::default()
        },
    )
    .os("remount read-only", "/proc cover")?;

    let visible = procfs(proof, pid_ns, features)?;
    // Its root directory is the host root's, which is nobody inside; images expect their root.
    dev::own(&visible, owner.0, owner.1)?;
    attach(visible, root, "/proc")?;
    let target = inroot::target(root, "/sys", Target::Directory(0o755))?;
    unlocked.attach(further("sysfs", readonly)?, target, "/sys")?;
    attach(further("cgroup2", readonly)?, root, "/sys/fs/cgroup")?;
    if let Some(target) = inroot::existing(root, "/sys/class/tty/console/active")? {
        fs::attach(active, target, "/sys/class/tty/console/active")?;
    }
    Ok(())
}

/// A sysfs, cgroup2 or mqueue of the namespaces that the caller is in.
pub(super) fn further(fs_type: &str, readonly: bool) -> Result<OwnedFd> {
    let attributes = if readonly {
        PLAIN | MountAttrFlags::MOUNT_ATTR_RDONLY
    } else {
        PLAIN
    };
    fs::new(fs_type, &[], attributes)
}

fn attach(mount: OwnedFd, root: &OwnedFd, path: &str) -> Result<()> {
    let target = inroot::target(root, path, Target::Directory(0o755))?;
    fs::attach(mount, target, path)
}

/// The file to bind over sysfs's, kept on the hidden tmpfs.
fn active_console(root: &OwnedFd, features: &Features) -> Result<OwnedFd> {
    let cover = inroot::open(root, "/proc", OFlags::PATH).os("open", "/proc")?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat(&cover, "console", flags, Mode::from_raw_mode(0o444))
        .os("create", "/proc cover console")?;
    std::fs::File::from(file)
        .write_all(ACTIVE_CONSOLE)
        .os("write", "/proc cover console")?;
    let file = openat(
        &cover,
        "console",
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .os("open", "/proc cover console")?;
    let tree = fs::clone_fd(features, &file, false, "/proc cover console")?;
    set_attr(
        &tree,
        Change {
            set: RDONLY | NOSUID | NODEV | NOEXEC,
            ..Change::default()
        },
    )
    .os("mount_setattr", "console")?;
    Ok(tree)
}

/// A procfs of pid namespace `pid_ns`, detached.
pub(super) fn procfs(
    proof: &SingleThreaded,
    pid_ns: BorrowedFd<'_>,
    features: &Features,
) -> Result<OwnedFd> {
    let context = if features.has(Feature::ProcPidns) {
        let context = fs::context("proc", &[])?;
        fsconfig_set_fd(&context, "pidns", pid_ns)
            .map_err(|errno| fs::explain(&context, "set pidns of", "proc", errno))?;
        context
    } else {
        // The opener's namespace counts.
        context_from_inside(proof, pid_ns)?
    };
    fs::create(&context, "proc")?;
    fs::mount(&context, "proc", PLAIN)
}

/// A context opened by a process in the pid namespace: joining one takes effect for children.
fn context_from_inside(proof: &SingleThreaded, pid_ns: BorrowedFd<'_>) -> Result<OwnedFd> {
    let (ours, theirs) = Channel::pair()?;
    match clone3(proof, 0, None, false).os("clone3", "opener of proc")? {
        Side::Child => exit(i32::from(inside(proof, pid_ns, &theirs).is_err())),
        Side::Parent(pid) => {
            drop(theirs);
            let reply = ours.recv::<Message>();
            reap_child(pid)?;
            match reply? {
                Some((Message::Request, mut fds)) if fds.len() == 1 => Ok(fds.remove(0)),
                Some((Message::Failed(failure), _)) => Err(Error::Stage(failure)),
                _ => Err(unexpected("the opener of proc died")),
            }
        }
    }
}

fn inside(proof: &SingleThreaded, pid_ns: BorrowedFd<'_>, channel: &Channel) -> Result<()> {
    let opened = nix::sched::setns(pid_ns, CloneFlags::CLONE_NEWPID)
        .os("setns", "pid namespace")
        .and_then(
            |()| match clone3(proof, 0, None, false).os("clone3", "opener of proc")? {
                Side::Child => {
                    let sent = fs::context("proc", &[]).and_then(|context| {
                        channel.send_with(&Message::Request, &[context.as_fd()])
                    });
                    exit(i32::from(sent.is_err()))
                }
                Side::Parent(pid) => reap_child(pid),
            },
        );
    if let Err(error) = &opened {
        let failure = StageFailure {
            step: Step::Proc.to_string(),
            chain: error.chain(),
            errno: error.errno(),
        };
        channel.send(&Message::Failed(failure))?;
    }
    opened
}

fn reap_child(pid: nix::unistd::Pid) -> Result<()> {
    let pid = rustix::process::Pid::from_raw(pid.as_raw()).ok_or_else(|| unexpected("pid 0"))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).os("pidfd_open", "stage's child")?;
    reap_blocking(&pidfd).map(|_| ())
}
