//! Exit codes, signals, standard streams and terminals, as the client hands them on.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration::image::Image;
use integration::node::DEADLINE;
use integration::terminal::Session;

use crate::door::{Bed, Run, Verb};

pub(crate) fn codes(bed: &Bed<'_>) -> Result<()> {
    for code in [0, 7, 255] {
        let words = ["/probe", "exit", &code.to_string()];
        let run = Run {
            words: &words,
            ..Run::default()
        };
        bed.run(&run, b"")?.exits(code)?;
    }
    for (signal, code) in [("SIGTERM", 143), ("SIGKILL", 137)] {
        let container = bed.detach(&Run {
            words: &["/probe", "sleep"],
            ..Run::default()
        })?;
        // Before that a signal to init is lost.
        container.until("cat /proc/1/comm", "ready", DEADLINE)?;
        let exec = container.tries(Verb::Exec {
            tty: false,
            words: &["/probe", "exit", "9"],
        })?;
        let exec_code = bed.door.exec_code(&exec.stderr).unwrap_or(exec.code);
        ensure!(exec_code == 9, "exec: {exec:?}");
        container.does(Verb::Signal(signal))?;
        let ended = container.ends()?;
        ensure!(ended == code, "{signal}: exit code {ended}");
        container.remove()?;
    }
    Ok(())
}

pub(crate) fn stdin(bed: &Bed<'_>) -> Result<()> {
    let input = vec![b'x'; 1 << 20];
    let run = Run {
        words: &["/probe", "count"],
        stdin: true,
        ..Run::default()
    };
    let output = bed.run(&run, &input)?.ok()?;
    ensure!(output.text() == input.len().to_string(), "{output:?}");
    Ok(())
}

pub(crate) fn terminal(bed: &Bed<'_>) -> Result<()> {
    let container = bed.detach(&Run {
        image: Some(Image::Busybox),
        words: &["/probe", "sleep"],
        ..Run::default()
    })?;
    let script = "until [ \"$(stty size)\" = '30 100' ]; do sleep 0.05; done; echo first
         until [ \"$(stty size)\" = '20 80' ]; do sleep 0.05; done; echo second; test -t 0 && exit 4";
    let verb = Verb::Exec {
        tty: true,
        words: &["/bin/sh", "-c", script],
    };
    let line = bed.door.line(&container.id, verb).unwrap_or_default();
    // The controlling terminal, so that a change of its size is told.
    let mut command = bed
        .node
        .command(&["setsid", "--ctty", "--wait", "/bin/sh", "-ec", &line]);
    let mut session = Session::start(&mut command, 100, 30)?;
    session.until("first", Duration::from_secs(20))?;
    // A client may begin to listen for changes only after it has handed on the first size.
    for _ in 0..20 {
        session.resize(80, 21)?;
        session.resize(80, 20)?;
        if session.until("second", Duration::from_secs(1)).is_ok() {
            break;
        }
    }
    session.until("second", Duration::from_secs(1))?;
    let (code, shown) = session.finish()?;
    let code = bed.door.exec_code(&shown).unwrap_or(code);
    ensure!(code == 4, "exit code {code}, shown {shown:?}");
    container.remove()
}

pub(crate) fn logs(bed: &Bed<'_>) -> Result<()> {
    const LINES: usize = 20_000;
    // A log that takes both streams may have one of them in the middle of the other's line.
    let script = format!("seq {LINES}; sleep 0.5; echo last >&2; exit 3");
    let words = ["/bin/sh", "-c", &script];
    let container = bed.detach(&Run {
        words: &words,
        ..Run::default()
    })?;
    ensure!(container.ends()? == 3, "another exit code than 3");
    let log = container.does(Verb::Logs)?;
    let all = format!("{}{}", log.stdout, log.stderr);
    let numbers = all.lines().filter_map(|line| line.parse::<usize>().ok());
    ensure!(
        numbers.eq(1..=LINES) && all.lines().any(|line| line == "last"),
        "{} lines of {LINES}",
        all.lines().count()
    );
    container.remove()
}
