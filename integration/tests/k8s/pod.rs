//! Pods as their users write them, bound to the node as a scheduler would.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use integration::image::Image;
use integration::process::{self, Output};
use serde_json::{Value, json};

use crate::cluster::{Cluster, PATIENCE, until};

/// What a pod says of its runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `runtimeClassName: sysbox` and nothing else.
    Plain,
    /// `hostUsers: false` too.
    Users,
    /// runc's handler, for comparison.
    Runc,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Users => "users",
            Self::Runc => "runc",
        }
    }
}

/// A pod that is bound to the node. A failing test leaves it to the node, which is removed with all in it.
#[derive(Debug)]
pub(crate) struct Pod<'a> {
    cluster: &'a Cluster,
    namespace: &'static str,
    pub(crate) name: String,
}

/// A container of the busybox image that sleeps, `more` being put over it.
pub(crate) fn container(more: Value) -> Value {
    let mut container = json!({
        "name": "main",
        "image": Image::Busybox.reference(),
        "imagePullPolicy": "Never",
        "command": ["/probe", "sleep"],
    });
    over(&mut container, more);
    container
}

/// Puts the fields of `more` over those of `value`.
pub(crate) fn over(value: &mut Value, more: Value) {
    if let Value::Object(more) = more {
        for (key, field) in more {
            value[key] = field;
        }
    }
}

impl Cluster {
    /// A new pod of `spec` in the namespace `ci`, where the Pod Security Standard "baseline" is enforced; what `kind` says is
    /// added.
    pub(crate) fn pod(&self, kind: Kind, spec: Value) -> Result<Pod<'_>> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("p{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let pod =
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
        self.pod_of(kind, "ci", pod)
    }

    /// The same of a whole manifest in a namespace.
    pub(crate) fn pod_of(
        &self,
        kind: Kind,
        namespace: &'static str,
        mut manifest: Value,
    ) -> Result<Pod<'_>> {
        let class = if kind == Kind::Runc { "runc" } else { "sysbox" };
        manifest["spec"]["runtimeClassName"] = json!(class);
        if kind == Kind::Users {
            manifest["spec"]["hostUsers"] = json!(false);
        }
        let name = manifest["metadata"]["name"]
            .as_str()
            .context("the pod has no name")?
            .to_owned();
        self.try_create(
            &["-n", namespace, "create", "-f", "-"],
            &manifest.to_string(),
        )?
        .ok()?;
        // A scheduler's whole part. The pod's specification stays the user's.
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": self.node.name()},
        });
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/binding");
        self.try_create(&["create", "--raw", &path, "-f", "-"], &binding.to_string())?
            .ok()?;
        Ok(Pod {
            cluster: self,
            namespace,
            name,
        })
    }
}

impl Pod<'_> {
    /// `kubectl` in its namespace, which must succeed: its output without white space around it.
    pub(crate) fn kubectl(&self, words: &[&str]) -> Result<String> {
        self.cluster
            .kubectl(&[&["-n", self.namespace], words].concat())
    }

    pub(crate) fn namespace(&self) -> &'static str {
        self.namespace
    }

    /// What the API server knows of it.
    pub(crate) fn get(&self) -> Result<Value> {
        self.cluster.get(&["-n", self.namespace, "pod", &self.name])
    }

    /// Waits until `done` of it is true.
    pub(crate) fn until(&self, what: &str, done: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut last = Value::Null;
        let outcome = until(what, || {
            last = self.get()?;
            Ok(done(&last))
        });
        match outcome {
            Ok(()) => Ok(last),
            Err(error) => Err(anyhow!(
                "{error:#}; its status: {}\nits events: {}",
                last["status"],
                self.events()?.join("\n")
            )),
        }
    }

    /// Waits until it is Ready: how long it took since it was made.
    pub(crate) fn ready(&self) -> Result<Duration> {
        let begin = Instant::now();
        self.until("the pod to be Ready", is_ready)?;
        Ok(begin.elapsed())
    }

    /// Events about it, reason and message, in no order.
    pub(crate) fn events(&self) -> Result<Vec<String>> {
        let field = format!("involvedObject.name={}", self.name);
        let list =
            self.cluster
                .get(&["-n", self.namespace, "events", "--field-selector", &field])?;
        let items = list["items"].as_array().context("no list of events")?;
        let text = |event: &Value| {
            let field = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
            format!("{}: {}", field("reason"), field("message"))
        };
        Ok(items.iter().map(text).collect())
    }

    /// `kubectl exec`, not started yet.
    pub(crate) fn exec(&self, options: &[&str], words: &[&str]) -> Command {
        let front = ["kubectl", "-n", self.namespace, "exec", &self.name];
        self.cluster
            .node
            .command(&[&front, options, &["--"], words].concat())
    }

    pub(crate) fn try_shell(&self, script: &str) -> Result<Output> {
        process::run(
            &mut self.exec(&[], &["/bin/sh", "-ec", script]),
            b"",
            PATIENCE,
        )
    }

    /// A shell script in its first container, which must succeed: its output without white space around it.
    pub(crate) fn shell(&self, script: &str) -> Result<String> {
        Ok(self.try_shell(script)?.ok()?.text().to_owned())
    }

    /// The same in its container `name`.
    pub(crate) fn shell_in(&self, name: &str, script: &str) -> Result<String> {
        let mut exec = self.exec(&["-c", name], &["/bin/sh", "-ec", script]);
        Ok(process::run(&mut exec, b"", PATIENCE)?
            .ok()?
            .text()
            .to_owned())
    }

    /// `kubectl logs --follow`, started.
    pub(crate) fn follow_log(&self) -> Result<Child> {
        let words = [
            "kubectl",
            "-n",
            self.namespace,
            "logs",
            "--follow",
            &self.name,
        ];
        let mut follow = self.cluster.node.command(&words);
        follow.stdin(Stdio::null()).stdout(Stdio::piped());
        follow.spawn().context("start kubectl logs")
    }

    /// Deletes it and waits until the API server has forgotten it, which it does when the kubelet says that all has ended.
    pub(crate) fn delete(self) -> Result<()> {
        let timeout = format!("--timeout={}s", PATIENCE.as_secs() - 10);
        self.kubectl(&["delete", "pod", &self.name, "--wait", &timeout])
            .map(drop)
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|all| {
        all.iter()
            .any(|one| one["type"] == "Ready" && one["status"] == "True")
    })
}

/// The status of a pod's container `name`.
pub(crate) fn status<'a>(pod: &'a Value, name: &str) -> Result<&'a Value> {
    let all = pod["status"]["containerStatuses"].as_array();
    all.into_iter()
        .flatten()
        .find(|status| status["name"] == name)
        .with_context(|| format!("no status of container {name}: {}", pod["status"]))
}

/// Both are the same, told so if not.
pub(crate) fn same(got: &str, wanted: &str) -> Result<()> {
    ensure!(got == wanted, "got  {got:?}\nwant {wanted:?}");
    Ok(())
}
