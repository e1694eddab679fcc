//! Docker's command line, which nerdctl speaks as well.

use crate::door::{Run, Verb, Wish, line, quoted};

/// A client and the options that choose our runtime.
#[derive(Debug)]
pub(crate) struct Client {
    /// The program, with its global options.
    pub(crate) program: &'static str,
    /// What `--runtime` is given.
    pub(crate) runtime: &'static str,
    /// Whether `logs` wants a moment: nerdctl's logger is a process of its own.
    pub(crate) patient: bool,
}

impl Client {
    /// See [`crate::door::Door::line`].
    pub(crate) fn line(&self, id: &str, verb: Verb<'_>) -> String {
        let cli = self.program;
        match verb {
            Verb::Run(run) => format!("exec {cli} run --rm --name {id} {}", self.options(run)),
            Verb::Detach(run) => format!("exec {cli} run -d --name {id} {}", self.options(run)),
            Verb::Exec { tty, words } => format!(
                "exec {cli} exec {} {id} {}",
                if tty { "-it" } else { "" },
                line(words)
            ),
            Verb::Signal(name) => format!("{cli} kill --signal {name} {id}"),
            Verb::Stop => format!("{cli} stop -t 2 {id}"),
            Verb::Start => format!("{cli} start {id}"),
            Verb::Remove => format!("{cli} rm -f -v {id}"),
            Verb::Logs if self.patient => format!("sleep 0.5; {cli} logs {id}"),
            Verb::Logs => format!("{cli} logs {id}"),
            Verb::Status => format!("{cli} inspect -f '{{{{.State.Status}}}}' {id}"),
            Verb::ExitCode => format!("{cli} inspect -f '{{{{.State.ExitCode}}}}' {id}"),
            Verb::Commit(image) => format!("{cli} commit {id} {image}"),
            Verb::CopyIn(from, to) => format!("{cli} cp {from} {id}:{to}"),
            Verb::CopyOut(from, to) => format!("{cli} cp {id}:{from} {to}"),
            Verb::RemoveImage(image) => format!("{cli} rmi -f {image}"),
        }
    }

    fn options(&self, run: &Run<'_>) -> String {
        let mut words = vec![format!("--runtime {}", self.runtime)];
        if run.tty {
            words.push("-it".to_owned());
        } else if run.stdin {
            words.push("-i".to_owned());
        }
        if let Some((source, target)) = run.volume {
            words.push(format!("-v {source}:{target}"));
        }
        if let Some((outside, inside)) = run.port {
            words.push(format!("-p {outside}:{inside}"));
        }
        if let Some(wish) = run.wish {
            words.push(
                match wish {
                    Wish::HostNetwork => "--network host",
                    Wish::HostPid => "--pid host",
                    Wish::HostIpc => "--ipc host",
                    Wish::HostUsers => "--userns host",
                    Wish::Privileged => "--privileged",
                }
                .to_owned(),
            );
        }
        words.push(run.reference().to_owned());
        words.extend(run.words.iter().map(|word| quoted(word)));
        words.join(" ")
    }
}
