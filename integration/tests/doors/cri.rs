//! A pod of one container through containerd's CRI plugin, by crictl.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use integration::debian::Release;
use integration::engines::Engine;
use integration::image::Image;
use integration::node::{DEADLINE, Node};
use serde_json::{Value, json};

use crate::door::{Cell, Door, Run, Verb, Wish, line, quoted};

/// The handler, as the RuntimeClass names it, and whether the pod says `hostUsers: false`.
#[derive(Debug)]
pub(crate) struct Cri {
    name: &'static str,
    users: bool,
}

/// Both sorts of pods.
pub(crate) static ALL: [Cri; 2] = [
    Cri {
        name: "pod",
        users: false,
    },
    Cri {
        name: "pod with hostUsers: false",
        users: true,
    },
];

const NO_FILES: Cell = Cell::Lacks("CRI copies no files and makes no images");
const ONCE: Cell = Cell::Lacks("a pod's container runs once; the next one begins with the image");
const NO_USERS: Cell =
    Cell::Lacks("a pod that says nothing of user namespaces has one of its own all the same");
const EXCEPTIONS: &[(&str, Cell)] = &[
    ("commit", NO_FILES),
    ("copy running", NO_FILES),
    ("copy stopped", NO_FILES),
    ("again", ONCE),
    ("host users", NO_USERS),
];

/// Shell: the exit code of container `$c`.
const CODE: &str = "crictl inspect -o go-template --template '{{.status.exitCode}}' $c";
/// Shell: whether container `$c` runs.
const RUNS: &str =
    "crictl inspect -o go-template --template '{{.status.state}}' $c 2>/dev/null | grep -q RUNNING";

impl Door for Cri {
    fn name(&self) -> &'static str {
        self.name
    }

    fn node(&self) -> Result<Node> {
        let node = Node::builder(Release::Sid)
            .cri(true)
            .engines(&[Engine::CriTools, Engine::Containerd24])
            .start()?;
        for image in [Image::Busybox, Image::Systemd, Image::Dind] {
            node.import(image)?;
        }
        // The bridge, its address store and what CRI keeps for the first container stay from here on.
        let words = ["/bin/true"];
        let first = Run {
            words: &words,
            ..Run::default()
        };
        let line = self.line("first0", Verb::Run(&first)).unwrap_or_default();
        node.shell(&line)?.ok()?;
        let begin = Instant::now();
        let settled = "ctr -n k8s.io content prune references >/dev/null; cd /var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots; \
                       test $(ls | wc -l) = $(ctr -n k8s.io snapshots ls | tail -n +2 | wc -l)";
        while node.shell(settled)?.code != 0 {
            ensure!(begin.elapsed() < DEADLINE, "the first pod's snapshots stay");
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(node)
    }

    fn line(&self, id: &str, verb: Verb<'_>) -> Option<String> {
        let container = format!("c=$(cat /run/{id}.container)");
        // By its name: a client that was killed has told nobody its id.
        let remove = format!(
            "p=$(crictl pods -q --name '^{id}$'); [ -z \"$p\" ] || crictl rmp --force $p >/dev/null; rm -rf /run/{id}.*"
        );
        Some(match verb {
            Verb::Run(run) => {
                let start = self.start(id, run);
                // Attached, the end of the input is the container's.
                let attach = if run.stdin {
                    "crictl attach -i $c >/dev/null; "
                } else {
                    ""
                };
                format!(
                    "trap {} EXIT; {start}; {container}; {attach}while {RUNS}; do sleep 0.1; done; crictl logs $c; code=$({CODE}); exit $code",
                    quoted(&remove)
                )
            }
            Verb::Detach(run) => format!("{} || {{ {remove}; exit 1; }}", self.start(id, run)),
            Verb::Exec { tty, words } => format!(
                "{container}; exec crictl exec {} $c {}",
                if tty { "-it" } else { "" },
                line(words)
            ),
            // CRI has the polite signal and the other one.
            Verb::Signal("SIGKILL") => format!("{container}; crictl stop --timeout 0 $c"),
            Verb::Signal(_) => format!("{container}; crictl stop --timeout 20 $c"),
            Verb::Stop => format!("{container}; crictl stop --timeout 2 $c"),
            Verb::Remove => remove,
            Verb::Logs => format!("{container}; crictl logs $c"),
            Verb::Status => format!("{container}; {RUNS} && echo running || echo stopped"),
            Verb::ExitCode => format!("{container}; {CODE}"),
            Verb::Start
            | Verb::Commit(_)
            | Verb::CopyIn(..)
            | Verb::CopyOut(..)
            | Verb::RemoveImage(_) => return None,
        })
    }

    fn restart_engine(&self, node: &Node) -> Result<()> {
        node.kill_containerd("KILL")?;
        node.start_containerd()?;
        let begin = Instant::now();
        while node.exec(&["crictl", "pods"])?.code != 0 {
            ensure!(begin.elapsed() < DEADLINE, "CRI does not come back");
        }
        Ok(())
    }

    fn exec_code(&self, said: &str) -> Option<i32> {
        let (_, rest) = said.split_once("exit code ")?;
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse().ok()
    }

    fn exceptions(&self) -> &'static [(&'static str, Cell)] {
        EXCEPTIONS
    }
}

