//! What the article's "security scanner" does where a job owns the host: it looks for the disk, mounts it and rewrites
//! the login banner; and the usual ways out through `/proc` and `/sys`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use integration::node::Node;

/// Answers that mean no, in small letters: mount(8) writes them so, a shell does not.
const NO: [&str; 6] = [
    "operation not permitted",
    "permission denied",
    "read-only file system",
    "does not exist",
    "no such file or directory",
    "nonexistent",
];

/// A disk of the host, as the attacker names it.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) name: String,
    major: u32,
    minor: u32,
}

impl Disk {
    /// The disk that holds the host's root, else any; none on a machine without one.
    pub(crate) fn of_host() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let root = mounts.lines().find_map(|line| {
            let fields: Vec<_> = line.split(' ').collect();
            (fields.get(4) == Some(&"/"))
                .then(|| fields.get(2).map(|device| (*device).to_owned()))?
        });
        let others = fs::read_dir("/sys/block").into_iter().flatten().flatten();
        let others = others.filter_map(|disk| fs::read_to_string(disk.path().join("dev")).ok());
        root.into_iter()
            .chain(others)
            .find_map(|device| Self::named(device.trim()))
    }

    fn named(device: &str) -> Option<Self> {
        let entry = Path::new("/sys/dev/block").join(device);
        let size = fs::read_to_string(entry.join("size")).ok()?;
        let uevent = fs::read_to_string(entry.join("uevent")).ok()?;
        let name = uevent
            .lines()
            .find_map(|line| line.strip_prefix("DEVNAME="))?;
        let (major, minor) = device.split_once(':')?;
        (size.trim() != "0").then_some(Self {
            name: name.to_owned(),
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        })
    }

    /// A script that makes a node of the disk, which is all that a privileged container needs to have it.
    pub(crate) fn mknod(&self) -> String {
        format!("mknod /tmp/disk b {} {}", self.major, self.minor)
    }

    /// The article's attack, and the same from a container one level further in.
    pub(crate) fn attempts(&self, banner: &Path) -> Vec<(&'static str, String)> {
        let Self { name, major, minor } = self;
        let banner = banner.display();
        vec![
            (
                "mount",
                format!("mount /dev/{name} /mnt; echo owned >/mnt{banner}"),
            ),
            (
                "mknod",
                format!(
                    "{}; mount /tmp/disk /mnt; echo owned >/mnt{banner}",
                    self.mknod()
                ),
            ),
            (
                "mknod in a privileged inner container",
                format!(
                    "docker run --rm --privileged bb sh -ec 'mknod /disk b {major} {minor}; mount /disk /mnt; echo owned >/mnt{banner}'"
                ),
            ),
        ]
    }
}

/// Ways out that need no disk. What each would change is in [`Bytes`].
pub(crate) fn other_attempts() -> Vec<(&'static str, String)> {
    [
        (
            "core_pattern",
            "echo '|/tmp/x' >/proc/sys/kernel/core_pattern",
        ),
        ("uevent_helper", "echo /tmp/x >/sys/kernel/uevent_helper"),
        ("sysrq-trigger", "echo h >/proc/sysrq-trigger"),
        ("kcore", "head -c 1 /proc/kcore >/dev/null"),
    ]
    .map(|(name, script)| (name, script.to_owned()))
    .into()
}

/// Runs each attempt inside; the answers, if every one of them is a no.
pub(crate) fn refused(
    node: &Node,
    id: &str,
    attempts: &[(&'static str, String)],
) -> Result<String> {
    let mut answers = Vec::new();
    for (name, script) in attempts {
        let output = node.task_shell(id, script)?;
        ensure!(output.code != 0, "{name} worked: {script}");
        let said = format!("{}{}", output.stdout, output.stderr);
        // An attempt that failed for another reason, a missing tool, say, would prove nothing.
        let small = said.to_lowercase();
        let answer = NO.iter().find(|no| small.contains(*no));
        let Some(answer) = answer else {
            bail!("{name} failed, but was not refused: {said}");
        };
        answers.push(format!("{name}: {answer}"));
    }
    Ok(answers.join("; "))
}

/// Files of the host that the attack would change, with their bytes.
#[derive(Debug)]
pub(crate) struct Bytes(Vec<(PathBuf, Option<Vec<u8>>)>);

impl Bytes {
    /// As they are now; `banner` is a file on the host's disk beside the host's own banners.
    pub(crate) fn now(banner: &Path) -> Self {
        let files = [
            banner,
            Path::new("/etc/issue"),
            Path::new("/etc/motd"),
            Path::new("/proc/sys/kernel/core_pattern"),
            Path::new("/sys/kernel/uevent_helper"),
        ];
        Self(
            files
                .map(|file| (file.to_owned(), fs::read(file).ok()))
                .into(),
        )
    }

    /// Names the files that were read.
    pub(crate) fn unchanged(&self) -> Result<String> {
        let mut changed = Vec::new();
        for (file, bytes) in &self.0 {
            if fs::read(file).ok() != *bytes {
                changed.push(file.display().to_string());
                if let Some(bytes) = bytes {
                    // The demo harms nobody, not even where the runtime let the attack pass.
                    fs::write(file, bytes)
                        .with_context(|| format!("put back {}", file.display()))?;
                }
            }
        }
        ensure!(
            changed.is_empty(),
            "the attack changed {}; their bytes are put back",
            changed.join(", ")
        );
        let names: Vec<_> = self
            .0
            .iter()
            .filter(|(_, bytes)| bytes.is_some())
            .map(|(file, _)| file.file_name().unwrap_or_default().to_string_lossy())
            .collect();
        Ok(names.join(", "))
    }
}
