//! A cluster of one node: etcd, the API server and the kubelet beside a containerd that the installer has configured.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use integration::debian::Release;
use integration::engines::Engine;
use integration::image::Image;
use integration::kubernetes;
use integration::leak::Snapshot;
use integration::node::Node;
use integration::process::{self, Output};
use serde_json::Value;

/// How long anything may take that the cluster does by itself.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// Keys, configuration and an address, made in the node before anything starts.
const PREPARE: &str = include_str!("prepare.sh");

/// containerd's configuration before the installer adds our handler to it.
const CONTAINERD: &str = include_str!("containerd.toml");

const API_SERVER: &str = "exec kube-apiserver --etcd-servers=http://127.0.0.1:2379 --bind-address=127.0.0.1 --secure-port=6443 \
    --advertise-address=192.0.2.1 --service-cluster-ip-range=10.96.0.0/16 --cert-dir=/etc/kubernetes/pki \
    --token-auth-file=/etc/kubernetes/tokens.csv --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
    --service-account-issuer=https://kubernetes.default.svc --service-account-key-file=/etc/kubernetes/service-accounts.key \
    --service-account-signing-key-file=/etc/kubernetes/service-accounts.key --allow-privileged=true --kubelet-preferred-address-types=InternalIP";

/// A pod with a container of `$handler`, by crictl. The kubelet, too, gives every sandbox the default filter.
const FIRST_POD: &str = r#"cd /tmp
echo "{\"metadata\": {\"name\": \"first\", \"namespace\": \"default\", \"uid\": \"$handler\"}, \"linux\": {\"security_context\": {\"seccomp\": {\"profile_type\": 0}}}}" >pod.json
echo '{"metadata": {"name": "main"}, "image": {"image": "localhost/busybox:latest"}, "command": ["/probe", "sleep"], "linux": {}}' >main.json
pod=$(crictl runp --runtime $handler pod.json)
crictl start $(crictl create $pod main.json pod.json)
crictl rmp --force $pod
rm pod.json main.json"#;

/// Nothing of it outlives the node.
const ETCD: &str = "exec etcd --data-dir=/var/lib/etcd --unsafe-no-fsync --log-level=warn";

/// Namespaces as an administrator would give them to teams, each with its Pod Security Standard.
pub(crate) const NAMESPACES: [(&str, &str); 3] = [
    ("ci", "baseline"),
    ("strict", "restricted"),
    ("free", "privileged"),
];

/// The cluster. Dropped, the node takes everything with it.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) node: Node,
    /// As it was before its first pod.
    pub(crate) before: Snapshot,
    kubelet: Mutex<Option<Child>>,
    _servers: [Child; 2],
}

impl Cluster {
    /// Starts it: its node is Ready then, with the RuntimeClass of `deploy/` and the label that this wants.
    pub(crate) fn start() -> Result<Self> {
        let node = Node::builder(Release::Sid)
            .cri(true)
            .engines(&[Engine::Containerd24, Engine::CriTools, Engine::Kubernetes])
            .programs(&kubernetes::debian_programs()?)
            .start()?;
        for image in [Image::Busybox, Image::Dind] {
            node.import(image)?;
        }
        install(&node)?;
        first_pods(&node)?;
        node.shell(PREPARE)?.ok()?;
        let servers = [
            daemon(&node, "etcd", ETCD)?,
            daemon(&node, "kube-apiserver", API_SERVER)?,
        ];
        until("the API server to answer", || {
            Ok(node.exec(&["kubectl", "get", "--raw", "/readyz"])?.code == 0)
        })
        .with_context(|| log_tail(&node, "kube-apiserver"))?;
        let mut cluster = Self {
            kubelet: Mutex::new(None),
            before: Snapshot::of_node(&node),
            node,
            _servers: servers,
        };
        cluster.start_kubelet()?;
        let name = cluster.node.name().to_owned();
        cluster.kubectl(&["label", "node", &name, "sysbox.io/ready=true"])?;
        let class = deploy("runtimeclass.yaml")?;
        cluster.create(&class)?;
        cluster.create(include_str!("objects.yaml"))?;
        for (namespace, level) in NAMESPACES {
            let label = format!("pod-security.kubernetes.io/enforce={level}");
            cluster.kubectl(&["create", "namespace", namespace])?;
            cluster.kubectl(&["label", "namespace", namespace, &label])?;
            // Of the controllers that a cluster has, these two objects are all that a pod needs.
            cluster.kubectl(&["-n", namespace, "create", "serviceaccount", "default"])?;
            cluster.kubectl(&[
                "-n",
                namespace,
                "create",
                "configmap",
                "kube-root-ca.crt",
                "--from-file=ca.crt=/dev/null",
            ])?;
        }
        cluster.before = Snapshot::of_node(&cluster.node);
        Ok(cluster)
    }

