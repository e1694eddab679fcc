//! Plain containerd, by its own client.

use anyhow::Result;
use integration::debian::Release;
use integration::engines::Engine;
use integration::image::Image;
use integration::node::Node;

use crate::door::{Cell, Door, Run, Verb, Wish, line, quoted};

/// ctr on one containerd.
#[derive(Debug)]
pub(crate) struct Ctr {
    name: &'static str,
    release: Release,
    engine: Option<Engine>,
}

/// Every containerd that is supported.
pub(crate) const ALL: [Ctr; 4] = [
    Ctr {
        name: "ctr 1.7",
        release: Release::Trixie,
        engine: None,
    },
    Ctr {
        name: "ctr 2.1",
        release: Release::Sid,
        engine: None,
    },
    Ctr {
        name: "ctr 2.3",
        release: Release::Sid,
        engine: Some(Engine::Containerd23),
    },
    Ctr {
        name: "ctr 2.4",
        release: Release::Sid,
        engine: Some(Engine::Containerd24),
    },
];

const NO_IMAGES: Cell = Cell::Lacks("ctr makes no image of a container");

const EXCEPTIONS: &[(&str, Cell)] = &[
    ("commit", NO_IMAGES),
    ("copy running", Cell::Lacks("ctr copies no files")),
    ("copy stopped", Cell::Lacks("ctr copies no files")),
    ("network", Cell::Lacks("ctr alone sets up no network")),
];

impl Door for Ctr {
    fn name(&self) -> &'static str {
        self.name
    }

    fn node(&self) -> Result<Node> {
        let engines: Vec<_> = self.engine.into_iter().collect();
        let node = Node::builder(self.release)
            .engines(&engines)
            .images(&[Image::Systemd, Image::Dind])
            .start()?;
        node.import(Image::Busybox)?;
        Ok(node)
    }

    fn line(&self, id: &str, verb: Verb<'_>) -> Option<String> {
        let log = format!("/srv/{id}.log");
        Some(match verb {
            Verb::Run(run) => format!("exec ctr run --rm {}", options(id, run)),
            Verb::Detach(run) => format!(
                "exec ctr run --detach --log-uri file://{log} {}",
                options(id, run)
            ),
            Verb::Exec { tty, words } => format!(
                "exec ctr task exec --exec-id x$$ {} {id} {}",
                if tty { "--tty" } else { "" },
                line(words)
            ),
            Verb::Signal(name) => format!("ctr task kill --signal {name} {id}"),
            Verb::Stop => format!(
                "ctr task kill --signal SIGKILL {id}; while ctr task ls | grep -q '^{id} .*RUNNING'; do sleep 0.05; done; ctr task delete {id} || true"
            ),
            Verb::Start => format!("exec ctr task start --detach --log-uri file://{log} {id}"),
            Verb::Remove => {
                format!(
                    "ctr task delete --force {id} 2>/dev/null || true; ctr container delete {id}; rm -f {log}"
                )
            }
            Verb::Logs => format!("cat {log}"),
            Verb::Status => format!(
                "ctr task ls | awk '$1 == \"{id}\" && $3 == \"RUNNING\" {{ print \"running\" }}'"
            ),
            // ctr says it in a warning, and nothing of a zero.
            Verb::ExitCode => format!(
                "code=$(ctr task delete {id} 2>&1 | sed -n 's/.*non-zero exit code \\([0-9]*\\).*/\\1/p'); echo ${{code:-0}}"
            ),
            Verb::Commit(_) | Verb::CopyIn(..) | Verb::CopyOut(..) | Verb::RemoveImage(_) => {
                return None;
            }
        })
    }

    fn tidy(&self, node: &Node) -> Result<()> {
        // The fifos and the lease of a ctr that was killed.
        node.shell(
            "rm -rf /run/containerd/fifo/*; for lease in $(ctr leases ls -q); do ctr leases delete --sync $lease; done",
        )?
        .ok()
        .map(drop)
    }

    fn exceptions(&self) -> &'static [(&'static str, Cell)] {
        EXCEPTIONS
    }
}

fn options(id: &str, run: &Run<'_>) -> String {
    // As Docker and Kubernetes have it by default; ctr alone sets no_new_privs.
    let mut words = vec![
        "--runtime".to_owned(),
        "io.containerd.sysbox.v2".to_owned(),
        "--allow-new-privs".to_owned(),
    ];
    if run.tty {
        words.push("--tty".to_owned());
    }
    if let Some((source, target)) = run.volume {
        let mount = format!("type=bind,src={source},dst={target},options=rbind:rw");
        words.extend(["--mount".to_owned(), mount]);
    }
    let namespace =
        |kind: &str, file: &str| ["--with-ns".to_owned(), format!("{kind}:/proc/1/ns/{file}")];
    match run.wish {
        None => {}
        Some(Wish::HostNetwork) => words.push("--net-host".to_owned()),
        Some(Wish::HostPid) => words.extend(namespace("pid", "pid")),
        Some(Wish::HostIpc) => words.extend(namespace("ipc", "ipc")),
        Some(Wish::HostUsers) => words.extend(namespace("user", "user")),
        Some(Wish::Privileged) => words.push("--privileged".to_owned()),
    }
    words.extend([run.reference().to_owned(), id.to_owned()]);
    words.extend(run.words.iter().map(|word| quoted(word)));
    words.join(" ")
}
