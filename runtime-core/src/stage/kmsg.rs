//! `/dev/kmsg`: the slave of a pseudo-terminal, whose master the shim drains (`container::kmsg`).
//!
//! The host's log is not the container's, and no kernel object is an empty one. Engines look for a character device, so
//! that `docker run --privileged` and `--device=/dev/kmsg` inside pass it on; journald 262 and programs in Go put it into
//! epoll; nobody may read anything from it, and everybody's writes must end. What was tried:
//!
//! - A FUSE file whose root is the file: all but the character device, for a file of FUSE that is one opens the kernel's.
//! - CUSE: a device of the whole host, with a name in its devtmpfs and sysfs, for each container; the module is missing in
//!   many kernels; and who reads it waits for its server in a sleep that no signal ends.
//! - /dev/null: epoll refuses it. /dev/random and the arbiter of VGA: always readable. /dev/ppp, the control device of the
//!   device mapper and their like: writes fail. Device 1:11: the host's log.
//! - The terminal: reads wait or are EAGAIN, poll says writable only, writes go. The kernel ends every wait of its own by a
//!   signal, and nobody but us and the container is concerned.
//!
//! What differs from the kernel's: lseek(2) is ESPIPE. journald, dmesg, the kubelet's and cAdvisor's parsers do not seek or
//! do not look at the result. A session leader without a terminal that opens it for reading without O_NOCTTY has it as its
//! terminal from then on: others notice nothing, and when that process exits its own process group gets SIGHUP
//! (drivers/tty/tty_jobctrl.c). Flow control and exclusive use are in the hands of who may open it, so that is root only,
//! as with `kernel.dmesg_restrict`.

use std::os::fd::OwnedFd;

use rustix::mount::{MountAttrFlags, UnmountFlags, unmount};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

use super::dev::{open_terminal, own};
use super::inroot::{self, Target};
use super::unlocked::Unlocked;
use crate::error::{OsContext, Result};
use crate::kernel::features::{Feature, Features};
use crate::kernel::fs::{self, FsOption, option};
use crate::sys;

/// Puts it on /dev/kmsg below `root` for the host's `owner`; returns the master, and the instance of devpts that it is in,
/// to be closed at the very end: the kernel waits for grace periods of RCU then.
///
/// In an instance of its own, so that terminals of the container count from 0. Where the kernel clones only what is attached,
/// it is for a moment, on `/dev/pts`.
pub(super) fn mount(
    features: &Features,
    root: &OwnedFd,
    owner: (u32, u32),
    unlocked: &mut Unlocked,
) -> Result<(OwnedFd, OwnedFd)> {
    let options = [
        FsOption {
            key: "newinstance".into(),
            value: None,
        },
        option("ptmxmode", "0000"),
        option("mode", "0600"),
    ];
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let devpts = fs::new("devpts", &options, attributes)?;
    let made = if features.has(Feature::CloneDetached) {
        terminal(features, &devpts, owner)
    } else {
        let place = inroot::target(root, "/dev/pts", Target::Directory(0o755))?;
        fs::attach(&devpts, place, "/dev/pts")?;
        let made = terminal(features, &devpts, owner);
        unmount(sys::fd::path(&devpts), UnmountFlags::DETACH)
            .os("umount", "devpts of /dev/kmsg")?;
        made
    };
    let (master, slave) = made?;
    let target = inroot::target(root, "/dev/kmsg", Target::File(0o600))?;
    unlocked.attach(slave, target, "/dev/kmsg")?;
    Ok((master, devpts))
}

/// Master, and a clone of the slave's node.
fn terminal(
    features: &Features,
    devpts: &OwnedFd,
    (uid, gid): (u32, u32),
) -> Result<(OwnedFd, OwnedFd)> {
    let (master, slave, _) = open_terminal(devpts, None)?;
    // Nothing is echoed, nothing is a signal, a read waits for a byte.
    let mut raw = tcgetattr(&slave).os("tcgetattr", "/dev/kmsg")?;
    raw.make_raw();
    tcsetattr(&slave, OptionalActions::Now, &raw).os("tcsetattr", "/dev/kmsg")?;
    own(&slave, uid, gid)?;
    let node = fs::clone_fd(features, &slave, false, "/dev/kmsg")?;
    Ok((master, node))
}
