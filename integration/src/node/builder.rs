//! What may differ between nodes, and how one is started.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Context, Result, anyhow, bail};

use super::{Launch, Node, cri, launch, template};
use crate::debian::{self, Release};
use crate::engines::Engine;
use crate::image::Image;
use crate::{cache, host};

/// Choices for a node that is about to start.
#[derive(Debug, Clone)]
pub struct Builder {
    release: Release,
    shim: Option<PathBuf>,
    cri: bool,
    images: Vec<Image>,
    engines: Vec<Engine>,
    programs: Vec<PathBuf>,
    launcher: Vec<String>,
}

impl Builder {
    pub(super) fn new(release: Release) -> Self {
        Self {
            release,
            shim: None,
            cri: false,
            images: Vec::new(),
            engines: Vec::new(),
            programs: Vec::new(),
            launcher: Vec::new(),
        }
    }

    /// Installs this file as the shim under test instead of the one of [`host::shim`].
    #[must_use]
    pub fn shim(mut self, path: impl Into<PathBuf>) -> Self {
        self.shim = Some(path.into());
        self
    }

    /// Leaves containerd's CRI plugins on, with the handlers `runc`, `sysbox` and `sysbox-path` (ours as runc's type with
    /// `runtime_path`); images go to Kubernetes' namespace then. Off by default: a start without them is faster.
    #[must_use]
    pub fn cri(mut self, on: bool) -> Self {
        self.cri = on;
        self
    }

    /// Gives the node's containerd these images, unpacked already: far faster than [`Node::import`], once they are cached.
    #[must_use]
    pub fn images(mut self, images: &[Image]) -> Self {
        self.images = images.to_vec();
        self
    }

    /// Puts these programs before Debian's of the same name.
    #[must_use]
    pub fn engines(mut self, engines: &[Engine]) -> Self {
        self.engines = engines.to_vec();
        self
    }

    /// Puts these files before Debian's programs of the same name, too.
    #[must_use]
    pub fn programs(mut self, files: &[PathBuf]) -> Self {
        self.programs = files.to_vec();
        self
    }

