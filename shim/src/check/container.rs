//! A whole container: what no list of features proves is that all of them work together, on the file system that holds
//! the layers.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use runtime_core::Config;
use runtime_core::OsContext;
use runtime_core::Pod;
use runtime_core::{Container, CreateRequest, Error, Result, RootfsMount, Stdio, Warning};
use runtime_core::{ExitStatus, reap_blocking, systemd_booted};
use serde_json::json;

use super::Finding;
use super::finding::Status;

/// Where engines keep layers by default: containerd, Docker.
const STORES: &[&str] = &["/var/lib/containerd", "/var/lib/docker"];

/// Where they would be made.
const PARENT: &str = "/var/lib";

const NAME: &str = "container";

/// One container for each file system that holds layers: over an ID-mapped overlay, in namespaces of its own, in a cgroup
/// of its own. It runs this program.
pub(super) fn whole(config: &Config) -> Vec<Finding> {
    if !rustix::process::geteuid().is_root() {
        return vec![Finding::needs_root(NAME)];
    }
    let mut devices = Vec::new();
    let mut stores: Vec<&Path> = STORES.iter().map(Path::new).collect();
    stores.retain(|store| {
        fs::metadata(store).is_ok_and(|data| {
            let new = !devices.contains(&data.dev());
            devices.push(data.dev());
            new
        })
    });
    if stores.is_empty() {
        stores.push(Path::new(PARENT));
    }
    let mut findings: Vec<_> = stores.into_iter().map(|store| on(store, config)).collect();
    // One engine that works is enough to run here.
    if findings.iter().any(|found| found.status < Status::Missing) {
        for finding in &mut findings {
            if finding.status == Status::Missing {
                finding.status = Status::Degraded;
                finding.cost = "no container whose layers are there can be made".into();
            }
        }
    }
    findings
}

fn on(store: &Path, config: &Config) -> Finding {
    let place = match systemd_booted() {
        true => format!("{}, in a scope of systemd's", store.display()),
        false => store.display().to_string(),
    };
    match Scratch::new(store).and_then(|scratch| scratch.run(config)) {
        Ok((ExitStatus::Code(0), warnings)) if warnings.is_empty() => {
            Finding::ok(NAME, format!("made, run and removed on {place}"))
        }
        Ok((ExitStatus::Code(0), warnings)) => {
            let costs: Vec<_> = warnings
                .iter()
                .map(|warning| format!("{}: {}", warning.field, warning.text))
                .collect();
            Finding::degraded(
                NAME,
                format!("made, run and removed on {place}, with warnings"),
                costs.join("; "),
                "do what the findings above advise",
            )
        }
        Ok((status, _)) => Finding::missing(
            NAME,
            format!("on {place} it ended with {}", status.code()),
            "look into the kernel's log, and do what the findings above advise",
        ),
        Err(error) => Finding::missing(
            NAME,
            format!("on {place}: {}", error.chain()),
            "do what the error and the findings above advise",
        ),
    }
}

/// Layers and bundle of the container, removed with this.
struct Scratch {
    dir: PathBuf,
    name: String,
}

impl Scratch {
    fn new(store: &Path) -> Result<Scratch> {
        let name = format!("sysbox-check-{}", std::process::id());
        let dir = store.join(format!(".{name}"));
        fs::create_dir(&dir).os("create directory", dir.display())?;
        let scratch = Scratch { dir, name };
        for sub in ["lower", "upper", "work", "bundle/rootfs"] {
            let dir = scratch.dir.join(sub);
            fs::create_dir_all(&dir).os("create directory", dir.display())?;
        }
        let program = scratch.dir.join("lower/check");
        fs::copy("/proc/self/exe", &program).os("copy this program to", program.display())?;
        Ok(scratch)
    }

    /// How the program ended, and the downgrades.
    fn run(&self, config: &Config) -> Result<(ExitStatus, Vec<Warning>)> {
        let request = CreateRequest {
            id: self.name.clone(),
            namespace: "check".into(),
            bundle: self.dir.join("bundle"),
            spec: self.spec()?,
            rootfs: vec![self.overlay()],
            stdio: Stdio::default(),
            terminal: false,
        };
        let container = Container::create(&Pod::new(config.clone())?, request)?;
        let mut warnings = container.warnings().to_vec();
        match container.start() {
            Ok(more) => warnings.extend(more),
            Err(error) => {
                container.abandon()?;
                return Err(error);
            }
        }
        let status = reap_blocking(container.pidfd())?;
        container.stopped()?;
        warnings.extend(container.delete()?);
        Ok((status, warnings))
    }

    fn overlay(&self) -> RootfsMount {
        let layer = |name: &str| self.dir.join(name).display().to_string();
        RootfsMount {
            fs_type: "overlay".into(),
            source: "overlay".into(),
            target: String::new(),
            options: vec![
                format!("lowerdir={}", layer("lower")),
                format!("upperdir={}", layer("upper")),
                format!("workdir={}", layer("work")),
            ],
        }
    }

    fn spec(&self) -> Result<Spec> {
        let mount = |kind: &str, target: &str| json!({ "type": kind, "source": kind, "destination": target });
        let kinds = ["pid", "network", "ipc", "uts", "mount", "cgroup"];
        let spec = json!({
            "ociVersion": "1.2.0",
            "process": { "args": ["/check", "-v"], "cwd": "/", "user": { "uid": 0, "gid": 0 } },
            "root": { "path": "rootfs" },
            "mounts": [
                mount("proc", "/proc"),
                mount("tmpfs", "/dev"),
                mount("devpts", "/dev/pts"),
                mount("mqueue", "/dev/mqueue"),
                mount("tmpfs", "/dev/shm"),
                mount("sysfs", "/sys"),
                mount("cgroup", "/sys/fs/cgroup"),
                mount("tmpfs", "/run"),
            ],
            "linux": {
                "cgroupsPath": match systemd_booted() {
                    // As engines with the systemd cgroup driver ask for it.
                    true => format!("system.slice::{}", self.name),
                    false => format!("/{}", self.name),
                },
                "namespaces": kinds.map(|kind| json!({ "type": kind })),
            },
        });
        serde_json::from_value(spec)
            .map_err(|e| Error::invalid("config.json", "of this check", e.to_string()))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            tracing::warn!(dir = %self.dir.display(), %error, "left behind");
        }
    }
}
