//! Hooks of the runtime spec (config.md "POSIX-platform Hooks"): a program, the container's state on its standard input,
//! a time limit.
//!
//! Nothing here starts a thread, so the single-threaded stage runs its hooks with it, too.

use std::collections::BTreeMap;
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::error::{OsContext, Result, Warning};
use crate::kernel::reap::{self, ExitStatus};
use crate::plan::Hook;

/// Version of the runtime spec that hooks are told.
const OCI_VERSION: &str = "1.2.1";

/// How much of a hook's output an error quotes: its end.
const MAX_OUTPUT: usize = 4096;

/// The container's state as hooks read it (runtime.md "State").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HookState {
    /// Version of the runtime spec.
    pub oci_version: String,
    /// Container id.
    pub id: String,
    /// `creating`, `created`, `running` or `stopped`.
    pub status: Status,
    /// Pid of init in the runtime's pid namespace; none once it has exited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Absolute path of the bundle.
    pub bundle: PathBuf,
    /// `annotations` of the spec.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub annotations: BTreeMap<String, String>,
}

impl HookState {
    /// The state of container `id`.
    pub(crate) fn new(
        id: &str,
        status: Status,
        pid: Option<u32>,
        bundle: &Path,
        annotations: &BTreeMap<String, String>,
    ) -> HookState {
        HookState {
            oci_version: OCI_VERSION.into(),
            id: id.into(),
            status,
            pid,
            bundle: bundle.into(),
            annotations: annotations.clone(),
        }
    }
}

/// `status` of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the spec's own names
pub(crate) enum Status {
    Creating,
    Created,
    Running,
    Stopped,
}

/// Runs `hooks` in order, up to the first that fails. `kind` is the spec's name of the list (`createRuntime`), `cwd` the
/// directory they start in: the bundle for those of the runtime's namespaces.
///
/// # Errors
/// [`crate::Error::Os`] names the hook and says how it ended and the end of what it wrote to its output and error streams.
pub(crate) fn run(kind: &str, hooks: &[Hook], state: &HookState, cwd: &Path) -> Result<()> {
    hooks
        .iter()
        .enumerate()
        .try_for_each(|(index, hook)| run_one(kind, index, hook, state, cwd))
}

/// Runs all `hooks` in order whether or not one fails: what the spec asks of `poststop`.
pub(crate) fn run_all(kind: &str, hooks: &[Hook], state: &HookState, cwd: &Path) -> Vec<Warning> {
    hooks
        .iter()
        .enumerate()
        .filter_map(|(index, hook)| {
            let error = run_one(kind, index, hook, state, cwd).err()?;
            Some(Warning::new(
                format!("hooks.{kind}[{index}]"),
                error.chain(),
            ))
        })
        .collect()
}

fn run_one(kind: &str, index: usize, hook: &Hook, state: &HookState, cwd: &Path) -> Result<()> {
    let state = serde_json::to_vec(state).map_err(io::Error::from);
    state
        .and_then(|state| execute(hook, &state, cwd))
        .os("run hook", format!("hooks.{kind}[{index}] {}", hook.path))
}

/// A hook that runs. Dropping it kills it and whatever stayed in its process group.
struct Running {
    pid: Pid,
    pidfd: OwnedFd,
    reaped: bool,
}

fn execute(hook: &Hook, state: &[u8], cwd: &Path) -> io::Result<()> {
    let (output, writer) = io::pipe()?;
    let mut command = Command::new(&hook.path);
    if let Some((name, args)) = hook.args.split_first() {
        command.arg0(name).args(args);
    }
    command
        .env_clear()
        .envs(hook.env.iter().filter_map(|entry| entry.split_once('=')))
        .current_dir(cwd)
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    let mut child = command.spawn()?;
    drop(command); // and with it our copies of the pipe's write end
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(Errno::SRCH)?;
    let mut running = Running {
        pid,
        // Nobody else can have reaped it: every wait of ours is by pidfd.
        pidfd: pidfd_open(pid, PidfdFlags::empty())?,
        reaped: false,
    };
    let mut tail = Vec::new();
    let finished = running.attend(child.stdin.take(), state, output, hook.timeout, &mut tail)?;
    let ended = match finished {
        None => format!(
            "killed after its timeout of {} s",
            hook.timeout.unwrap_or_default()
        ),
        Some(ExitStatus::Code(0)) => return Ok(()),
        Some(ExitStatus::Code(code)) => format!("exit status {code}"),
        Some(ExitStatus::Signal(signal)) => format!("killed by signal {signal}"),
    };
    let output = String::from_utf8_lossy(&tail);
    Err(io::Error::other(match output.trim() {
        "" => ended,
        output => format!("{ended}: {output}"),
    }))
}

impl Running {
    /// Feeds and drains it until it exits; `None` when `timeout` seconds have passed. What its own children write after
    /// its exit is not waited for.
    fn attend(
        &mut self,
        mut stdin: Option<ChildStdin>,
        mut state: &[u8],
        mut output: PipeReader,
        timeout: Option<u64>,
        tail: &mut Vec<u8>,
    ) -> io::Result<Option<ExitStatus>> {
        if let Some(stdin) = &stdin {
            ioctl_fionbio(stdin, true)?;
        }
        ioctl_fionbio(&output, true)?;
        let deadline = timeout.and_then(|s| Instant::now().checked_add(Duration::from_secs(s)));
        let mut open = true;
        loop {
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(None);
            }
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            let mut fds = vec![PollFd::new(&self.pidfd, PollFlags::IN)];
            if open {
                fds.push(PollFd::new(&output, PollFlags::IN));
            }
            if let Some(stdin) = &stdin {
                fds.push(PollFd::new(stdin, PollFlags::OUT));
            }
            match poll(&mut fds, left.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if let Some(pipe) = &mut stdin {
                // A hook that does not read its state closes the pipe on us: its right.
                match pipe.write(state) {
                    Ok(written) => state = state.get(written..).unwrap_or_default(),
                    Err(error) if is_transient(&error) => {}
                    Err(_) => state = &[],
                }
                if state.is_empty() {
                    stdin = None;
                }
            }
            let exited = reap::reap(&self.pidfd).map_err(io::Error::other)?;
            self.reaped = exited.is_some();
            // After the look at its exit, so that all it wrote is seen.
            open = open && drain(&mut output, tail)?;
            if exited.is_some() {
                return Ok(exited);
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.reaped {
            return;
        }
        // Its zombie keeps the group's id from being used again.
        let _ = kill_process_group(self.pid, Signal::KILL);
        let _ = reap::reap_blocking(self.pidfd.as_fd());
    }
}

/// Reads what is there and keeps its end; false at end of file.
fn drain(output: &mut PipeReader, tail: &mut Vec<u8>) -> io::Result<bool> {
    let mut chunk = [0; MAX_OUTPUT];
    // Bounded: a hook that writes without end must not keep us from its time limit.
    for _ in 0..16 {
        match output.read(&mut chunk) {
            Ok(0) => return Ok(false),
            Ok(read) => {
                tail.extend_from_slice(chunk.get(..read).unwrap_or_default());
                tail.drain(..tail.len().saturating_sub(MAX_OUTPUT));
            }
            Err(error) if is_transient(&error) => return Ok(true),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
