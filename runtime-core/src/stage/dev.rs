//! /dev: a tmpfs of the host's user namespace (nodes work on it), with harmless nodes only.
//!
//! The nodes are made by host root and belong to root inside, as on a machine. None is a mount, so that /dev can be bound and
//! unmounted like any directory. What opens is the device policy's to say, not the nodes'.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, chownat, makedev, mkdirat, mknodat, openat,
    symlinkat,
};
use rustix::mount::MountAttrFlags;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::inroot::{self, Target};
use super::kmsg;
use super::mounts::Context;
use super::unlocked::Unlocked;
use super::userns_fs::TmpfsMaker;
use crate::error::{Error, OsContext, Result, Warning};
use crate::kernel::features::Features;
use crate::kernel::fs::FsOption;
use crate::kernel::fs::{self, PLAIN, option};
use crate::kernel::idmap::IdMap;
use crate::plan::{DeviceKind, DeviceNode};
use crate::sys::mount::{Change, NOEXEC, NOSUID, set_attr};

/// Nodes of every container, 0666.
const NODES: [(&str, u32, u32); 8] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
    (FUSE, 10, 229),
    ("net/tun", 10, 200),
];
/// The one that the configuration may withhold.
const FUSE: &str = "fuse";
const LINKS: [(&str, &str); 6] = [
    ("pts/ptmx", "ptmx"),
    ("/proc/kcore", "core"),
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
];
/// Group `tty` inside.
const TTY_GROUP: u32 = 5;

/// Terminals of the container.
#[derive(Debug)]
pub(super) struct Terminals {
    /// Root of the container's devpts.
    pub(super) devpts: OwnedFd,
    /// Master of init's terminal, if it asked one.
    pub(super) console: Option<OwnedFd>,
    /// Master of the terminal that is /dev/kmsg, if there is one, with the instance of devpts that it is in.
    pub(super) kmsg: Option<(OwnedFd, OwnedFd)>,
}

/// Makes /dev.
pub(super) fn mount(
    context: &Context<'_>,
    tmpfs: &mut TmpfsMaker,
    unlocked: &mut Unlocked,
    warnings: &mut Vec<Warning>,
) -> Result<Terminals> {
    let Context {
        root,
        plan,
        idmap,
        features,
        ..
    } = *context;
    let (uid, gid) = owner(idmap, 0, 0)?;
    let tty = idmap.host_gid(TTY_GROUP).unwrap_or(gid);
    let options = [
        option("mode", "0755"),
        option("size", "65536k"),
        option("uid", uid),
        option("gid", gid),
    ];
    let target = inroot::target(root, "/dev", Target::Directory(0o755))?;
    let ground = fs::new("tmpfs", &options, MountAttrFlags::MOUNT_ATTR_NOSUID)?;
    unlocked.attach_ground(ground, target, "/dev")?;
    let dev = inroot::open(root, "/dev", OFlags::RDONLY | OFlags::DIRECTORY).os("open", "/dev")?;

    for (name, major, minor) in NODES {
        if name == FUSE && !plan.base.fuse {
            continue;
        }
        make_node(&dev, name, FileType::CharacterDevice, (major, minor), 0o666)?;
    }
    for node in &plan.devices {
        extra(&dev, node, idmap)?;
    }
    for (to, name) in LINKS {
        symlinkat(to, &dev, name).os("symlink /dev/", name)?;
    }
    let kmsg = kmsg::mount(features, root, (uid, gid), unlocked).inspect_err(|error| {
        let text = format!(
            "not there: {}; if terminals have run out, raise kernel.pty.max",
            error.chain()
        );
        warnings.push(Warning::new("/dev/kmsg", text));
    });

    let pts = [
        FsOption {
            key: "newinstance".into(),
            value: None,
        },
        option("ptmxmode", "0666"),
        option("mode", "0620"),
        option("gid", tty),
    ];
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let pts = fs::new("devpts", &pts, attributes)?;
    // devpts gives both to the host's root.
    own(&pts, uid, gid)?;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let ptmx = openat(&pts, "ptmx", flags, Mode::empty()).os("open", "/dev/pts/ptmx")?;
    own(ptmx, uid, gid)?;
    attach_dir(root, "/dev/pts", pts, unlocked)?;
    attach_dir(
        root,
        "/dev/mqueue",
        fs::new("mqueue", &[], PLAIN)?,
        unlocked,
    )?;
    if plan.base.shm.is_some() {
        let mount = fs::mount(&tmpfs.next()?, "tmpfs", PLAIN)?;
        own(&mount, uid, gid)?;
        attach_dir(root, "/dev/shm", mount, unlocked)?;
    } else {
        mkdirat(&dev, "shm", Mode::from_raw_mode(0o755)).os("mkdir", "/dev/shm")?;
    }

    let devpts =
        inroot::open(root, "/dev/pts", OFlags::PATH | OFlags::DIRECTORY).os("open", "/dev/pts")?;
    let console = if plan.process.terminal {
        let (master, slave, number) = open_terminal(&devpts, plan.process.console_size)?;
        let (uid, tty) = terminal_owner(idmap, plan.process.uid)?;
        own(&slave, uid, tty)?;
        let slave_path = format!("/dev/pts/{number}");
        let slave = inroot::open(root, &slave_path, OFlags::PATH).os("open", &slave_path)?;
        bind(
            root,
            "/dev/console",
            fs::clone_fd(features, &slave, false, "/dev/console")?,
            unlocked,
        )?;
        Some(master)
    } else {
        None
    };
    Ok(Terminals {
        devpts,
        console,
        kmsg: kmsg.ok(),
    })
}