impl Cri {
    /// The line that runs a pod and starts its container; their ids are in files.
    fn start(&self, id: &str, run: &Run<'_>) -> String {
        let number: u32 = id
            .trim_start_matches(|c: char| !c.is_ascii_digit())
            .parse()
            .unwrap_or(0);
        // As the kubelet hands them out.
        let range =
            json!([{"host_id": 655_360 + 65536 * number, "container_id": 0, "length": 65536}]);
        let mut namespaces = json!({"pid": 1});
        match run.wish {
            Some(Wish::HostNetwork) => namespaces["network"] = json!(2),
            Some(Wish::HostPid) => namespaces["pid"] = json!(2),
            Some(Wish::HostIpc) => namespaces["ipc"] = json!(2),
            _ => {}
        }
        if self.users {
            namespaces["userns_options"] = json!({"mode": 0, "uids": range, "gids": range});
        }
        let context = json!({"privileged": run.wish == Some(Wish::Privileged), "namespace_options": namespaces});
        let mut pod = json!({
            "metadata": {"name": id, "namespace": "default", "uid": id, "attempt": 0},
            "log_directory": format!("/run/{id}.logs"),
            "linux": {"security_context": context},
        });
        if let Some((outside, inside)) = run.port {
            pod["port_mappings"] =
                json!([{"protocol": 0, "container_port": inside, "host_port": outside}]);
        }
        let mut container = json!({
            "metadata": {"name": id, "attempt": 0},
            "image": {"image": run.reference()},
            "log_path": "log",
            "tty": run.tty,
            "stdin": run.stdin || run.tty,
            "stdin_once": run.stdin,
            "linux": {"security_context": context},
        });
        if !run.words.is_empty() {
            container["command"] = json!(run.words);
        }
        if let Some((source, target)) = run.volume {
            let mut mount = json!({"host_path": source, "container_path": target});
            if self.users {
                mount["uidMappings"] = range.clone();
                mount["gidMappings"] = range;
            }
            container["mounts"] = json!([mount]);
        }
        let file = |kind: &str, value: &Value| {
            format!(
                "printf %s {} >/run/{id}.{kind}.json",
                quoted(&value.to_string())
            )
        };
        format!(
            "{}; {}; crictl runp --runtime sysbox /run/{id}.p.json >/run/{id}.pod && \
             crictl create $(cat /run/{id}.pod) /run/{id}.c.json /run/{id}.p.json >/run/{id}.container && \
             crictl start $(cat /run/{id}.container) >/dev/null",
            file("p", &pod),
            file("c", &container)
        )
    }
}
