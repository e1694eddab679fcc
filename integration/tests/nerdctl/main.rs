//! nerdctl users' side: what `nerdctl run --runtime io.containerd.sysbox.v2` must do beyond the one scenario of all doors
//! (`tests/doors`). A case is a script in the node (`*.sh`) that prints a line for each check, or a function.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use integration::image::Image;
use integration::leak::{self, Snapshot};
use integration::node::Node;
use integration::terminal::Session;
use integration::{kernel_log, nerdctl, script, suite};
use libtest_mimic::{Arguments, Trial};

type Body = fn(&Node) -> Result<()>;

const CASES: &[(&str, Body)] = &[
    ("life", |node| scripted(node, include_str!("life.sh"))),
    ("files", |node| scripted(node, include_str!("files.sh"))),
    ("network", |node| scripted(node, include_str!("network.sh"))),
    ("terminal", terminal),
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Each starts a node of its own.
    arguments.test_threads.get_or_insert(1);
    let trials = CASES
        .iter()
        .map(|&(name, body)| Trial::ignorable_test(name, move || suite::trial(|| tried(body))))
        .collect();
    suite::run(&arguments, trials, || (), kernel_log::but_of_clients)
}

fn tried(body: Body) -> Result<()> {
    let node = nerdctl::node(&[])?;
    let before = Snapshot::of_node(&node);
    let settled = || {
        nerdctl::tidy(&node)?;
        leak::settled(&node, &before)
    };
    body(&node)
        .and_then(|()| settled())
        .map_err(|error| anyhow::anyhow!("{error:#}\n--- containerd's log\n{}", node.log_tail()))
}

fn scripted(node: &Node, checks: &str) -> Result<()> {
    let prelude = include_str!("prelude.sh");
    let (program, runtime) = (nerdctl::PROGRAM, nerdctl::RUNTIME);
    script::run(
        node,
        &format!(
            "n() {{ {program} \"$@\"; }}\nours() {{ n run --runtime {runtime} \"$@\"; }}\n{prelude}\n{checks}"
        ),
    )
}

/// `run -it`: a terminal of the client's size, which follows it, and the exit code.
fn terminal(node: &Node) -> Result<()> {
    let (program, runtime) = (nerdctl::PROGRAM, nerdctl::RUNTIME);
    let line = format!(
        "exec {program} run -it --rm --runtime {runtime} {} sh -c 'until [ \"$(stty size)\" = \"30 100\" ]; do sleep 0.05; done; echo first
         until [ \"$(stty size)\" = \"20 80\" ]; do sleep 0.05; done; echo second; read word; echo \"got $word\"; exit 4'",
        Image::Busybox.reference()
    );
    // The controlling terminal, so that a change of its size is told.
    let mut command = node.command(&["setsid", "--ctty", "--wait", "/bin/sh", "-ec", &line]);
    let mut session = Session::start(&mut command, 100, 30)?;
    session.until("first", Duration::from_secs(20))?;
    session.resize(80, 20)?;
    session.until("second", Duration::from_secs(20))?;
    session.write(b"word\n")?;
    session.until("got word", Duration::from_secs(20))?;
    let (code, shown) = session.finish()?;
    ensure!(code == 4, "exit code {code}, shown {shown:?}");
    Ok(())
}
