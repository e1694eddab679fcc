//! What the kernel can do. Each probe tries the thing itself; only the floor is a version.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use runtime_core::{Facts, Feature, Found, look_for_features};
use rustix::fs::{CWD, Mode, OFlags, StatFs, openat};
use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, fsopen};
use rustix::process::{PidfdFlags, getpid, pidfd_open};

use super::Finding;
use super::host::number;

/// Design: tmpfs can be ID-mapped from here on.
const FLOOR: (u32, u32) = (6, 3);

/// `SECCOMP_IOCTL_NOTIF_SET_FLAGS` has no probe without a listener.
const SYNC_WAKE_UP: (u32, u32) = (6, 6);

const TMPFS_MAGIC: i64 = 0x0102_1994;

/// The release.
pub(super) fn release() -> Finding {
    judge_release(&running_release())
}

fn running_release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

fn judge_release(release: &str) -> Finding {
    const NAME: &str = "kernel";
    let version = version(release);
    if version < FLOOR {
        return Finding::missing(NAME, release, "boot Linux 6.3 or newer");
    }
    Finding::ok(NAME, release)
}

/// Major and minor number; nothing is (0, 0).
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(['.', '-', '+'])
        .map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// The eight kinds that a container gets (namespaces(7)).
pub(super) fn namespaces() -> Finding {
    const NAME: &str = "namespaces";
    let lacking: Vec<_> = ["user", "pid", "net", "ipc", "uts", "mnt", "cgroup", "time"]
        .into_iter()
        .filter(|kind| !Path::new("/proc/self/ns").join(kind).exists())
        .collect();
    if !lacking.is_empty() {
        return Finding::missing(
            NAME,
            format!("without {}", lacking.join(", ")),
            "boot a kernel with all CONFIG_*_NS",
        );
    }
    match number("/proc/sys/user/max_user_namespaces") {
        Some(0) => Finding::missing(
            NAME,
            "user.max_user_namespaces=0",
            "sysctl -w user.max_user_namespaces=65536",
        ),
        Some(limit @ ..1024) => Finding::degraded(
            NAME,
            format!("user.max_user_namespaces={limit}"),
            "no more pods than that, those of engines inside included",
            "sysctl -w user.max_user_namespaces=65536",
        ),
        _ => Finding::ok(NAME, "all eight"),
    }
}

/// Exit statuses come through pidfds.
pub(super) fn pidfd() -> Finding {
    const NAME: &str = "pidfd";
    match pidfd_open(getpid(), PidfdFlags::empty()) {
        Ok(_) => Finding::ok(NAME, "pidfd_open(2) works"),
        Err(errno) => Finding::missing(
            NAME,
            format!("pidfd_open: {errno}"),
            "boot Linux 6.3 or newer; allow the call in the seccomp profile of containerd's service",
        ),
    }
}

/// Overlay, the root file system of nearly every image.
pub(super) fn overlay() -> Finding {
    const NAME: &str = "overlay";
    match open_fs("overlay") {
        Ok(_) => Finding::ok(NAME, "there"),
        Err(Errno::PERM) => Finding::needs_root(NAME),
        Err(errno) => Finding::missing(
            NAME,
            format!("fsopen overlay: {errno}"),
            "modprobe overlay (CONFIG_OVERLAY_FS)",
        ),
    }
}

/// What is used where it is there: create looks for it in the same way.
pub(super) fn features(pretended: &[Feature]) -> Vec<Finding> {
    look_for_features(pretended)
        .into_iter()
        .map(|(feature, found)| judge_feature(&feature.facts(), found))
        .collect()
}

fn judge_feature(facts: &Facts, found: Found) -> Finding {
    let Facts {
        name,
        since,
        without,
        costs,
    } = *facts;
    match found {
        Found::There => Finding::ok(name, "there"),
        Found::Missing(Errno::PERM) => Finding::needs_root(name),
        Found::Missing(errno) => Finding::degraded(
            name,
            format!("not there ({errno}): {without}"),
            costs,
            format!("nothing needs to be done; Linux {since} has it"),
        ),
        Found::Pretended => Finding::degraded(
            name,
            format!("not used, as `pretend-missing` says: {without}"),
            costs,
            "take it out of the configuration if nothing else speaks for it",
        ),
    }
}

/// A file-system context for `kind`; loads its module.
fn open_fs(kind: &str) -> rustix::io::Result<OwnedFd> {
    fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)
}

