//! Further processes in a running container.

use anyhow::{Result, ensure};
use integration::image::Image;
use integration::node::DEADLINE;
use integration::process;
use integration::terminal::{SIZE, Session};

use crate::bed::{ANY, Bed, Case, LINGER, OURS};

pub(crate) const CASES: &[Case] = &[
    Case::new("exec_exit_codes", ANY, exit_codes),
    Case::new("exec_streams", ANY, streams),
    Case::new("exec_short_input", ANY, short_input),
    Case::new("exec_user_and_cwd", ANY, user_and_cwd),
    Case::new("exec_terminal", ANY, terminal),
    Case::new("exec_missing_program", ANY, missing_program),
    Case::new("exec_shares_namespaces", ANY, shares_namespaces),
    Case::new("exec_many_at_once", ANY, many_at_once),
    Case::new("exec_repeats_no_warning", OURS, repeats_no_warning),
];

fn exit_codes(bed: &Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    for code in [0, 1, 42, 255] {
        container
            .exec(&["/probe", "exit", &code.to_string()])?
            .exits(code)?;
    }
    container
        .exec(&["/bin/sh", "-c", "kill -KILL $$"])?
        .exits(137)?;
    container.remove()
}

fn streams(bed: &Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    let input = vec![b'x'; 1 << 20];
    let output = process::run(
        &mut container.exec_command(
            &[],
            &["/bin/sh", "-c", &format!("cat; echo err >&2; {LINGER}")],
        ),
        &input,
        DEADLINE,
    )?
    .ok()?;
    ensure!(
        output.stdout.len() == input.len() && output.stderr == "err\n",
        "{} bytes, {:?}",
        output.stdout.len(),
        output.stderr
    );
    container.remove()
}

/// The client is at the end of its input before the start is done, and says so at once.
fn short_input(bed: &Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    for _ in 0..5 {
        let mut command = container.exec_command(&[], &["/bin/sh", "-s"]);
        let script = format!("echo read; {LINGER}");
        let output = process::run(&mut command, script.as_bytes(), DEADLINE)?.ok()?;
        ensure!(output.text() == "read", "{output:?}");
    }
    container.remove()
}

fn user_and_cwd(bed: &Bed<'_>) -> Result<()> {
    let container = bed.detached(
        &["--env", "A=container"],
        Image::Busybox,
        &["/probe", "sleep"],
    )?;
    let mut command = container.exec_command(
        &["--cwd", "/tmp", "--user", "1000:1000"],
        &[
            "/bin/sh",
            "-c",
            &format!("id -u; id -g; pwd; echo $A; {LINGER}"),
        ],
    );
    let output = process::run(&mut command, b"", DEADLINE)?.ok()?;
    ensure!(
        output.stdout == "1000\n1000\n/tmp\ncontainer\n",
        "{output:?}"
    );
    container.remove()
}

pub(crate) fn terminal(bed: &Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    let script = format!("{SIZE}; test -t 1 && echo terminal; exit 4");
    let line = container.tty_words(&["/bin/sh", "-c", &script]);
    let (code, shown) = Session::start(&mut bed.node.command(&line), 90, 20)?.finish()?;
    let seen: Vec<_> = shown.split_whitespace().collect();
    ensure!(
        code == 4 && seen == ["20", "90", "terminal"],
        "exit code {code}, {shown:?}"
    );
    container.remove()
}

fn missing_program(bed: &Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    let output = container.exec(&["/no/such/program"])?;
    ensure!(
        output.code != 0 && output.stderr.contains("/no/such/program"),
        "{output:?}"
    );
    container.exec(&["/bin/true"])?.ok()?;
    container.remove()
}

fn shares_namespaces(bed: &Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    let own = container
        .shell("for n in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$n; done")?;
    let init = container
        .shell("for n in cgroup ipc mnt net pid user uts; do readlink /proc/1/ns/$n; done")?;
    ensure!(own == init, "exec is elsewhere:\n{own}\n{init}");
    container.remove()
}

fn many_at_once(bed: &Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    std::thread::scope(|scope| {
        let execs: Vec<_> = (1..=8)
            .map(|code: i32| {
                let mut command =
                    container.exec_command(&[], &["/probe", "exit", &code.to_string()]);
                let thread = std::thread::Builder::new().name(format!("exec-{code}"));
                thread.spawn_scoped(scope, move || {
                    process::run(&mut command, b"", DEADLINE)?.exits(code)
                })
            })
            .collect();
        for exec in execs {
            exec?
                .join()
                .map_err(|_| anyhow::anyhow!("a client panicked"))??;
        }
        anyhow::Ok(())
    })?;
    container.remove()
}

/// What is said of a container when it is made is not said again of each process in it.
fn repeats_no_warning(bed: &Bed<'_>) -> Result<()> {
    let said = || -> Result<usize> {
        let log = std::fs::read_to_string(bed.node.containerd_log())?;
        let lines = log.lines().filter(|line| line.contains("level=warning"));
        Ok(lines
            .filter(|line| line.contains("field=process.apparmorProfile"))
            .count())
    };
    let before = said()?;
    let container = bed.detached(
        &["--apparmor-profile", "docker-default"],
        Image::Busybox,
        &["/probe", "sleep"],
    )?;
    for _ in 0..3 {
        container.exec(&["/probe", "exit", "0"])?.ok()?;
    }
    // The log is a pipe of the shim's, which containerd has read to its end when the shim is gone.
    container.remove()?;
    let times = said()? - before;
    ensure!(times == 1, "{times} times");
    Ok(())
}
