//! Many containers from several clients at once, some of which are killed.

use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result, ensure};

use crate::bed::Bed;

const CLIENTS: usize = 4;

/// `SYSBOX_DOCKER_RUNS` (60; the full walk is 500) containers over four clients; every tenth is killed with all that it
/// runs, at another moment each time.
pub(crate) fn run(bed: &Bed) -> Result<()> {
    let runs: usize = match std::env::var("SYSBOX_DOCKER_RUNS") {
        Ok(text) => text.parse().context("SYSBOX_DOCKER_RUNS")?,
        Err(_) => 60,
    };
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let failures = &failures;
            scope.spawn(move || {
                for number in (client..runs).step_by(CLIENTS) {
                    if let Err(error) = one(bed, number) {
                        let mut failures = failures.lock().unwrap_or_else(|e| e.into_inner());
                        failures.push(format!("{error:#}"));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_default();
    ensure!(
        failures.is_empty(),
        "{} of {runs}: {failures:#?}",
        failures.len()
    );
    let left = bed
        .node
        .shell("docker ps -aq; ls /run/containerd-shim-sysbox/ranges")?
        .ok()?;
    ensure!(left.text().is_empty(), "left: {}", left.stdout);
    Ok(())
}

fn one(bed: &Bed, number: usize) -> Result<()> {
    let reference = integration::image::Image::Busybox.reference();
    if number % 10 != 9 {
        let output = bed.node.exec(&[
            "docker",
            "run",
            "--rm",
            "--runtime",
            "sysbox",
            reference,
            "sh",
            "-c",
            "id -u; exit 5",
        ])?;
        let output = output.exits(5)?;
        ensure!(output.text() == "0", "it printed {:?}", output.stdout);
        return Ok(());
    }
    // Moments from before its creation to long after its start.
    let pause = number * 37 % 700;
    bed.node
        .shell(&format!(
            "docker run --rm --name m{number} --runtime sysbox {reference} sleep 1000 >/dev/null 2>&1 & client=$!
             sleep {}.{:03}; kill -9 $client; i=0
             while docker rm -f m{number} 2>&1 | grep -v 'No such container'; do sleep 0.1; i=$((i + 1)); [ $i -lt 100 ]; done
             sleep 0.5; docker rm -f m{number} >/dev/null 2>&1 || true",
            pause / 1000,
            pause % 1000
        ))?
        .ok()?;
    Ok(())
}
