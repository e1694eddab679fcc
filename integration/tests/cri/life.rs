//! The life of containers and pods.

use std::fs::File;
use std::io::Read;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::node::DEADLINE;
use integration::process;
use nix::pty::{OpenptyResult, Winsize, openpty};
use serde_json::{Value, json};

use crate::bed::{ANY, Bed, Case, same};

pub(crate) const CASES: &[Case] = &[
    Case::new("one_after_the_other", ANY, sequence),
    Case::new("logs", ANY, logs),
    Case::new("exec_and_attach", ANY, exec),
    Case::new("stop_with_grace_period", ANY, grace),
    Case::new("stats", ANY, stats),
    Case::new("containerd_is_killed", ANY, restart),
];

/// Init containers, the container proper, its restart, each with its exit code.
fn sequence(bed: &Bed<'_>) -> Result<()> {
    let pod = bed.pod(json!({}))?;
    for code in [0, 7] {
        let init = pod.run(json!({"command": ["/probe", "exit", code.to_string()]}))?;
        ensure!(init.exited()? == code);
        init.remove()?;
    }
    let stays = pod.sleeper()?;
    let crashes = json!({"metadata": {"name": "crashes"}, "command": ["/bin/sh", "-c", "sh -c 'kill -9 $$'; exit $?"]});
    for attempt in 0..3 {
        let mut config = crashes.clone();
        config["metadata"]["attempt"] = json!(attempt);
        let container = pod.run(config)?;
        ensure!(container.exited()? == 137);
    }
    stays.shell("true")?;
    pod.remove()
}

fn logs(bed: &Bed<'_>) -> Result<()> {
    let pod = bed.pod(json!({}))?;
    let script = "echo out; echo err >&2; head -c 20000 /dev/zero | tr '\\0' x; echo; echo last";
    let container = pod.run(json!({"command": ["/bin/sh", "-c", script]}))?;
    ensure!(container.exited()? == 0);
    let log = container.log()?;
    let long = "x".repeat(20000);
    for line in ["out", "err", &long, "last"] {
        ensure!(
            log.lines().any(|l| l == line),
            "{} is not in it",
            &line[..3]
        );
    }
    let shown = bed.try_crictl(&["logs", &container.id])?.ok()?;
    ensure!(shown.stdout.contains("out\n") && shown.stderr.contains("err\n"));
    pod.remove()
}

fn exec(bed: &Bed<'_>) -> Result<()> {
    let pod = bed.pod(json!({}))?;
    let container = pod.run(json!({"command": ["/bin/sh"], "stdin": true, "tty": false}))?;
    // By the streaming server, and in one call, of which crictl shows both streams together.
    for (options, code) in [(&[][..], 0), (&[], 7), (&["--sync"], 0), (&["--sync"], 7)] {
        let script = format!("echo out; echo err >&2; sleep 0.1; exit {code}");
        let words = ["/bin/sh", "-c", &script];
        let output = process::run(&mut container.exec(options, &words), b"", DEADLINE)?;
        let all = format!("{}{}", output.stdout, output.stderr);
        ensure!(
            (output.code == 0) == (code == 0) && all.contains("err"),
            "{output:?}"
        );
        // Of a failed call in one it keeps standard output to itself.
        let shown = options.is_empty() || code == 0;
        ensure!(all.contains("out\n") == shown, "{output:?}");
        ensure!(code == 0 || all.contains('7'), "{output:?}");
    }
    let input = process::run(
        &mut container.exec(&["-i"], &["/probe", "count"]),
        &[b'x'; 100_000],
        DEADLINE,
    )?;
    same(input.ok()?.text(), "100000")?;
    // The client tells the size when the process runs already.
    let sized = "i=0; while [ \"$(stty size)\" != '33 99' ] && [ $i -lt 100 ]; do sleep 0.1; i=$((i + 1)); done; tty; stty size";
    let shown = in_terminal(container.exec(&["-it"], &["/bin/sh", "-c", sized]))?;
    ensure!(
        shown.contains("/dev/pts/") && shown.contains("33 99"),
        "{shown:?}"
    );
    // A shell that reads what is attached to it.
    let typed = format!(
        "(echo 'echo attached'; sleep 0.5; echo 'exit 3'; sleep 0.5) | crictl attach -i {}",
        container.id
    );
    let output = bed.node.shell(&typed)?;
    ensure!(output.stdout.contains("attached"), "{output:?}");
    ensure!(container.exited()? == 3);
    pod.remove()
}

