//! A real containerd in private namespaces.
//!
//! ```text
//! test process ──stdin pipe──► node-init supervise   (host; own mount namespace; cleans up)
//!                                └─► node-init pid1  (PID 1 of the node's namespaces: mounts, then reaps)
//! test process ──► node-init enter -- containerd     (any command, in the node's namespaces and cgroup)
//! ```
//! The pipe is the node's life: when the last writer is gone, be it by SIGKILL, PID 1 exits, the kernel kills what is in
//! its namespace, and the supervisor removes the cgroup and the state directory.

mod builder;
mod cri;
mod enter;
mod launch;
mod pid1;
mod template;

use std::fmt;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

pub use builder::Builder;
pub use enter::enter;
pub use launch::{Launch, supervise};
pub use pid1::pid1;

use crate::debian::Release;
use crate::image::Image;
use crate::process::{self, Output};

/// How long a command in a node may take unless the caller says otherwise.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The last words of a script whose output counts: ctr forgets what it has not read when an exec ends, and may take a
/// moment until it begins to read (containerd client, process.go: Delete cancels the streams).
pub const LINGER: &str = "sleep 0.1";

/// A running node. Dropping it kills and removes everything of it.
pub struct Node {
    release: Release,
    name: String,
    init: PathBuf,
    pid: i32,
    state: PathBuf,
    supervisor: Child,
    containerd: Mutex<Option<Child>>,
    /// What starts containerd, if not the test itself.
    launcher: Vec<String>,
    /// containerd's namespace that images go to: Kubernetes' where the CRI plugin is on.
    namespace: &'static str,
}

impl Node {
    /// A node of `release` with the shim under test, its containerd answering.
    ///
    /// # Errors
    /// If the root cannot be built or the node does not come up.
    pub fn start(release: Release) -> Result<Self> {
        Self::builder(release).start()
    }

    /// The same with other choices.
    #[must_use]
    pub fn builder(release: Release) -> Builder {
        Builder::new(release)
    }

    /// The suite that the node is made of.
    #[must_use]
    pub fn release(&self) -> Release {
        self.release
    }

