//! Standard streams and terminals.

use anyhow::{Result, ensure};
use integration::image::Image;
use integration::terminal::{SIZE, Session};

use crate::bed::{ANY, Bed, Case, Runtime};

pub(crate) const CASES: &[Case] = &[
    Case::new("stdout_and_stderr", ANY, stdout_and_stderr),
    Case::new("stdout_bulk", ANY, stdout_bulk),
    Case::new("stdin_bulk", ANY, stdin_bulk),
    Case::new("terminal", ANY, terminal),
    Case::new("null_io", ANY, null_io),
    Case::new("log_file", ANY, log_file),
    Case::new("log_program", ANY, log_program).newer(),
];

/// More than the pipes between container and client hold together.
const BULK: usize = 8 << 20;

fn stdout_and_stderr(bed: &Bed<'_>) -> Result<()> {
    let output = bed
        .run(&[], &["/bin/sh", "-c", "echo out; echo err >&2"])?
        .ok()?;
    ensure!(
        (output.stdout.as_str(), output.stderr.as_str()) == ("out\n", "err\n"),
        "{output:?}"
    );
    Ok(())
}

fn stdout_bulk(bed: &Bed<'_>) -> Result<()> {
    let output = bed.run(&[], &["/probe", "spew", &BULK.to_string()])?.ok()?;
    ensure!(
        output.stdout.len() == BULK,
        "{} bytes of {BULK} arrived",
        output.stdout.len()
    );
    for (number, line) in output.stdout.lines().enumerate() {
        ensure!(line.parse() == Ok(number), "line {number} is {line:?}");
    }
    Ok(())
}

fn stdin_bulk(bed: &Bed<'_>) -> Result<()> {
    let output = bed
        .run_with(&[], &["/probe", "count"], &vec![b'x'; BULK])?
        .ok()?;
    ensure!(output.text() == BULK.to_string(), "{output:?}");
    Ok(())
}

fn terminal(bed: &Bed<'_>) -> Result<()> {
    let script = format!("tty; {SIZE}; test -t 0 && test -t 2 && echo terminal; exit 3");
    let id = bed.id();
    let line = bed.words(
        &["--rm", "--tty"],
        Image::Busybox,
        &id,
        &["/bin/sh", "-c", &script],
    );
    let (code, shown) = Session::start(&mut bed.node.command(&line), 100, 30)?.finish()?;
    let seen: Vec<_> = shown.split_whitespace().collect();
    // Both names are right: it is the same device.
    let named = matches!(seen.first(), Some(&"/dev/pts/0" | &"/dev/console"));
    ensure!(
        code == 3 && named && seen[1..] == ["30", "100", "terminal"],
        "exit code {code}, {shown:?}"
    );
    Ok(())
}

fn null_io(bed: &Bed<'_>) -> Result<()> {
    let container = bed.detached(
        &["--null-io"],
        Image::Busybox,
        &["/bin/sh", "-c", "echo lost && cat && exit 5"],
    )?;
    container.reaches("STOPPED")?;
    ensure!(container.delete_task()? == 5, "another exit status than 5");
    container.delete_container()
}

fn log_program(bed: &Bed<'_>) -> Result<()> {
    // 3 is stdout, 4 is stderr, closing 5 says that it is ready.
    let script = "exec 5>&-; env >/srv/log; cat <&3 >>/srv/log & cat <&4 >>/srv/log & wait";
    let encoded = script
        .replace('&', "%26")
        .replace(';', "%3B")
        .replace(' ', "+");
    let container = bed.detached(
        &["--log-uri", &format!("binary:///bin/sh?-c={encoded}")],
        Image::Busybox,
        &["/bin/sh", "-c", "echo out; echo err >&2"],
    )?;
    container.reaches("STOPPED")?;
    let id = container.id.clone();
    container.remove()?;
    let log = bed.node.shell("cat /srv/log; rm /srv/log")?.ok()?.stdout;
    ensure!(log.contains("out\n") && log.contains("err\n"), "{log}");
    ensure!(
        log.contains(&format!("CONTAINER_ID={id}\n"))
            && log.contains("CONTAINER_NAMESPACE=default\n"),
        "{log}"
    );
    ensure!(
        !log.contains("TTRPC_ADDRESS"),
        "it has these two only: {log}"
    );
    Ok(())
}

fn log_file(bed: &Bed<'_>) -> Result<()> {
    // runc's shim now and then loses what is written just before the exit ("error copying stderr"): that is asked of ours alone.
    let program = match bed.runtime {
        Runtime::Runc => "echo out; echo err >&2; sleep 1",
        Runtime::Sysbox => "echo out; echo err >&2",
    };
    let container = bed.detached(
        &["--log-uri", "file:///srv/log"],
        Image::Busybox,
        &["/bin/sh", "-c", program],
    )?;
    container.reaches("STOPPED")?;
    container.remove()?;
    let log = bed.node.shell("cat /srv/log; rm /srv/log")?.ok()?;
    ensure!(
        log.stdout.contains("out") && log.stdout.contains("err"),
        "{}",
        log.stdout
    );
    Ok(())
}