    /// Starts the kubelet and waits until its node is Ready.
    pub(crate) fn start_kubelet(&self) -> Result<()> {
        let child = daemon(&self.node, "kubelet", "exec /etc/kubernetes/kubelet.sh")?;
        *self.kubelet.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        let name = format!("node/{}", self.node.name());
        until("the node to be Ready", || {
            let words = [
                "kubectl",
                "wait",
                "--for=condition=Ready",
                "--timeout=10s",
                &name,
            ];
            Ok(self.node.exec(&words)?.code == 0)
        })
        .with_context(|| self.log_tail("kubelet"))
    }

    /// Ends the kubelet by SIGKILL and waits for it.
    pub(crate) fn kill_kubelet(&self) -> Result<()> {
        let child = self
            .kubelet
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let mut child = child.context("the kubelet is not running")?;
        self.node
            .shell("kill -KILL $(cat /run/kubelet.pid)")?
            .ok()?;
        child.wait().context("wait for the kubelet")?;
        Ok(())
    }

    /// `kubectl`, which must succeed: its output without white space around it.
    pub(crate) fn kubectl(&self, words: &[&str]) -> Result<String> {
        Ok(self.try_kubectl(words)?.ok()?.text().to_owned())
    }

    pub(crate) fn try_kubectl(&self, words: &[&str]) -> Result<Output> {
        let mut kubectl = self.node.command(&[&["kubectl"], words].concat());
        process::run(&mut kubectl, b"", PATIENCE)
    }

    /// Creates what `text`, YAML or JSON, describes.
    pub(crate) fn create(&self, text: &str) -> Result<()> {
        self.try_create(&["create", "-f", "-"], text)?
            .ok()
            .map(drop)
    }

    /// `kubectl` with `text` as its standard input.
    pub(crate) fn try_create(&self, words: &[&str], text: &str) -> Result<Output> {
        let mut kubectl = self.node.command(&[&["kubectl"], words].concat());
        process::run(&mut kubectl, text.as_bytes(), PATIENCE)
    }

    /// What `kubectl get -o json` says.
    pub(crate) fn get(&self, words: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[&["get", "-o", "json"], words].concat())?;
        serde_json::from_str(&text).context("read what kubectl says")
    }

    /// The last lines of a daemon's log.
    pub(crate) fn log_tail(&self, name: &str) -> String {
        log_tail(&self.node, name)
    }
}

fn log_tail(node: &Node, name: &str) -> String {
    let text = fs::read_to_string(node.state().join(format!("{name}.log"))).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    let last = lines
        .get(lines.len().saturating_sub(40)..)
        .unwrap_or_default();
    format!("--- the last of {name}'s log\n{}", last.join("\n"))
}

/// A file of `deploy/`.
pub(crate) fn deploy(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(name);
    fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

/// Lets the installer give containerd our handler, as an operator would.
fn install(node: &Node) -> Result<()> {
    node.kill_containerd("TERM")?;
    fs::write(node.path("/etc/containerd/config.toml"), CONTAINERD)
        .context("configure containerd")?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let copied = Command::new("cp")
        .arg("-r")
        .arg(source)
        .arg(node.path("/opt/deploy"))
        .status()?;
    ensure!(copied.success(), "cp of deploy/: {copied}");
    let words = "/opt/deploy/install.sh install --containerd --binary /usr/local/bin/containerd-shim-sysbox-v2";
    node.shell(words)?.ok()?;
    node.start_containerd()
}

/// A pod of each handler, made and removed before there is a kubelet: the bridge, and what CRI keeps for the next pod, stay.
fn first_pods(node: &Node) -> Result<()> {
    for handler in ["sysbox", "runc"] {
        node.shell(&format!("handler={handler}\n{FIRST_POD}"))?
            .ok()?;
    }
    Ok(())
}

/// Starts `script` in the node, its output going to a log of that name.
fn daemon(node: &Node, name: &str, script: &str) -> Result<Child> {
    let log = node.state().join(format!("{name}.log"));
    let log = File::options()
        .create(true)
        .append(true)
        .open(&log)
        .with_context(|| format!("open {}", log.display()))?;
    let mut command = node.command(&["/bin/sh", "-c", script]);
    command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("share the log")?)
        .stderr(log);
    command.spawn().with_context(|| format!("start {name}"))
}

/// Waits until `done` is true.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let begin = Instant::now();
    while !done()? {
        if begin.elapsed() > PATIENCE {
            bail!("waited {} s for {what}", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
