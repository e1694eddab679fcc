//! What the administrator has set up: our configuration, the pool of ids, containerd, limits of the host.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use runtime_core::{Config, DEFAULT_PATH, Ids};

use super::{Finding, command};

/// Where containerd's service looks for shims: its `PATH`, on every distribution.
const SERVICE_PATH: &[&str] = &[
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// The configuration file.
pub(super) fn configuration(path: &Path, loaded: &runtime_core::Result<Config>) -> Finding {
    const NAME: &str = "configuration";
    let name = path.display();
    match loaded {
        Ok(_) if path.exists() => Finding::ok(NAME, name.to_string()),
        Ok(_) => Finding::ok(NAME, format!("defaults, there is no {name}")),
        Err(error) => Finding::missing(NAME, error.chain(), format!("correct {name}")),
    }
}

/// How many pods the pool has room for beside the ranges of the host's users, which it leaves out.
pub(super) fn id_pool(config: &Config) -> Finding {
    let tables: Vec<String> = ["/etc/subuid", "/etc/subgid"]
        .iter()
        .map(|path| fs::read_to_string(path).unwrap_or_default())
        .collect();
    judge_pool(
        &config.ids,
        &tables.concat(),
        Path::new("/var/lib/kubelet").exists(),
    )
}

fn judge_pool(ids: &Ids, subids: &str, kubelet: bool) -> Finding {
    const NAME: &str = "id pool";
    let size = u64::from(ids.per_pod);
    let slots = (0..u64::from(ids.count) / size).map(|slot| {
        let first = u64::from(ids.first) + slot * size;
        first..first + size
    });
    let all = slots.clone().count();
    let free = slots
        .filter(|slot| overlapping(subids, slot).next().is_none())
        .count();
    let last = u64::from(ids.first) + u64::from(ids.count) - 1;
    let detail = format!("{}-{last}, room for {free} pods", ids.first);
    let confined = subids.lines().any(|line| line.starts_with("kubelet:"));
    if free == all && kubelet && !confined {
        return Finding::degraded(
            NAME,
            format!("{detail}; the kubelet takes any ids for pods with `hostUsers: false`"),
            "such a pod is refused where the kubelet has chosen ids of a pod without that field",
            "add a user kubelet, for it the line kubelet:65536:7208960 to /etc/subuid and /etc/subgid, and the program getsubids",
        );
    }
    if free == all {
        return Finding::ok(NAME, detail);
    }
    let pool = u64::from(ids.first)..last + 1;
    let owners: BTreeSet<_> = overlapping(subids, &pool).collect();
    let detail = format!(
        "{detail}; {} reach into it (/etc/subuid, /etc/subgid)",
        owners.into_iter().collect::<Vec<_>>().join(", ")
    );
    let remedy = format!("set `ids` in {DEFAULT_PATH} to ids that nobody else hands out");
    if free == 0 {
        return Finding::missing(NAME, detail, remedy);
    }
    let cost = format!("{} pods fewer: those ranges are left out", all - free);
    Finding::degraded(NAME, detail, cost, remedy)
}

/// Owners of subordinate ranges (subuid(5)) that reach into `ids`.
fn overlapping<'a>(table: &'a str, ids: &'a Range<u64>) -> impl Iterator<Item = &'a str> {
    table.lines().filter_map(move |line| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let first: u64 = fields.next()?.parse().ok()?;
        let count: u64 = fields.next()?.parse().ok()?;
        (count > 0 && first < ids.end && ids.start < first.saturating_add(count)).then_some(owner)
    })
}

/// containerd, which starts us.
pub(super) fn containerd() -> Finding {
    const NAME: &str = "containerd";
    let remedy = "install containerd 1.7 or newer";
    let cost = "nothing starts a shim; Docker's own containerd counts where it is elsewhere";
    let Some(path) = find_program("containerd") else {
        return Finding::degraded(NAME, "not in the usual directories", cost, remedy);
    };
    let Some(text) = command::first_line(&path, &["--version"]) else {
        return Finding::degraded(
            NAME,
            format!("{} does not run", path.display()),
            cost,
            remedy,
        );
    };
    match containerd_version(&text) {
        Some((major, minor)) if (major, minor) < (1, 7) => Finding::degraded(
            NAME,
            format!("{major}.{minor} at {}", path.display()),
            "older than what is tested: shims may be started in another way",
            remedy,
        ),
        Some((major, minor)) => Finding::ok(NAME, format!("{major}.{minor} at {}", path.display())),
        None => Finding::degraded(
            NAME,
            format!("{} says {text:?}", path.display()),
            "its version is not known",
            remedy,
        ),
    }
}

