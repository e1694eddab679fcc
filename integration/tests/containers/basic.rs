//! What `ctr run` can ask of any runtime.

use anyhow::{Result, ensure};

use crate::bed::{ANY, Bed, Case, OURS};

pub(crate) const CASES: &[Case] = &[
    Case::new("run_true", ANY, run_true),
    Case::new("exit_codes", ANY, exit_codes),
    Case::new("exit_by_signal", ANY, exit_by_signal),
    Case::new("env_cwd_user", ANY, env_cwd_user),
    Case::new("missing_program", ANY, missing_program),
    Case::new("read_only_root", ANY, read_only_root),
    Case::new("layers", ANY, layers),
    Case::new("bind_mount", ANY, bind_mount),
    Case::new("host_name", ANY, host_name),
    Case::new("check_runs_a_container", OURS, check),
];

fn run_true(bed: &Bed<'_>) -> Result<()> {
    let output = bed.run(&[], &["/bin/true"])?.ok()?;
    ensure!(
        output.stdout.is_empty() && output.stderr.is_empty(),
        "true printed {output:?}"
    );
    Ok(())
}

fn exit_codes(bed: &Bed<'_>) -> Result<()> {
    for code in [1, 7, 126, 255] {
        bed.run(&[], &["/probe", "exit", &code.to_string()])?
            .exits(code)?;
    }
    Ok(())
}

fn exit_by_signal(bed: &Bed<'_>) -> Result<()> {
    // As a child: the kernel shields PID 1 from signals that it sends itself.
    bed.run(&[], &["/bin/sh", "-c", "sh -c 'kill -SEGV $$'; exit $?"])?
        .exits(128 + 11)?;
    Ok(())
}

fn env_cwd_user(bed: &Bed<'_>) -> Result<()> {
    let script = "echo $A; pwd; id -u; id -g; cat /home/user/file";
    let output = bed
        .run(
            &["--env", "A=b c", "--cwd", "/tmp", "--user", "1000:1000"],
            &["/bin/sh", "-ec", script],
        )?
        .ok()?;
    ensure!(
        output.stdout == "b c\n/tmp\n1000\n1000\nowned by 1000\n",
        "{output:?}"
    );
    Ok(())
}

fn missing_program(bed: &Bed<'_>) -> Result<()> {
    let output = bed.run(&[], &["/no/such/program"])?;
    ensure!(output.code != 0, "a program that is not there ran");
    ensure!(
        output.stderr.contains("/no/such/program")
            && output.stderr.to_lowercase().contains("no such file"),
        "the error does not say what is missing: {}",
        output.stderr
    );
    Ok(())
}

fn read_only_root(bed: &Bed<'_>) -> Result<()> {
    bed.run(&["--read-only"], &["/bin/sh", "-ec", "! touch /file 2>/dev/null; ! touch /tmp/file 2>/dev/null; ! mount -o remount,rw / 2>/dev/null || touch /dev/shm/x"])?.ok()?;
    Ok(())
}

pub(crate) fn layers(bed: &Bed<'_>) -> Result<()> {
    let output = bed
        .run(
            &[],
            &[
                "/bin/sh",
                "-ec",
                "find /layers -type f | sort; stat -c '%u:%g %a' /home/user /bin/busybox /tmp",
            ],
        )?
        .ok()?;
    ensure!(
        output.stdout == "/layers/kept\n/layers/replaced/new\n1000:1000 700\n0:0 755\n0:0 1777\n",
        "{}",
        output.stdout
    );
    Ok(())
}

pub(crate) fn bind_mount(bed: &Bed<'_>) -> Result<()> {
    bed.node
        .shell("mkdir -p /srv/volume && echo outside >/srv/volume/in && chmod 777 /srv/volume")?
        .ok()?;
    for (options, script) in [
        ("rbind:rw", "cat /volume/in; echo inside >/volume/out"),
        (
            "rbind:ro",
            "cat /volume/in; ! echo inside 2>/dev/null >/volume/refused",
        ),
    ] {
        let mount = format!("type=bind,src=/srv/volume,dst=/volume,options={options}");
        let output = bed
            .run(&["--mount", &mount], &["/bin/sh", "-ec", script])?
            .ok()?;
        ensure!(output.text() == "outside", "{options}: {output:?}");
    }
    let files = bed
        .node
        .shell("cd /srv/volume; ls; cat out; cd /; rm -r /srv/volume")?
        .ok()?;
    ensure!(files.stdout == "in\nout\ninside\n", "{}", files.stdout);
    Ok(())
}

fn host_name(bed: &Bed<'_>) -> Result<()> {
    let output = bed
        .run(&["--hostname", "inner"], &["/bin/hostname"])?
        .ok()?;
    ensure!(output.text() == "inner", "{output:?}");
    ensure!(
        bed.node.exec(&["hostname"])?.ok()?.text() == bed.node.name(),
        "the node's host name changed"
    );
    Ok(())
}

fn check(bed: &Bed<'_>) -> Result<()> {
    let check = |script: &str| bed.node.shell(script)?.ok();
    let whole = check("containerd-shim-sysbox-v2 check")?;
    ensure!(
        whole
            .stdout
            .contains("container              made, run and removed on /var/lib/containerd\n"),
        "{}",
        whole.stdout
    );
    // One engine's layers on a file system without ID mapping: that one cannot, the other can.
    let lacking = check(
        "mkdir /var/lib/docker; mount -t ramfs none /var/lib/docker; containerd-shim-sysbox-v2 check; code=$?
         ls -A /var/lib/docker /var/lib/containerd; umount /var/lib/docker; rmdir /var/lib/docker; exit $code",
    )?;
    ensure!(
        lacking
            .stdout
            .contains("degraded  container              on /var/lib/docker: ")
            && lacking
                .stdout
                .contains("needs a file system that can be ID-mapped")
            && !lacking.stdout.contains("\n.sysbox-check"),
        "{}",
        lacking.stdout
    );
    Ok(())
}