    /// The node's name; also its host name and its cgroup's, below the host's root.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host's pid of the node's PID 1.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The node's directory on the host's disk; `srv` in it is the node's `/srv`, `containerd` its `/var/lib/containerd`.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// How the host reaches `path` of the node, sockets too (a magic link: proc_pid_root(5)).
    #[must_use]
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        Path::new("/proc")
            .join(self.pid.to_string())
            .join("root")
            .join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A command that runs `words` in the node's namespaces and cgroup, as its root.
    #[must_use]
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.init);
        command.arg("enter").arg(self.pid.to_string()).args(words);
        command
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("HOME", "/root");
        if let Some(term) = std::env::var_os("TERM") {
            command.env("TERM", term);
        }
        command
    }

    /// Runs `words` in the node within [`DEADLINE`].
    ///
    /// # Errors
    /// If it cannot be started or does not end in time. An exit code is no error: [`Output::ok`].
    pub fn exec(&self, words: &[&str]) -> Result<Output> {
        process::run(&mut self.command(words), b"", DEADLINE)
    }

    /// Runs a shell script in the node within [`DEADLINE`].
    ///
    /// # Errors
    /// As [`Self::exec`].
    pub fn shell(&self, script: &str) -> Result<Output> {
        self.exec(&["/bin/sh", "-ec", script])
    }

    /// Does `act` while shims that start in the node read the configuration `text`; it has none of its own.
    ///
    /// # Errors
    /// Those of `act`, and if the file cannot be written or removed.
    pub fn with_config<T>(&self, text: &str, act: impl FnOnce() -> Result<T>) -> Result<T> {
        const DIR: &str = "/etc/containerd-shim-sysbox";
        let (dir, write) = (self.path(DIR), "write the runtime's configuration");
        std::fs::create_dir(&dir).context(write)?;
        std::fs::write(dir.join("config.toml"), text).context(write)?;
        let done = act();
        std::fs::remove_dir_all(dir).context("remove the runtime's configuration")?;
        done
    }

    /// Names of the features of the kernel that the runtime can do without (`pretend-missing`).
    ///
    /// # Errors
    /// If the runtime does not list them.
    pub fn kernel_features(&self) -> Result<Vec<String>> {
        let said = self.with_config("pretend-missing = ['?']", || {
            self.exec(&["containerd-shim-sysbox-v2", "check"])
        })?;
        let (_, list) = said
            .stdout
            .split_once("expected one of ")
            .with_context(|| format!("no list of features in {}", said.stdout))?;
        let line = list.lines().next().unwrap_or_default();
        Ok(line
            .split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect())
    }

    /// Runs the real `ctr` within [`DEADLINE`].
    ///
    /// # Errors
    /// As [`Self::exec`].
    pub fn ctr(&self, args: &[&str]) -> Result<Output> {
        self.exec(&[&["ctr"], args].concat())
    }

    /// A `ctr task exec` of `words` in the container `id`, not started yet.
    #[must_use]
    pub fn task_exec(&self, id: &str, options: &[&str], words: &[&str]) -> Command {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let exec = format!("x{}", COUNT.fetch_add(1, Ordering::Relaxed));
        self.command(
            &[
                &["ctr", "task", "exec", "--exec-id", &exec],
                options,
                &[id],
                words,
            ]
            .concat(),
        )
    }

    /// Runs a shell script in the container `id` within [`DEADLINE`].
    ///
    /// # Errors
    /// As [`Self::exec`].
    pub fn task_shell(&self, id: &str, script: &str) -> Result<Output> {
        let script = format!("{script}\n{LINGER}");
        process::run(
            &mut self.task_exec(id, &[], &["/bin/sh", "-ec", &script]),
            b"",
            DEADLINE,
        )
    }

    /// Makes `image` known to the node's containerd and unpacks it, if that is not done yet.
    ///
    /// # Errors
    /// If the image cannot be built or imported.
    pub fn import(&self, image: Image) -> Result<&'static str> {
        let reference = image.reference();
        if self
            .ctr(&["-n", self.namespace, "images", "ls", "-q"])?
            .ok()?
            .stdout
            .lines()
            .any(|line| line == reference)
        {
            return Ok(reference);
        }
        let layout = image.layout(self.release)?;
        // With its transfer service, the default of 2.x, ctr wants a platform's worth of options that add nothing here.
        let local: &[&str] = if self.release == Release::Trixie {
            &[]
        } else {
            &["--local"]
        };
        pipe_layout(
            &mut self.command(
                &[
                    &["ctr", "-n", self.namespace, "images", "import"],
                    local,
                    &["-"],
                ]
                .concat(),
            ),
            &layout,
        )?;
        Ok(reference)
    }

    /// Starts containerd and waits until it answers. One is running already after [`Self::start`].
    ///
    /// # Errors
    /// If it exits or does not answer: with the end of its log.
    pub fn start_containerd(&self) -> Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.containerd_log())
            .context("open containerd's log")?;
        let mut command = self.command(&[
            "/bin/sh",
            "-c",
            "echo $$ >/run/containerd.pid; exec containerd --log-level debug",
        ]);
        if let Some((program, words)) = self.launcher.split_first() {
            let mut launcher = Command::new(program);
            launcher
                .args(words)
                .arg(command.get_program())
                .args(command.get_args())
                .env_clear()
                .envs(
                    command
                        .get_envs()
                        .filter_map(|(name, value)| Some((name, value?))),
                );
            command = launcher;
        }
        command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share the log")?)
            .stderr(log);
        let mut child = command.spawn().context("start containerd")?;
        let begin = Instant::now();
        loop {
            let answer = self.exec(&["ctr", "--connect-timeout", "1s", "version"])?;
            if answer.code == 0 {
                break;
            }
            let exited = child.try_wait().context("wait for containerd")?;
            if exited.is_some() || begin.elapsed() > Duration::from_secs(30) {
                bail!(
                    "containerd does not answer ({exited:?}): {}\n{}",
                    answer.stderr,
                    self.log_tail()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        *self
            .containerd
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(child);
        Ok(())
    }

    /// Ends containerd by `signal` (a name that kill(1) knows) and waits for it; shims stay.
    ///
    /// # Errors
    /// If it is not running or does not end.
    pub fn kill_containerd(&self, signal: &str) -> Result<()> {
        let child = self
            .containerd
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        let mut child = child.context("containerd is not running")?;
        self.shell(&format!("kill -{signal} $(cat /run/containerd.pid)"))?
            .ok()?;
        child.wait().context("wait for containerd")?;
        Ok(())
    }

    /// The file on the host that containerd and its shims log to.
    #[must_use]
    pub fn containerd_log(&self) -> PathBuf {
        self.state.join("containerd.log")
    }

    /// The last lines of that log, for a failure's report.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(self.containerd_log()).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines
            .get(lines.len().saturating_sub(30)..)
            .unwrap_or_default()
            .join("\n")
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Node")
            .field("name", &self.name)
            .field("release", &self.release)
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        if let Some(mut containerd) = self
            .containerd
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take()
        {
            // It died with the node's PID 1; its status says nothing.
            drop(containerd.wait());
        }
        match self.supervisor.wait() {
            Ok(status) if status.success() => {}
            other => eprintln!(
                "node {}: the supervisor left with {other:?}; see {}",
                self.name,
                self.state.display()
            ),
        }
    }
}

/// Streams a layout directory to a command that imports it.
///
/// # Errors
/// If the command fails.
pub fn pipe_layout(command: &mut Command, layout: &Path) -> Result<()> {
    let mut tar = Command::new("tar")
        .arg("-C")
        .arg(layout)
        .args(["--warning=no-file-changed", "-cf", "-", "."])
        .stdout(Stdio::piped())
        .spawn()
        .context("start tar")?;
    let archive = tar.stdout.take().context("tar has no output")?;
    let output = command
        .stdin(archive)
        .output()
        .context("start the import")?;
    let packed = tar.wait().context("wait for tar")?;
    // 1: a file changed, as its link count does when another node takes it; the receiver checks digests.
    if !output.status.success() || !matches!(packed.code(), Some(0 | 1)) {
        bail!(
            "import of {} (tar: {packed}): {}",
            layout.display(),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}
