//! Races against a runtime that works in the container, or on files that the container shares.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::fcntl::{OFlag, RenameFlags, renameat2};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use serde_json::{Value, json};

/// The names of processes that are still a runtime's: ours and runc's.
const RUNTIMES: [&str; 2] = ["sysbox:", "runc"];

/// `{seen, got, programs}`: how many processes of a runtime were met, what could be had of them, and the outcomes of
/// opening a runtime's program for writing.
///
/// Something counts only if the process was the runtime's after it was had, for it becomes the user's program in a moment.
pub(crate) fn watch(time: Duration) -> Value {
    let begin = Instant::now();
    let known: BTreeSet<i32> = processes().collect();
    let (mut seen, mut got) = (BTreeSet::new(), BTreeSet::new());
    let mut programs = BTreeSet::new();
    let mut held = Vec::new();
    while begin.elapsed() < time {
        for pid in processes().filter(|pid| !known.contains(pid)) {
            if let Some(program) = program_of_a_runtime(pid) {
                programs.insert(writable(&format!("/proc/{pid}/exe")));
                held.push(program);
            }
            // To its end as the runtime's, for that is when something may be had.
            while is_runtimes(pid) && begin.elapsed() < time {
                seen.insert(pid);
                for (what, attempt) in ATTEMPTS {
                    if attempt(pid) && is_runtimes(pid) {
                        got.insert(*what);
                    }
                }
                if traced(pid) {
                    got.insert("ptrace");
                }
            }
        }
    }
    // A program that nobody executes any more is no busy text file.
    for program in &held {
        programs.insert(writable(&format!("/proc/self/fd/{}", program.as_raw_fd())));
    }
    json!({"seen": seen.len(), "got": got, "programs": programs})
}

type Attempt = fn(i32) -> bool;

const ATTEMPTS: &[(&str, Attempt)] = &[
    // In the midst of execve(2) the kernel lets root inside list descriptors that are about to be closed (fs/exec.c, exec_mmap()
    // to do_close_on_exec()). The standard streams are the program's; a socket of ours can be counted, and no more.
    ("its descriptors", |pid| {
        let mut others = descriptors(pid).filter_map(|path| fs::read_link(path).ok());
        others.any(|target| !target.to_string_lossy().starts_with("socket:"))
    }),
    ("a list of more than one", |pid| {
        descriptors(pid).count() > 1
    }),
    ("an open file of its", |pid| {
        let open = |path| {
            OpenOptions::new()
                .read(true)
                .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
                .open(path)
        };
        descriptors(pid).any(|path| open(path).is_ok())
    }),
    ("its memory", |pid| {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(format!("/proc/{pid}/mem"))
            .is_ok()
    }),
    ("its environment", |pid| {
        fs::read(format!("/proc/{pid}/environ")).is_ok_and(|text| !text.is_empty())
    }),
    ("its program", |pid| {
        fs::read_link(format!("/proc/{pid}/exe")).is_ok()
    }),
    ("its root", |pid| {
        fs::read_dir(format!("/proc/{pid}/root/")).is_ok()
    }),
    ("its working directory", |pid| {
        fs::read_dir(format!("/proc/{pid}/cwd/")).is_ok()
    }),
    ("a copy of a descriptor", |pid| {
        let copy = || {
            let pid = rustix::process::Pid::from_raw(pid)?;
            let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
            pidfd_getfd(pidfd, 0, PidfdGetfdFlags::empty()).ok()
        };
        copy().is_some()
    }),
    ("its map of memory", |pid| {
        fs::read(format!("/proc/{pid}/maps")).is_ok_and(|text| !text.is_empty())
    }),
];

/// Its descriptors that are no standard streams, by their names in /proc.
fn descriptors(pid: i32) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd"));
    let entries = entries.into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let number: u32 = entry.file_name().to_str()?.parse().ok()?;
        (number > 2).then(|| entry.path())
    })
}

/// Whether it can be traced while it is the runtime's. It is let go in any case.
fn traced(pid: i32) -> bool {
    let it = Pid::from_raw(pid);
    if ptrace::attach(it).is_err() {
        return false;
    }
    let stopped = waitpid(it, None).is_ok() && is_runtimes(pid);
    ptrace::detach(it, None).ok();
    // Where it was about to execute a program, the stop that attaching asked for is still to come.
    kill(it, Signal::SIGCONT).ok();
    stopped
}

fn processes() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn is_runtimes(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm"))
        .is_ok_and(|name| RUNTIMES.iter().any(|known| name.starts_with(known)))
}

/// A descriptor of the program that `pid` runs, if it is no file of the container's.
fn program_of_a_runtime(pid: i32) -> Option<File> {
    let path = format!("/proc/{pid}/exe");
    let name = fs::read_link(&path).ok()?;
    let foreign = ["shim", "runc"]
        .iter()
        .any(|part| name.to_string_lossy().contains(part));
    let held = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_PATH.bits())
        .open(path);
    foreign.then_some(held.ok()).flatten()
}

/// The outcome of opening `path` for writing; nothing is written.
fn writable(path: &str) -> String {
    match OpenOptions::new().write(true).open(path) {
        Ok(_) => "ok".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// Exchanges the paths of each pair as fast as it can; how often.
pub(crate) fn swap(time: Duration, paths: &[&str]) -> Result<u64> {
    ensure!(
        !paths.is_empty() && paths.len().is_multiple_of(2),
        "paths come in pairs"
    );
    let begin = Instant::now();
    let mut count = 0;
    while begin.elapsed() < time {
        for pair in paths.chunks(2) {
            let (a, b) = (Path::new(pair[0]), Path::new(pair[1]));
            renameat2(
                nix::fcntl::AT_FDCWD,
                a,
                nix::fcntl::AT_FDCWD,
                b,
                RenameFlags::RENAME_EXCHANGE,
            )
            .with_context(|| format!("exchange {pair:?}"))?;
            count += 1;
        }
    }
    Ok(count)
}
