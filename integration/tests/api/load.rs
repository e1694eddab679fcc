//! Many at once: nothing is lost, nothing comes twice, nothing comes in the wrong order.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result, ensure};
use tokio::task::{JoinSet, spawn_blocking};

use integration::shim_api::{soon, words};

use crate::bed::{Bed, Shim};

const CLIENTS: usize = 8;
const EXECS: usize = 10_000;

#[tokio::test]
async fn ten_thousand_execs_over_eight_clients() -> Result<()> {
    let Some(bed) = Bed::new().await? else {
        return Ok(());
    };
    let shim = bed.shim("execs", &["/bin/sleep", "100000"]).await?;
    let client = shim.client().await?;
    shim.run(&client).await?;
    let mut clients = JoinSet::new();
    for n in 0..CLIENTS {
        let shim = shim.clone();
        clients.spawn(async move {
            let client = shim.client().await?;
            for n in (n..EXECS).step_by(CLIENTS) {
                let (id, code) = (format!("e{n}"), n % 251);
                let script = format!("exit {code}");
                let request = shim.task.exec_request(&id, &["/bin/sh", "-c", &script]);
                client.exec(soon(), &request).await.context(n)?;
                let pid = shim.task.start(&client, &id).await.context(n)?;
                let status = shim.task.wait(&client, &id).await.context(n)?;
                let deleted = shim.task.delete(&client, &id).await.context(n)?;
                ensure!(
                    status as usize == code && deleted.exit_status == status,
                    "{n}: {status}"
                );
                ensure!(deleted.pid == pid, "{n}");
            }
            Ok(())
        });
    }
    while let Some(done) = clients.join_next().await {
        done??;
    }
    shim.end(&client).await?;

    let told = bed.events.until("execs", "delete").await?;
    ensure!(told.len() == 3 * EXECS + 4, "{} events", told.len());
    ensure!(words(&told)[..2] == ["create", "start"]);
    ensure!(words(&told)[told.len() - 2..] == ["exit", "delete"]);
    let mut by_exec: HashMap<&str, Vec<_>> = HashMap::new();
    for told in &told[2..told.len() - 2] {
        let (what, id) = told.what.split_once(' ').context("an event of no exec")?;
        by_exec
            .entry(id)
            .or_default()
            .push((what, told.pid, told.status));
    }
    for n in 0..EXECS {
        let events = &by_exec[format!("e{n}").as_str()];
        let pid = events[1].1;
        let expected = [
            ("exec-added", 0, 0),
            ("exec-started", pid, 0),
            ("exit", pid, (n % 251) as u32),
        ];
        ensure!(events[..] == expected, "{n}: {events:?}");
    }
    bed.settled()
}

#[tokio::test]
async fn fifty_containers_at_once() -> Result<()> {
    let Some(bed) = Bed::new().await? else {
        return Ok(());
    };
    let mut shims = Vec::new();
    for n in 0..50 {
        shims.push(
            bed.shim(&format!("c{n}"), &["/bin/sh", "-c", &format!("exit {n}")])
                .await?,
        );
    }
    let mut running = JoinSet::new();
    for (n, shim) in shims.into_iter().enumerate() {
        running.spawn(async move {
            let client = shim.client().await?;
            client.create(soon(), &shim.task.create_request()).await?;
            shim.task.start(&client, "").await?;
            ensure!(shim.task.wait(&client, "").await? as usize == n);
            ensure!(shim.task.delete(&client, "").await?.exit_status as usize == n);
            shim.shutdown(&client).await
        });
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    for n in 0..50 {
        let told = bed.events.until(&format!("c{n}"), "delete").await?;
        ensure!(
            words(&told) == ["create", "start", "exit", "delete"],
            "{n}: {told:?}"
        );
        ensure!(told[2].status as usize == n);
    }
    bed.settled()
}

/// The most memory that the shim has used, in KiB (proc_pid_status(5), VmHWM).
fn peak(bed: &Bed, pid: u32) -> Result<u64> {
    let status = fs::read_to_string(bed.node.path(format!("/proc/{pid}/status")))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let text = line.context("no VmHWM")?.trim().trim_end_matches(" kB");
    Ok(text.parse()?)
}

#[tokio::test]
async fn a_hundred_megabytes_each_way_in_little_memory() -> Result<()> {
    const BYTES: usize = 100 << 20;
    let Some(bed) = Bed::new().await? else {
        return Ok(());
    };
    let shim = bed.shim("bulk", &["/bin/cat"]).await?;
    bed.node.shell("cd /run/api/bulk; mkfifo in out")?.ok()?;
    let fifo = |name: &str| bed.node.path(format!("/run/api/bulk/{name}"));
    let client = shim.client().await?;
    let reader = OpenOptions::new()
        .read(true)
        .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
        .open(fifo("out"))?;
    let mut request = shim.task.create_request();
    request.stdin = "/run/api/bulk/in".into();
    request.stdout = "/run/api/bulk/out".into();
    client.create(soon(), &request).await?;
    let writer = OpenOptions::new().write(true).open(fifo("in"))?;
    shim.task.start(&client, "").await?;
    let pid = shim.pid().await?;
    let before = peak(&bed, pid)?;

    let writing = spawn_blocking(move || write_pattern(writer, BYTES));
    let reading = spawn_blocking(move || check_pattern(reader));
    writing.await??;
    client.close_io(soon(), &close_stdin(&shim)).await?;
    ensure!(reading.await?? == BYTES);
    ensure!(
        shim.task.wait(&client, "").await? == 0,
        "cat saw the end of its input"
    );
    let grown = peak(&bed, pid)?.saturating_sub(before);
    ensure!(grown < 512, "the shim has grown by {grown} KiB");
    shim.task.delete(&client, "").await?;
    shim.shutdown(&client).await?;
    bed.settled()
}

fn close_stdin(shim: &Shim) -> containerd_shim_protos::api::CloseIORequest {
    containerd_shim_protos::api::CloseIORequest {
        id: shim.task.id.clone(),
        stdin: true,
        ..containerd_shim_protos::api::CloseIORequest::default()
    }
}

/// Byte n of the pattern; 251 is prime to every buffer's size.
fn pattern(n: usize) -> u8 {
    (n % 251) as u8
}

fn write_pattern(mut file: File, bytes: usize) -> Result<()> {
    let mut written = 0;
    while written < bytes {
        let chunk: Vec<u8> = (written..bytes.min(written + 65_536))
            .map(pattern)
            .collect();
        file.write_all(&chunk)?;
        written += chunk.len();
    }
    Ok(())
}

fn check_pattern(file: File) -> Result<usize> {
    // It was opened without waiting; reading waits.
    nix::fcntl::fcntl(
        &file,
        nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty()),
    )?;
    let (mut file, mut seen, mut chunk) = (file, 0, vec![0; 65_536]);
    loop {
        let n = file.read(&mut chunk)?;
        if n == 0 {
            return Ok(seen);
        }
        let right = chunk[..n]
            .iter()
            .enumerate()
            .all(|(i, byte)| *byte == pattern(seen + i));
        ensure!(right, "wrong bytes after {seen}");
        seen += n;
    }
}