/// A terminal of devpts instance `devpts`, of `size` columns and rows: master, slave, number. No path
/// of the container is used: the slave comes from the master (TIOCGPTPEER).
pub(crate) fn open_terminal(
    devpts: &OwnedFd,
    size: Option<(u16, u16)>,
) -> Result<(OwnedFd, OwnedFd, u32)> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = openat(devpts, "ptmx", flags, Mode::empty()).os("open", "/dev/pts/ptmx")?;
    unlockpt(&master).os("unlockpt", "terminal")?;
    if let Some((columns, rows)) = size {
        let size = Winsize {
            ws_col: columns,
            ws_row: rows,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&master, size).os("set window size of", "terminal")?;
    }
    let name = rustix::pty::ptsname(&master, Vec::new()).os("ptsname", "terminal")?;
    let number = name
        .to_str()
        .ok()
        .and_then(|name| name.rsplit('/').next())
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| crate::stage::proto::unexpected("terminal name"))?;
    let slave = ioctl_tiocgptpeer(
        &master,
        OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
    )
    .os("TIOCGPTPEER", "terminal")?;
    Ok((master, slave, number))
}

/// Gives what `fd` refers to host owner `uid`, `gid`.
pub(crate) fn own(fd: impl AsFd, uid: u32, gid: u32) -> Result<()> {
    chownat(
        fd,
        "",
        Some(Uid::from_raw(uid)),
        Some(Gid::from_raw(gid)),
        AtFlags::EMPTY_PATH,
    )
    .os("chown", "descriptor")
}

/// Host ids of an id pair inside.
pub(super) fn owner(idmap: &IdMap, uid: u32, gid: u32) -> Result<(u32, u32)> {
    idmap.host_uid(uid).zip(idmap.host_gid(gid)).ok_or_else(|| {
        Error::invalid(
            "linux.uidMappings",
            format!("{uid}:{gid}"),
            "is not mapped: map it, or use an id that is",
        )
    })
}

/// A clone of a host device node, checked to be the device it is called (CVE-2025-31133).
pub(super) fn host_node(
    features: &Features,
    name: &str,
    major: u32,
    minor: u32,
) -> Result<OwnedFd> {
    let path = format!("/dev/{name}");
    let node = openat(
        CWD,
        &path,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .os("open host's", &path)?;
    let stat = rustix::fs::fstat(&node).os("stat host's", &path)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice
        || stat.st_rdev != makedev(major, minor)
    {
        return Err(Error::Unsupported {
            feature: format!("host's {path}"),
            needs: format!("to be character device {major}:{minor}"),
        });
    }
    let tree = fs::clone_fd(features, &node, false, &path)?;
    set_attr(
        &tree,
        Change {
            set: NOSUID | NOEXEC,
            ..Change::default()
        },
    )
    .os("mount_setattr", &path)?;
    Ok(tree)
}

fn bind(root: &OwnedFd, path: &str, tree: OwnedFd, unlocked: &mut Unlocked) -> Result<()> {
    let target = inroot::target(root, path, Target::File(0o666))?;
    unlocked.attach(tree, target, path)
}

fn attach_dir(root: &OwnedFd, path: &str, mount: OwnedFd, unlocked: &mut Unlocked) -> Result<()> {
    let target = inroot::target(root, path, Target::Directory(0o755))?;
    unlocked.attach_ground(mount, target, path)
}

fn extra(dev: &OwnedFd, node: &DeviceNode, idmap: &IdMap) -> Result<()> {
    let Some(name) = node.path.strip_prefix("/dev/").filter(|n| !n.is_empty()) else {
        return Err(Error::invalid(
            "linux.devices[].path",
            &node.path,
            "must be below /dev: devices elsewhere are not made",
        ));
    };
    let kind = match node.kind {
        DeviceKind::Char => FileType::CharacterDevice,
        DeviceKind::Block => FileType::BlockDevice,
        DeviceKind::Fifo => FileType::Fifo,
    };
    if NODES.iter().any(|(known, ..)| *known == name) {
        return Ok(());
    }
    make_node(dev, name, kind, (node.major, node.minor), node.mode)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = openat(dev, name, flags, Mode::empty()).os("open /dev/", name)?;
    let (uid, gid) = owner(idmap, node.uid, node.gid)?;
    own(&made, uid, gid)
}

/// Makes a node on our own /dev, where nobody else has a hand yet. It is root's inside, as whom the stage makes files; the
/// stage's umask is 0.
fn make_node(
    dev: &OwnedFd,
    name: &str,
    kind: FileType,
    (major, minor): (u32, u32),
    mode: u32,
) -> Result<()> {
    if let Some(parent) = std::path::Path::new(name)
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
    {
        inroot::directory(dev, parent)?;
    }
    mknodat(
        dev,
        name,
        kind,
        Mode::from_raw_mode(mode),
        makedev(major, minor),
    )
    .os("mknod /dev/", name)
}

/// Host owner and group of a terminal for user `uid` inside.
pub(crate) fn terminal_owner(idmap: &IdMap, uid: u32) -> Result<(u32, u32)> {
    let (root, root_group) = owner(idmap, 0, 0)?;
    Ok((
        idmap.host_uid(uid).unwrap_or(root),
        idmap.host_gid(TTY_GROUP).unwrap_or(root_group),
    ))
}
