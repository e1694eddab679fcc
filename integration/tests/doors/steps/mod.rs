//! The scenario, a step each.

mod files;
mod inner;
mod life;
mod many;
mod refusals;
mod streams;

use anyhow::Result;

use crate::door::Bed;

/// One step.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) name: &'static str,
    /// The row of the table.
    pub(crate) title: &'static str,
    pub(crate) body: fn(&Bed<'_>) -> Result<()>,
    /// What is refused by design, and what to do instead.
    pub(crate) refused: Option<&'static str>,
}

impl Step {
    const fn new(
        name: &'static str,
        title: &'static str,
        body: fn(&Bed<'_>) -> Result<()>,
    ) -> Self {
        Self {
            name,
            title,
            body,
            refused: None,
        }
    }

    const fn refused(mut self, why: &'static str) -> Self {
        self.refused = Some(why);
        self
    }
}

/// All of them, in the order of the table's rows.
pub(crate) const STEPS: &[Step] = &[
    Step::new("systemd", "systemd boots to `running`", inner::systemd),
    Step::new(
        "docker",
        "`docker run` and `docker build` inside",
        inner::docker,
    ),
    Step::new("codes", "exit codes and signals", streams::codes),
    Step::new("stdin", "standard input", streams::stdin),
    Step::new(
        "terminal",
        "exec with a terminal, resized",
        streams::terminal,
    ),
    Step::new("logs", "logs complete after the exit", streams::logs),
    Step::new(
        "volumes",
        "a volume's owners, two containers sharing it",
        files::volumes,
    ),
    Step::new(
        "copy running",
        "copying in and out of a running container",
        files::copy_running,
    ),
    Step::new(
        "copy stopped",
        "copying in and out of a stopped one",
        files::copy_stopped,
    ),
    Step::new("commit", "commit, inner images included", files::commit),
    Step::new("network", "network in and out", life::network),
    Step::new(
        "isolation",
        "root inside is nobody outside",
        life::isolation,
    ),
    Step::new("again", "stop and start, inner images kept", life::again),
    Step::new(
        "engine",
        "engine killed and restarted under containers",
        life::engine,
    ),
    Step::new("many", "many at once, some clients killed", many::many),
    Step::new(
        "privileged",
        "privileged, inside the user namespace only",
        refusals::privileged,
    ),
    Step::new("host network", "host network", refusals::host_network)
        .refused("the pod's own network is the sandbox: publish a port"),
    Step::new("host pid", "host pid namespace", refusals::host_pid)
        .refused("processes of the host are out of sight"),
    Step::new("host ipc", "host ipc namespace", refusals::host_ipc)
        .refused("share a volume instead"),
    Step::new("host users", "host user namespace", refusals::host_users)
        .refused("root inside would be root outside"),
];