/// What a command shows in a terminal of 33 lines and 99 columns.
fn in_terminal(mut command: Command) -> Result<String> {
    let size = Winsize {
        ws_row: 33,
        ws_col: 99,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let OpenptyResult { master, slave } = openpty(&size, None).context("open a terminal")?;
    command
        .stdin(slave.try_clone()?)
        .stdout(slave.try_clone()?)
        .stderr(slave);
    let mut child = command.spawn().context("start crictl")?;
    // It holds this side's copies of the terminal.
    drop(command);
    let mut shown = Vec::new();
    // A terminal whose other end is closed reads as EIO; what came before is kept.
    drop(File::from(master).read_to_end(&mut shown));
    child.wait().context("wait for crictl")?;
    Ok(String::from_utf8_lossy(&shown).into_owned())
}

fn grace(bed: &Bed<'_>) -> Result<()> {
    let pod = bed.pod(json!({}))?;
    let polite = pod.run(json!({"command": ["/probe", "sig", "SIGTERM"]}))?;
    let deaf =
        pod.run(json!({"command": ["/bin/sh", "-c", "trap '' TERM; while :; do sleep 1; done"]}))?;
    let begin = Instant::now();
    while !polite.log()?.contains("ready") {
        ensure!(begin.elapsed() < DEADLINE, "it does not wait for signals");
        std::thread::sleep(Duration::from_millis(50));
    }
    bed.crictl(&["stop", "--timeout", "20", &polite.id])?;
    ensure!(polite.exited()? == 0 && polite.log()?.contains("SIGTERM"));
    let begin = Instant::now();
    bed.crictl(&["stop", "--timeout", "2", &deaf.id])?;
    ensure!(deaf.exited()? == 137 && begin.elapsed() >= Duration::from_secs(2));
    pod.remove()
}

fn stats(bed: &Bed<'_>) -> Result<()> {
    let pod = bed.pod(json!({}))?;
    let container = pod.run(json!({"command": ["/bin/sh", "-c", "while :; do :; done"]}))?;
    let usage = || -> Result<u64> {
        let stats = bed.crictl(&["stats", "-o", "json", "--id", &container.id])?;
        let stats: Value = serde_json::from_str(&stats).context("read stats")?;
        let usage = &stats["stats"][0]["cpu"]["usageCoreNanoSeconds"]["value"];
        let text = usage
            .as_str()
            .with_context(|| format!("no usage in {stats}"))?;
        text.parse().map_err(Into::into)
    };
    let before = usage()?;
    std::thread::sleep(Duration::from_millis(1500));
    ensure!(usage()? > before, "a busy loop used nothing");
    pod.remove()
}

/// Everything goes on, and is found again.
fn restart(bed: &Bed<'_>) -> Result<()> {
    let pod = bed.pod(json!({}))?;
    let (stays, ends) = (
        pod.sleeper()?,
        pod.run(json!({"command": ["/bin/sh", "-c", "sleep 2; exit 5"]}))?,
    );
    let created = pod.create(json!({"command": ["/bin/echo", "late"]}))?;
    bed.node.kill_containerd("KILL")?;
    std::thread::sleep(Duration::from_secs(2));
    bed.node.start_containerd()?;
    let begin = Instant::now();
    while bed.try_crictl(&["pods"])?.code != 0 {
        ensure!(begin.elapsed() < DEADLINE, "CRI does not come back");
    }
    stays.shell("true")?;
    // Of runc's shim a restarted containerd asks for the processes, gets none, and takes it for a leak.
    let code = ends.exited()?;
    ensure!(code == 5 || bed.kind.handler == "runc", "exit code {code}");
    created.start()?;
    ensure!(created.exited()? == 0 && created.log()? == "late\n");
    pod.sleeper()?.shell("ip addr show eth0 | grep inet")?;
    pod.remove()
}