/// `containerd github.com/containerd/containerd/v2 v2.1.9 …` (Debian leaves the `v` out).
fn containerd_version(line: &str) -> Option<(u32, u32)> {
    let word = line.split_ascii_whitespace().nth(2)?;
    let mut numbers = word.trim_start_matches('v').split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Whether containerd can find this program by its runtime type (containerd `docs/runtime-v2.md`).
pub(super) fn installed() -> Finding {
    const NAME: &str = "shim";
    const BINARY: &str = "containerd-shim-sysbox-v2";
    match find_program(BINARY) {
        Some(path) => Finding::ok(NAME, path.display().to_string()),
        None => Finding::degraded(
            NAME,
            format!("{BINARY} is not in {}", SERVICE_PATH.join(":")),
            "containerd cannot find the runtime io.containerd.sysbox.v2 by its name",
            "install it: deploy/install.sh install",
        ),
    }
}

fn find_program(name: &str) -> Option<PathBuf> {
    SERVICE_PATH
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| {
            fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
        })
}

/// Linux security modules that bear on us.
pub(super) fn security_modules() -> Finding {
    const NAME: &str = "security modules";
    let active = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    let enforcing = fs::read_to_string("/sys/fs/selinux/enforce").is_ok_and(|t| t.trim() == "1");
    let apparmor = fs::read_to_string("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|text| text.trim() == "Y");
    if enforcing {
        return Finding::degraded(
            NAME,
            "SELinux enforcing",
            "not tested: policy may refuse what systemd or an engine inside does",
            "watch `ausearch -m avc`, or run these nodes permissive",
        );
    }
    let list = if active.trim().is_empty() {
        "none listed"
    } else {
        active.trim()
    };
    Finding::ok(
        NAME,
        if apparmor {
            format!("AppArmor enabled ({list})")
        } else {
            list.into()
        },
    )
}

/// Ubuntu's restriction of user namespaces (AppArmor) also reaches into containers.
pub(super) fn nested_user_namespaces() -> Finding {
    const NAME: &str = "nested userns";
    for (file, bad, fix) in [
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            1,
            0,
        ),
        ("/proc/sys/kernel/unprivileged_userns_clone", 0, 1),
    ] {
        if number(file) == Some(bad) {
            let sysctl = file.trim_start_matches("/proc/sys/").replace('/', ".");
            return Finding::degraded(
                NAME,
                format!("{sysctl}={bad}"),
                "rootless engines and browsers inside may be refused their own user namespaces",
                format!("sysctl -w {sysctl}={fix}"),
            );
        }
    }
    Finding::ok(NAME, "not restricted")
}

/// The number in a file of the kernel's.
pub(super) fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::finding::Status;
    use super::*;

    #[test]
    fn subordinate_ranges_that_reach_into_the_pool_are_named() {
        let pool = 1000..2000;
        for (table, owners) in [
            ("a:0:1000\nb:2000:10\n", &[][..]),
            ("a:0:1001\n", &["a"]),
            ("a:1999:1\n1001:1500:10\n", &["a", "1001"]),
            ("a:0:100000\n", &["a"]),
            ("# comment\n\nbroken\na:x:1\na:1500\n", &[]),
            ("a:1500:0\n", &[]),
            ("a:1:18446744073709551615\n", &["a"]),
        ] {
            assert_eq!(
                overlapping(table, &pool).collect::<Vec<_>>(),
                owners,
                "{table}"
            );
        }
    }

    #[test]
    fn the_pool_is_what_the_hosts_users_leave() {
        let ids = Ids {
            first: 1_000_000,
            count: 400_000,
            per_pod: 100_000,
        };
        for (kubelet, subids, status, detail, cost) in [
            (
                false,
                "a:100000:65536\n",
                Status::Ok,
                "1000000-1399999, room for 4 pods",
                "",
            ),
            (
                true,
                "a:100000:65536\n",
                Status::Degraded,
                "1000000-1399999, room for 4 pods; the kubelet takes any ids for pods with `hostUsers: false`",
                "such a pod is refused where the kubelet has chosen ids of a pod without that field",
            ),
            (
                true,
                "kubelet:65536:720896\n",
                Status::Ok,
                "1000000-1399999, room for 4 pods",
                "",
            ),
            (
                false,
                "a:1000000:65536\nb:1350000:200000\na:1000000:65536\n",
                Status::Degraded,
                "1000000-1399999, room for 2 pods; a, b reach into it (/etc/subuid, /etc/subgid)",
                "2 pods fewer: those ranges are left out",
            ),
            (
                false,
                "a:0:2000000\n",
                Status::Missing,
                "1000000-1399999, room for 0 pods; a reach into it (/etc/subuid, /etc/subgid)",
                "no container can be made",
            ),
        ] {
            let finding = judge_pool(&ids, subids, kubelet);
            assert_eq!(
                (finding.status, &*finding.detail, &*finding.cost),
                (status, detail, cost)
            );
        }
    }

    #[test]
    fn versions_of_containerd_are_read() {
        for (line, version) in [
            (
                "containerd github.com/containerd/containerd/v2 v2.1.9 abc",
                Some((2, 1)),
            ),
            (
                "containerd github.com/containerd/containerd 1.7.24~ds1 1.7.24~ds1-6",
                Some((1, 7)),
            ),
            ("containerd", None),
            ("containerd x devel", None),
        ] {
            assert_eq!(containerd_version(line), version, "{line}");
        }
    }
}
