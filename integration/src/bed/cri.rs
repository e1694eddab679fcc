//! Pods and their containers as crictl takes them.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::debian::Release;
use crate::engines::Engine;
use crate::image::Image;
use crate::node::{DEADLINE, LINGER, Node};
use crate::process::{self, Output};

/// A containerd and a sort of pod on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// Its part of a case's name.
    pub name: &'static str,
    /// Whose containerd it is unless `engine` says otherwise.
    release: Release,
    engine: Option<Engine>,
    /// As the RuntimeClass names it.
    pub handler: &'static str,
    /// `hostUsers: false`.
    pub users: bool,
}

const fn kind(
    name: &'static str,
    engine: Option<Engine>,
    handler: &'static str,
    users: bool,
) -> Kind {
    Kind {
        name,
        release: Release::Sid,
        engine,
        handler,
        users,
    }
}

/// Debian 13's containerd, the handler alone.
pub const OLDEST_PLAIN: Kind = Kind {
    release: Release::Trixie,
    ..kind("1.7-plain", None, "sysbox", false)
};
/// containerd 2.1, the handler alone.
pub const OLD_PLAIN: Kind = kind("2.1-plain", None, "sysbox", false);
/// The same through runc's type, the only one that containerd before 2.2.7 and 2.3.4 asks what it can: user namespaces,
/// recursive read-only mounts.
pub const OLD_PATH: Kind = kind("2.1-path", None, "sysbox-path", false);
/// The same with `hostUsers: false`.
pub const OLD_USERS: Kind = kind("2.1-users", None, "sysbox-path", true);
/// containerd 2.3 with `hostUsers: false`.
pub const MIDDLE_USERS: Kind = kind("2.3-users", Some(Engine::Containerd23), "sysbox", true);
/// containerd 2.4, the handler alone.
pub const NEW_PLAIN: Kind = kind("2.4-plain", Some(Engine::Containerd24), "sysbox", false);
/// The same with `hostUsers: false`.
pub const NEW_USERS: Kind = kind("2.4-users", Some(Engine::Containerd24), "sysbox", true);
/// The same under runc.
pub const NEW_RUNC: Kind = kind("2.4-runc", Some(Engine::Containerd24), "runc", false);

/// The runtime's configuration in a node, which has none of its own.
pub const CONFIG: &str = "/etc/containerd-shim-sysbox/config.toml";

/// First host id of pods with a user namespace, as the kubelet hands them out.
pub const FIRST_ID: u32 = 655_360;

impl Kind {
    /// What nodes that serve it are called in the pool: each handler keeps something of its own for the next pod.
    #[must_use]
    pub fn made_as(self) -> String {
        format!("{:?} {:?} {}", self.release, self.engine, self.handler)
    }
}

