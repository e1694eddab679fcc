//! What users wait for at the other doors: Docker's and nerdctl's clients.

use std::time::Instant;

use anyhow::Result;

use crate::command;
use crate::measure::Metric;
use crate::runtime::Runtime;

/// nerdctl as the tests run it.
const NERDCTL: [&str; 7] = [
    "nerdctl",
    "--namespace",
    "default",
    "--cgroup-manager",
    "cgroupfs",
    "--data-root",
    "/srv/nerdctl",
];

/// `docker-run`, `docker-exec` and `nerdctl-run` of `true`, each client's own start included, each without a network.
pub(crate) fn all(rounds: usize, image: &str) -> Result<[Metric; 3]> {
    Ok([
        run("docker-run", &["docker"], docker, rounds, image)?,
        docker_exec(rounds, image)?,
        run("nerdctl-run", &NERDCTL, nerdctl, rounds, image)?,
    ])
}

/// Ours by its name in daemon.json, or by its type.
fn named(runtime: Runtime, ours: &'static str, runc: &'static str) -> &'static str {
    if runtime == Runtime::Ours { ours } else { runc }
}

fn docker(runtime: Runtime) -> &'static str {
    named(runtime, "sysbox", "runc")
}

fn nerdctl(runtime: Runtime) -> &'static str {
    named(runtime, "io.containerd.sysbox.v2", "io.containerd.runc.v2")
}

fn run(
    name: &str,
    client: &[&str],
    of: fn(Runtime) -> &'static str,
    rounds: usize,
    image: &str,
) -> Result<Metric> {
    let mut metric = Metric::new(name, "ms");
    for round in 0..rounds + 1 {
        for runtime in Runtime::pair(round) {
            let options = ["run", "--rm", "--network", "none", "--runtime", of(runtime)];
            let begin = Instant::now();
            command::run(&[client, &options, &[image, "true"]].concat())?;
            // The first round makes what the engine keeps.
            if round > 0 {
                metric.since(runtime, begin);
            }
        }
    }
    Ok(metric)
}

fn docker_exec(rounds: usize, image: &str) -> Result<Metric> {
    let mut metric = Metric::new("docker-exec", "ms");
    for runtime in Runtime::pair(0) {
        let options = ["run", "-d", "--network", "none", "--runtime"];
        let name = ["--name", runtime.name(), image, "sleep", "100000"];
        command::run(&[&["docker"], &options[..], &[docker(runtime)], &name].concat())?;
    }
    for round in 0..rounds {
        for runtime in Runtime::pair(round) {
            let begin = Instant::now();
            command::run(&["docker", "exec", runtime.name(), "true"])?;
            metric.since(runtime, begin);
        }
    }
    for runtime in Runtime::pair(0) {
        command::run(&["docker", "rm", "-f", runtime.name()])?;
    }
    Ok(metric)
}