/// FUSE: files of /proc and /dev that we serve.
pub(super) fn fuse() -> Finding {
    const NAME: &str = "fuse";
    match openat(
        CWD,
        "/dev/fuse",
        OFlags::RDWR | OFlags::CLOEXEC,
        Mode::empty(),
    ) {
        Ok(_) => Finding::ok(NAME, "/dev/fuse opens"),
        Err(Errno::ACCESS) => Finding::needs_root(NAME),
        Err(errno) => Finding::missing(
            NAME,
            format!("open /dev/fuse: {errno}"),
            "modprobe fuse (CONFIG_FUSE_FS)",
        ),
    }
}

/// Seccomp filters, and notification for the system calls that only a supervisor can serve.
pub(super) fn seccomp() -> Finding {
    const ACTIONS: &str = "/proc/sys/kernel/seccomp/actions_avail";
    let actions = fs::read_to_string(ACTIONS).unwrap_or_default();
    judge_seccomp(&actions, version(&running_release()))
}

fn judge_seccomp(actions: &str, version: (u32, u32)) -> Finding {
    const NAME: &str = "seccomp";
    let has = |action| actions.split_ascii_whitespace().any(|word| word == action);
    if !has("errno") {
        return Finding::missing(
            NAME,
            "no filters",
            "boot a kernel with CONFIG_SECCOMP_FILTER",
        );
    }
    if !has("user_notif") {
        return Finding::degraded(
            NAME,
            "filters, no notification",
            "nothing yet: this release serves no system call itself",
            "boot a kernel with seccomp user notification",
        );
    }
    if version < SYNC_WAKE_UP {
        return Finding::degraded(
            NAME,
            "filters and notification, without synchronous wake-up",
            "nothing yet; a served system call would take some 50 µs instead of 7",
            "boot Linux 6.6 or newer",
        );
    }
    Finding::ok(NAME, "filters and notification with synchronous wake-up")
}

/// Lock files of ranges must vanish with the processes that they stand for.
pub(super) fn state_dir(dir: &str) -> Finding {
    const NAME: &str = "state directory";
    let existing = Path::new(dir)
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    match rustix::fs::statfs(existing) {
        Ok(StatFs {
            f_type: TMPFS_MAGIC,
            ..
        }) => Finding::ok(NAME, format!("{dir} on tmpfs")),
        Ok(_) => Finding::degraded(
            NAME,
            format!("{dir} is not on a tmpfs"),
            "what a crash of the host leaves there stays",
            "set `state-dir` to a directory on a tmpfs, such as /run",
        ),
        Err(errno) => Finding::missing(
            NAME,
            format!("statfs {}: {errno}", existing.display()),
            "set `state-dir` to a directory on a tmpfs, such as /run",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Status;
    use super::*;

    #[test]
    fn releases_are_judged_against_the_floor() {
        for (release, status) in [
            ("5.15.0-122-generic", Status::Missing),
            ("6.2.16", Status::Missing),
            ("6.3.0", Status::Ok),
            ("6.8.0-45-generic", Status::Ok),
            ("6.12.57+deb13-amd64", Status::Ok),
            ("6.18", Status::Ok),
            ("7.0-rc1", Status::Ok),
            ("", Status::Missing),
        ] {
            assert_eq!(judge_release(release).status, status, "{release}");
        }
    }

    #[test]
    fn a_feature_that_is_missing_names_its_release_and_cost() {
        let facts = Feature::ProcPidns.facts();
        for (found, status, words) in [
            (Found::There, Status::Ok, "there"),
            (Found::Missing(Errno::PERM), Status::Unknown, "only root"),
            (Found::Missing(Errno::INVAL), Status::Degraded, "not there"),
            (Found::Pretended, Status::Degraded, "`pretend-missing`"),
        ] {
            let finding = judge_feature(&facts, found);
            assert_eq!(finding.status, status);
            assert!(finding.detail.contains(words), "{finding:?}");
            if status == Status::Degraded {
                assert_eq!(finding.cost, facts.costs);
            }
        }
        let finding = judge_feature(&facts, Found::Missing(Errno::INVAL));
        assert!(finding.remedy.contains("6.18"), "{finding:?}");
    }

    #[test]
    fn seccomp_is_judged_by_its_actions() {
        let all = "kill_process kill_thread trap errno user_notif trace log allow\n";
        for (actions, version, status) in [
            (all, (6, 6), Status::Ok),
            (all, (6, 5), Status::Degraded),
            ("kill_thread trap errno allow", (6, 6), Status::Degraded),
            ("", (6, 6), Status::Missing),
        ] {
            assert_eq!(judge_seccomp(actions, version).status, status, "{actions}");
        }
    }
}