    /// Has `words`, a command of this machine, start the node's containerd: its words follow.
    #[must_use]
    pub fn launcher(mut self, words: &[&str]) -> Self {
        self.launcher = words.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Builds and caches what such a node is made of: the next [`Self::start`] takes half a second.
    ///
    /// # Errors
    /// If packages cannot be had or an image cannot be unpacked.
    pub fn prepare(&self) -> Result<()> {
        // Each is a minute's work of one processor, the first time.
        thread::scope(|scope| {
            let root = scope.spawn(|| debian::node_root(self.release).map(drop));
            for image in &self.images {
                image.layout(self.release)?;
            }
            for engine in &self.engines {
                engine.programs()?;
            }
            root.join()
                .map_err(|_| anyhow!("building the node's root panicked"))?
        })?;
        template::prepare(self.release, &self.images)
    }

    /// Starts the node and its containerd.
    ///
    /// Without a shim to test the node comes up all the same: containers of other runtimes run.
    ///
    /// # Errors
    /// If this machine cannot run nodes, the root cannot be built, or the node does not come up.
    pub fn start(self) -> Result<Node> {
        if let Some(obstacle) = host::obstacle() {
            bail!("{obstacle}");
        }
        let root = debian::node_root(self.release)?;
        // Before there is a directory that another node's start would sweep away as a dead node's.
        let mut programs = self.programs;
        for engine in &self.engines {
            let dir = engine.programs()?;
            programs.extend(engine.names().iter().map(|name| dir.join(name)));
        }
        let runs = cache::root()?.join("run");
        fs::create_dir_all(&runs).with_context(|| format!("create {}", runs.display()))?;
        launch::sweep(&runs);

        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "{}-{}-{}",
            self.release.suite(),
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let state = runs.join(&name);
        fs::create_dir(&state).with_context(|| format!("create {}", state.display()))?;
        for dir in ["upper", "work", "root", "cgroup", "containerd", "srv"] {
            fs::create_dir(state.join(dir))
                .with_context(|| format!("create {dir} in {}", state.display()))?;
        }
        template::fill(self.release, &self.images, &state.join("containerd"))?;
        let shim = match self.shim {
            Some(path) => Some(
                path.canonicalize()
                    .with_context(|| format!("shim {}", path.display()))?,
            ),
            None => host::shim().ok(),
        };
        self_contained(&state.join("upper"), shim.as_deref(), self.cri)?;
        for program in programs {
            let name = program.file_name().context("a program has a name")?;
            put(&program, &state.join("upper/usr/local/bin").join(name))?;
        }

        let launch = Launch {
            name: name.clone(),
            lower: root,
            state: state.clone(),
        };
        let init = host::sibling("node-init")?;
        let log = fs::File::create(state.join("node.log")).context("create the node's log")?;
        let mut supervisor = Command::new(&init)
            .arg("supervise")
            .arg(serde_json::to_string(&launch)?)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("start node-init")?;
        let pid = supervisor.stdout.take().and_then(|pipe| {
            let mut line = String::new();
            BufReader::new(pipe).read_line(&mut line).ok()?;
            line.trim().parse().ok()
        });
        let Some(pid) = pid else {
            let log = fs::read_to_string(state.join("node.log")).unwrap_or_default();
            drop(supervisor.wait());
            bail!("node {name} did not come up:\n{log}");
        };
        let node = Node {
            release: self.release,
            name,
            init,
            pid,
            state,
            supervisor,
            containerd: Mutex::new(None),
            launcher: self.launcher,
            namespace: if self.cri { "k8s.io" } else { "default" },
        };
        node.start_containerd()?;
        if self.cri {
            node.import(Image::Pause)?;
        }
        Ok(node)
    }
}

/// The CRI plugins, of 1.7 and of 2.x.
const OFF: &str = r#"["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"]"#;

/// Lays what this node has over the shared root: the shim under test and containerd's configuration.
fn self_contained(upper: &Path, shim: Option<&Path>, cri: bool) -> Result<()> {
    let bin = upper.join("usr/local/bin");
    fs::create_dir_all(&bin)?;
    if let Some(shim) = shim {
        put(shim, &bin.join("containerd-shim-sysbox-v2"))?;
    }
    let etc = upper.join("etc/containerd");
    fs::create_dir_all(&etc)?;
    let plugins = if cri {
        let net = upper.join("etc/cni/net.d");
        fs::create_dir_all(&net)?;
        fs::write(net.join("10-pods.conflist"), cri::NETWORK).context("write the pods' network")?;
        // The kubelet's part: CRI copies it, or the host's, into pods.
        fs::write(upper.join("etc/resolv.conf"), "nameserver 127.0.0.1\n")
            .context("write resolv.conf")?;
        fs::write(upper.join("etc/crictl.yaml"), cri::CRICTL).context("configure crictl")?;
        let runc = upper.join(cri::RUNC.trim_start_matches('/'));
        fs::write(&runc, cri::RUNC_SCRIPT).context("write runc's wrapper")?;
        fs::set_permissions(&runc, fs::Permissions::from_mode(0o755))
            .context("make runc's wrapper executable")?;
        cri::configuration()
    } else {
        format!("disabled_plugins = {OFF}\n")
    };
    fs::write(etc.join("config.toml"), format!("version = 2\n{plugins}"))
        .context("write containerd's configuration")
}

/// Links a program into the node, or copies it from another file system: an unstripped shim has a hundred megabytes.
fn put(program: &Path, target: &Path) -> Result<()> {
    fs::hard_link(program, target)
        .or_else(|_| fs::copy(program, target).map(drop))
        .with_context(|| format!("put {} into the node", program.display()))
}
