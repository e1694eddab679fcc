//! What a process in the container can see of itself and around it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, Result};
use nix::sys::stat::{major, minor};
use serde_json::{Value, json};

/// One object; its keys are the contract with the tests.
pub(crate) fn all() -> Result<Value> {
    let status = fields(&read("/proc/self/status")?);
    let field = |name: &str| status.get(name).cloned().unwrap_or_default();
    let stat = read("/proc/stat")?;
    let btime = stat
        .lines()
        .find_map(|line| line.strip_prefix("btime "))
        .and_then(|value| value.parse::<u64>().ok());
    let uptime = read("/proc/uptime")?;
    Ok(json!({
        "pid": std::process::id(),
        "uid_map": words(&read("/proc/self/uid_map")?),
        "gid_map": words(&read("/proc/self/gid_map")?),
        "setgroups": read("/proc/self/setgroups")?.trim(),
        "namespaces": namespaces()?,
        "capabilities": {
            "inheritable": field("CapInh"), "permitted": field("CapPrm"), "effective": field("CapEff"),
            "bounding": field("CapBnd"), "ambient": field("CapAmb"),
        },
        "no_new_privs": field("NoNewPrivs"),
        "seccomp": field("Seccomp"),
        "umask": field("Umask"),
        "uid": words(&field("Uid")),
        "gid": words(&field("Gid")),
        "groups": field("Groups").split_whitespace().collect::<Vec<_>>(),
        "rlimits": rlimits()?,
        "oom_score_adj": read("/proc/self/oom_score_adj")?.trim(),
        "cgroup": read("/proc/self/cgroup")?.lines().collect::<Vec<_>>(),
        "env": std::env::vars().collect::<BTreeMap<_, _>>(),
        "cwd": std::env::current_dir().context("find the working directory")?,
        "hostname": read("/proc/sys/kernel/hostname")?.trim(),
        "domainname": read("/proc/sys/kernel/domainname")?.trim(),
        "mounts": mounts()?.iter().map(Mount::json).collect::<Vec<_>>(),
        "dev": devices(Path::new("/dev"))?,
        "btime": btime,
        "uptime": uptime.split('.').next().and_then(|value| value.parse::<u64>().ok()),
        "sysinfo_uptime": nix::sys::sysinfo::sysinfo().context("sysinfo")?.uptime().as_secs(),
    }))
}

/// One line of mountinfo (proc_pid_mountinfo(5)).
#[derive(Debug)]
pub(crate) struct Mount {
    pub(crate) id: u64,
    pub(crate) point: String,
    pub(crate) options: Vec<String>,
    pub(crate) propagation: Vec<String>,
    pub(crate) kind: String,
    source: String,
    superblock: Vec<String>,
}

impl Mount {
    fn json(&self) -> Value {
        json!({
            "point": self.point, "options": self.options, "propagation": self.propagation,
            "kind": self.kind, "source": self.source, "superblock": self.superblock,
        })
    }
}

pub(crate) fn mounts() -> Result<Vec<Mount>> {
    let list = |text: &str| text.split(',').map(str::to_owned).collect();
    let parse = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let left: Vec<_> = left.split(' ').collect();
        let mut right = right.splitn(3, ' ');
        Some(Mount {
            id: left.first()?.parse().ok()?,
            point: (*left.get(4)?).to_owned(),
            options: list(left.get(5)?),
            propagation: left.get(6..)?.iter().map(|&word| word.to_owned()).collect(),
            kind: right.next()?.to_owned(),
            source: right.next()?.to_owned(),
            superblock: list(right.next()?),
        })
    };
    let table = read("/proc/self/mountinfo")?;
    table
        .lines()
        .map(|line| parse(line).with_context(|| format!("a strange line in mountinfo: {line}")))
        .collect()
}

fn namespaces() -> Result<BTreeMap<String, String>> {
    let dir = Path::new("/proc/self/ns");
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).context("list namespaces")? {
        let entry = entry?;
        let target = fs::read_link(entry.path()).context("read a namespace link")?;
        found.insert(
            entry.file_name().to_string_lossy().into_owned(),
            target.to_string_lossy().into_owned(),
        );
    }
    Ok(found)
}

fn rlimits() -> Result<BTreeMap<String, [String; 2]>> {
    let table = read("/proc/self/limits")?;
    let row = |line: &str| {
        let rest = line.get(26..)?;
        let mut values = rest.split_whitespace();
        Some((
            line.get(..26)?.trim().to_owned(),
            [values.next()?.to_owned(), values.next()?.to_owned()],
        ))
    };
    Ok(table.lines().skip(1).filter_map(row).collect())
}

/// Every node below `dir`, by its path; terminals of `/dev/pts` left out, for they come and go.
fn devices(dir: &Path) -> Result<BTreeMap<String, Value>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let path = entry?.path();
        let meta =
            fs::symlink_metadata(&path).with_context(|| format!("stat {}", path.display()))?;
        let kind = meta.file_type();
        let name = match () {
            () if kind.is_char_device() => "char",
            () if kind.is_block_device() => "block",
            () if kind.is_dir() => "dir",
            () if kind.is_symlink() => "link",
            () if kind.is_file() => "file",
            () => "other",
        };
        let device = (kind.is_char_device() || kind.is_block_device())
            .then(|| format!("{}:{}", major(meta.rdev()), minor(meta.rdev())));
        let target = fs::read_link(&path).ok();
        found.insert(
            path.to_string_lossy().into_owned(),
            json!({"type": name, "device": device, "uid": meta.uid(), "gid": meta.gid(), "mode": format!("{:o}", meta.mode() & 0o7777), "link": target}),
        );
        if kind.is_dir() && path != Path::new("/dev/pts") {
            found.append(&mut devices(&path)?);
        }
    }
    Ok(found)
}

fn fields(status: &str) -> BTreeMap<String, String> {
    status
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
        .collect()
}

fn words(text: &str) -> Vec<u64> {
    text.split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect()
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {path}"))
}
