//! nerdctl on containerd, with its own CNI bridge.

use anyhow::Result;
use integration::image::Image;
use integration::nerdctl;
use integration::node::Node;

use crate::docker_like::Client;
use crate::door::{Cell, Door, Verb};

/// nerdctl on Debian's containerd.
#[derive(Debug)]
pub(crate) struct Nerdctl;

const CLIENT: Client = Client {
    program: nerdctl::PROGRAM,
    runtime: nerdctl::RUNTIME,
    patient: true,
};

impl Door for Nerdctl {
    fn name(&self) -> &'static str {
        "nerdctl"
    }

    fn node(&self) -> Result<Node> {
        nerdctl::node(&[Image::Systemd, Image::Dind])
    }

    fn line(&self, id: &str, verb: Verb<'_>) -> Option<String> {
        let line = CLIENT.line(id, verb);
        Some(match verb {
            // It deletes a task that was created and not started without a kill, which containerd refuses under any runtime.
            Verb::Remove => format!(
                "{line} || {{ ctr task kill -s KILL $({} ps -aq --no-trunc --filter name={id}); sleep 0.5; {line}; }}",
                nerdctl::PROGRAM
            ),
            _ => line,
        })
    }

    fn exceptions(&self) -> &'static [(&'static str, Cell)] {
        &[
            ("host users", Cell::Lacks("nerdctl has no --userns")),
            (
                "copy running",
                Cell::NotYet(
                    "nerdctl writes through /proc/PID/root as the host's root, who is nobody inside: use a volume or `exec -i tar`",
                ),
            ),
        ]
    }

    fn exec_code(&self, said: &str) -> Option<i32> {
        // Its own code is 1 then.
        let (_, code) = said.split_once("exec failed with exit code ")?;
        let digits = code.split(|end: char| !end.is_ascii_digit()).next()?;
        digits.parse().ok()
    }

    fn stumbled(&self, said: &str) -> bool {
        // Seen under runc as well, about once in eighty runs; nothing has been made then.
        let said = said.trim_end();
        said.contains("level=fatal msg=\"container ") && said.ends_with("not found\"")
    }

    fn tidy(&self, node: &Node) -> Result<()> {
        nerdctl::tidy(node)
    }
}