/// A new node with this engine and `images`, which has had its first pod.
///
/// # Errors
/// If it cannot be started, or cannot have that pod.
pub fn node(kind: Kind, images: &[Image]) -> Result<Node> {
    let mut engines = vec![Engine::CriTools];
    engines.extend(kind.engine);
    let node = Node::builder(kind.release)
        .cri(true)
        .engines(&engines)
        .start()?;
    node.import(Image::Busybox)?;
    for image in images {
        node.import(*image)?;
    }
    let bed = Bed {
        node: &node,
        kind,
        count: AtomicU32::new(1000),
    };
    // The bridge, the address store and what CRI keeps for the first container stay from here on.
    let pod = bed.pod(json!({}))?;
    pod.sleeper()?;
    pod.remove()?;
    // Until the collector has taken its snapshots: what is left then is no test's.
    let begin = Instant::now();
    let snapshots = |node: &Node| -> Result<String> {
        let list = node.ctr(&["--namespace", "k8s.io", "content", "prune", "references"])?;
        list.ok()?;
        Ok(node.shell("ls /var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots; ctr --namespace k8s.io snapshots ls | tail -n +2 | wc -l")?.ok()?.stdout)
    };
    while {
        let lines = snapshots(&node)?;
        let mut lines: Vec<_> = lines.lines().collect();
        let known = lines
            .pop()
            .and_then(|count| count.trim().parse::<usize>().ok());
        known != Some(lines.len())
    } {
        ensure!(
            begin.elapsed() < DEADLINE,
            "snapshots of the first pod stay"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(node)
}

/// What a case's body works with.
#[derive(Debug)]
pub struct Bed<'a> {
    /// The node, which the case has for itself.
    pub node: &'a Node,
    /// The sort of pods that the case is about.
    pub kind: Kind,
    count: AtomicU32,
}

/// Puts `more` into `value`, objects into objects.
fn merge(value: &mut Value, more: Value) {
    match (value, more) {
        (Value::Object(value), Value::Object(more)) => {
            for (key, more) in more {
                merge(value.entry(key).or_insert(Value::Null), more);
            }
        }
        (value, more) => *value = more,
    }
}

impl<'a> Bed<'a> {
    /// A bed on this node, made for pods of this kind.
    #[must_use]
    pub fn new(node: &'a Node, kind: Kind) -> Self {
        let count = AtomicU32::new(0);
        Self { node, kind, count }
    }

    fn number(&self) -> u32 {
        self.count.fetch_add(1, Ordering::Relaxed)
    }

    /// `crictl`, which must succeed: its output without white space around it.
    ///
    /// # Errors
    /// If it does not.
    pub fn crictl(&self, words: &[&str]) -> Result<String> {
        Ok(self.try_crictl(words)?.ok()?.text().to_owned())
    }

    /// `crictl`, which may fail.
    ///
    /// # Errors
    /// If it cannot be started or does not end in time.
    pub fn try_crictl(&self, words: &[&str]) -> Result<Output> {
        // Two tests may wait for the same grace periods of the kernel.
        self.node
            .exec(&[&["crictl", "--timeout", "40s"], words].concat())
    }

    /// Namespaces and mappings of the kind of pod, as the kubelet sets them for a pod and again for each container.
    fn namespaces(&self, range: u32) -> Value {
        let mut options = json!({"pid": 1});
        if self.kind.users {
            let line = json!([{"host_id": range, "container_id": 0, "length": 65536}]);
            options["userns_options"] = json!({"mode": 0, "uids": line, "gids": line});
        }
        json!({"linux": {"security_context": {"namespace_options": options}}})
    }

    /// A pod, `more` being merged into its configuration.
    ///
    /// # Errors
    /// If the engine refuses.
    pub fn pod(&self, more: Value) -> Result<Pod<'_>> {
        let number = self.number();
        let range = FIRST_ID + 65536 * number;
        let mut config = json!({
            "metadata": {"name": format!("p{number}"), "namespace": "default", "uid": format!("uid-{number}"), "attempt": 0},
            "hostname": format!("p{number}"),
            "log_directory": format!("/srv/logs-{number}"),
        });
        merge(&mut config, self.namespaces(range));
        merge(&mut config, more);
        let file = format!("/srv/pod-{number}.json");
        self.write(&file, &config)?;
        let id = self.crictl(&["runp", "--runtime", self.kind.handler, &file])?;
        Ok(Pod {
            bed: self,
            id: id.lines().last().unwrap_or_default().to_owned(),
            file,
            range,
            logs: format!("/srv/logs-{number}"),
        })
    }

    /// Writes a configuration into the node.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, file: &str, value: &Value) -> Result<()> {
        let path = self.node.path(file);
        std::fs::write(&path, value.to_string())
            .with_context(|| format!("write {}", path.display()))
    }
}

/// A sandbox. A failing test leaves it to the node, which is removed with all in it.
#[derive(Debug)]
pub struct Pod<'a> {
    /// What it is made with.
    pub bed: &'a Bed<'a>,
    /// Its id.
    pub id: String,
    file: String,
    /// First host id of its user namespace, where it asked for one.
    range: u32,
    /// Directory of its containers' logs in the node.
    pub logs: String,
}

