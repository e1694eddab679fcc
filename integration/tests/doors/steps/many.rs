//! Many containers from several clients at once, some of whose clients are killed.

use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result, ensure};
use integration::node::DEADLINE;
use integration::process;

use crate::door::{Bed, Run, Verb, quoted};

const CLIENTS: usize = 4;

/// `SYSBOX_MANY` (20; the full walk is 500) containers over four clients; the client of every tenth is killed, at another
/// moment each time, and the container removed.
pub(crate) fn many(bed: &Bed<'_>) -> Result<()> {
    let runs: usize = match std::env::var("SYSBOX_MANY") {
        Ok(text) => text.parse().context("SYSBOX_MANY")?,
        Err(_) => 20,
    };
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let failures = &failures;
            scope.spawn(move || {
                for number in (client..runs).step_by(CLIENTS) {
                    let outcome = if number % 10 == 9 {
                        killed(bed, number)
                    } else {
                        one(bed)
                    };
                    if let Err(error) = outcome {
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
    Ok(())
}

fn one(bed: &Bed<'_>) -> Result<()> {
    let run = Run {
        words: &["/bin/sh", "-c", "id -u; exit 5"],
        ..Run::default()
    };
    let mut output = bed.run(&run, b"")?;
    if bed.door.stumbled(&output.stderr) {
        output = bed.run(&run, b"")?;
    }
    let output = output.exits(5)?;
    ensure!(output.text() == "0", "it printed {:?}", output.stdout);
    Ok(())
}

/// A client that is killed at a moment from before the container's creation to long after its start.
fn killed(bed: &Bed<'_>, number: usize) -> Result<()> {
    let id = bed.id();
    let run = Run {
        words: &["/bin/sleep", "1000"],
        ..Run::default()
    };
    let line = |verb| bed.door.line(&id, verb).context("every door has it");
    let (run, remove) = (line(Verb::Run(&run))?, line(Verb::Remove)?);
    let pause = number * 37 % 700;
    // What the engine is at when its client dies comes to its end first.
    let script = format!(
        "/bin/sh -ec {} >/dev/null 2>&1 & client=$!; sleep {}.{:03}; kill -9 $client
         for pause in 0.1 0.5 1 2; do sleep $pause; /bin/sh -ec {remove} >/dev/null 2>&1 || true; done",
        quoted(&run),
        pause / 1000,
        pause % 1000,
        remove = quoted(&remove),
    );
    let mut command = bed.node.command(&["/bin/sh", "-ec", &script]);
    process::run(&mut command, b"", DEADLINE)?.ok().map(drop)
}