impl Pod<'_> {
    /// The mapping of a volume that shows its files' owners inside as they are on disk; for plain pods the runtime's
    /// own affair.
    #[must_use]
    pub fn volume(&self, host: &str, inside: &str) -> Value {
        let mut mount = json!({"host_path": host, "container_path": inside});
        if self.bed.kind.users {
            let line = json!([{"host_id": self.range, "container_id": 0, "length": 65536}]);
            merge(
                &mut mount,
                json!({"uidMappings": line, "gidMappings": line}),
            );
        }
        mount
    }

    /// A created container of the busybox image, `more` being merged into its configuration.
    ///
    /// # Errors
    /// If the engine refuses.
    pub fn create(&self, more: Value) -> Result<Container<'_>> {
        let bed = self.bed;
        let number = bed.number();
        let mut config = json!({
            "metadata": {"name": format!("c{number}"), "attempt": 0},
            "image": {"image": Image::Busybox.reference()},
            "log_path": format!("c{number}.log"),
        });
        merge(&mut config, bed.namespaces(self.range));
        merge(&mut config, more);
        let file = format!("/srv/container-{number}.json");
        bed.write(&file, &config)?;
        let id = bed.crictl(&["create", &self.id, &file, &self.file])?;
        bed.node.shell(&format!("rm {file}"))?.ok()?;
        Ok(Container {
            bed,
            id: id.lines().last().unwrap_or_default().to_owned(),
            log: format!("{}/c{number}.log", self.logs),
        })
    }

    /// The same started.
    ///
    /// # Errors
    /// If the engine refuses.
    pub fn run(&self, more: Value) -> Result<Container<'_>> {
        let container = self.create(more)?;
        container.start()?;
        Ok(container)
    }

    /// One that sleeps.
    ///
    /// # Errors
    /// If the engine refuses.
    pub fn sleeper(&self) -> Result<Container<'_>> {
        self.run(json!({"command": ["/probe", "sleep"]}))
    }

    /// Its address, the first one.
    ///
    /// # Errors
    /// If it has none.
    pub fn address(&self) -> Result<String> {
        let status = self.bed.crictl(&["inspectp", "-o", "json", &self.id])?;
        let status: Value = serde_json::from_str(&status).context("read inspectp")?;
        let address = status["status"]["network"]["ip"].as_str();
        address.map(str::to_owned).context("the pod has no address")
    }

    /// Stops and removes it with all its containers, and the test's own files.
    ///
    /// # Errors
    /// If the engine refuses.
    pub fn remove(self) -> Result<()> {
        self.bed.crictl(&["stopp", &self.id])?;
        self.bed.crictl(&["rmp", &self.id])?;
        self.bed
            .node
            .shell(&format!("rm -rf {} {}", self.file, self.logs))?
            .ok()?;
        Ok(())
    }
}

/// A container of a pod.
#[derive(Debug)]
pub struct Container<'a> {
    bed: &'a Bed<'a>,
    /// Its id.
    pub id: String,
    /// Its log in the node.
    pub log: String,
}

impl Container<'_> {
    /// Starts it.
    ///
    /// # Errors
    /// If the engine refuses.
    pub fn start(&self) -> Result<()> {
        self.bed.crictl(&["start", &self.id]).map(drop)
    }

    /// `crictl exec`, not started yet.
    #[must_use]
    pub fn exec(&self, options: &[&str], words: &[&str]) -> Command {
        self.bed
            .node
            .command(&[&["crictl", "exec"], options, &[&self.id], words].concat())
    }

    /// A shell script in the container, which must succeed: its output without white space around it.
    ///
    /// # Errors
    /// If it does not.
    pub fn shell(&self, script: &str) -> Result<String> {
        let script = format!("{script}\n{}", LINGER);
        let words = ["/bin/sh", "-ec", &script];
        let output = process::run(&mut self.exec(&[], &words), b"", DEADLINE)?;
        Ok(output.ok()?.text().to_owned())
    }

    /// What `crictl inspect` says of its status.
    ///
    /// # Errors
    /// If the engine cannot be asked.
    pub fn status(&self) -> Result<Value> {
        let status = self.bed.crictl(&["inspect", "-o", "json", &self.id])?;
        let mut status: Value = serde_json::from_str(&status).context("read inspect")?;
        Ok(status["status"].take())
    }

    /// Waits until it has exited: its exit code.
    ///
    /// # Errors
    /// If it does not in time.
    pub fn exited(&self) -> Result<i64> {
        let begin = Instant::now();
        loop {
            let status = self.status()?;
            if status["state"] == "CONTAINER_EXITED" {
                return status["exitCode"].as_i64().context("no exit code");
            }
            if begin.elapsed() > DEADLINE {
                bail!("still {}", status["state"]);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What of it is in the kubelet's log: the lines without time, stream and tag.
    ///
    /// # Errors
    /// If it is no log as the kubelet's parser takes it.
    pub fn log(&self) -> Result<String> {
        let log = std::fs::read_to_string(self.bed.node.path(&self.log))
            .with_context(|| format!("read {}", self.log))?;
        let mut text = String::new();
        for line in log.lines() {
            let words: Vec<_> = line.splitn(4, ' ').collect();
            let [_, "stdout" | "stderr", tag, message] = words[..] else {
                bail!("{line:?} is no line of a log");
            };
            text.push_str(message);
            if tag == "F" {
                text.push('\n');
            }
        }
        Ok(text)
    }

    /// Removes it, running or not.
    ///
    /// # Errors
    /// If the engine refuses.
    pub fn remove(self) -> Result<()> {
        self.bed.crictl(&["rm", "--force", &self.id]).map(drop)
    }
}
