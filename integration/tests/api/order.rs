//! What a verb answers in which state, and in which order its events come.

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::api::{PauseRequest, PidsRequest, ResumeRequest, StateRequest, Status};
use containerd_shim_protos::shim_async::TaskClient;
use ttrpc::{Code, context};

use integration::shim_api::{soon, words};

use crate::bed::{Bed, Shim};

fn code<T>(result: ttrpc::Result<T>) -> Code {
    match result {
        Ok(_) => Code::OK,
        Err(ttrpc::Error::RpcStatus(status)) => status.code(),
        Err(_) => Code::DATA_LOSS,
    }
}

fn refusal<T>(result: ttrpc::Result<T>) -> Result<String> {
    let error = result.err().context("it was not refused")?;
    Ok(error.to_string())
}

async fn status(shim: &Shim, client: &TaskClient, exec: &str) -> Result<Status> {
    let request = StateRequest {
        id: shim.task.id.clone(),
        exec_id: exec.into(),
        ..StateRequest::default()
    };
    let state = client.state(soon(), &request).await?;
    Ok(state.status.enum_value_or_default())
}

#[tokio::test]
async fn a_life() -> Result<()> {
    let Some(bed) = Bed::new().await? else {
        return Ok(());
    };
    let shim = bed.shim("life", &["/bin/sleep", "100000"]).await?;
    let client = shim.client().await?;
    client.create(soon(), &shim.task.create_request()).await?;
    ensure!(code(client.create(soon(), &shim.task.create_request()).await) == Code::ALREADY_EXISTS);
    ensure!(status(&shim, &client, "").await? == Status::CREATED);
    shim.task.start(&client, "").await?;
    ensure!(status(&shim, &client, "").await? == Status::RUNNING);
    ensure!(code(shim.task.start(&client, "").await) == Code::UNKNOWN);
    ensure!(code(shim.task.delete(&client, "").await) == Code::UNKNOWN);

    let exec = |id: &str| shim.task.exec_request(id, &["/bin/sleep", "100000"]);
    client.exec(soon(), &exec("e")).await?;
    ensure!(code(client.exec(soon(), &exec("e")).await) == Code::ALREADY_EXISTS);
    ensure!(code(shim.task.kill(&client, "e", 9).await) == Code::FAILED_PRECONDITION);
    ensure!(status(&shim, &client, "e").await? == Status::CREATED);
    let pid = shim.task.start(&client, "e").await?;
    ensure!(code(shim.task.delete(&client, "e").await) == Code::UNKNOWN);
    let pids = PidsRequest {
        id: shim.task.id.clone(),
        ..PidsRequest::default()
    };
    let processes = client.pids(soon(), &pids).await?.processes;
    ensure!(processes.len() == 2, "{processes:?}");
    let named = |p: &&containerd_shim_protos::api::ProcessInfo| p.info.is_some();
    ensure!(processes.iter().filter(named).map(|p| p.pid).eq([pid]));

    let pause = PauseRequest {
        id: shim.task.id.clone(),
        ..PauseRequest::default()
    };
    let resume = ResumeRequest {
        id: shim.task.id.clone(),
        ..ResumeRequest::default()
    };
    ensure!(code(client.resume(soon(), &resume).await) == Code::UNKNOWN);
    client.pause(soon(), &pause).await?;
    ensure!(code(client.pause(soon(), &pause).await) == Code::UNKNOWN);
    ensure!(status(&shim, &client, "").await? == Status::PAUSED);
    ensure!(status(&shim, &client, "e").await? == Status::PAUSED);
    ensure!(code(client.exec(soon(), &exec("f")).await) == Code::UNKNOWN);
    client.resume(soon(), &resume).await?;

    // A realtime signal is a signal, too: systemd's own.
    shim.task.kill(&client, "e", 37).await?;
    ensure!(shim.task.wait(&client, "e").await? == 128 + 37);
    ensure!(status(&shim, &client, "e").await? == Status::STOPPED);
    ensure!(code(shim.task.kill(&client, "e", 9).await) == Code::NOT_FOUND);
    shim.task.delete(&client, "e").await?;
    ensure!(code(shim.task.wait(&client, "e").await) == Code::NOT_FOUND);

    client.exec(soon(), &exec("last")).await?;
    shim.task.start(&client, "last").await?;
    shim.task.kill(&client, "", 9).await?;
    ensure!(shim.task.wait(&client, "").await? == 137);
    ensure!(code(shim.task.kill(&client, "", 9).await) == Code::NOT_FOUND);
    ensure!(code(shim.task.start(&client, "last").await) == Code::UNKNOWN);
    let processes = client.pids(soon(), &pids).await?.processes;
    ensure!(
        processes.len() == 1,
        "a stopped task shows its init: {processes:?}"
    );
    shim.task.delete(&client, "").await?;
    ensure!(code(shim.task.delete(&client, "").await) == Code::NOT_FOUND);
    shim.shutdown(&client).await?;
    let told = bed.events.until("life", "delete").await?;
    let expected = [
        "create",
        "start",
        "exec-added e",
        "exec-started e",
        "paused",
        "resumed",
        "exit e",
        "exec-added last",
        "exec-started last",
        "exit last",
        "exit",
        "delete",
    ];
    ensure!(words(&told) == expected, "{told:?}");
    bed.settled()
}

#[tokio::test]
async fn a_start_that_fails() -> Result<()> {
    let Some(bed) = Bed::new().await? else {
        return Ok(());
    };
    let shim = bed.shim("run", &["/bin/sleep", "100000"]).await?;
    let client = shim.client().await?;
    shim.run(&client).await?;
    client
        .exec(soon(), &shim.task.exec_request("e", &["/bin/nosuch"]))
        .await?;
    let waiting = tokio::spawn({
        let (shim, client) = (shim.clone(), shim.client().await?);
        async move { shim.task.wait(&client, "e").await }
    });
    let error = refusal(shim.task.start(&client, "e").await)?;
    ensure!(
        error.to_lowercase().contains("no such file or directory"),
        "{error}"
    );
    ensure!(waiting.await?? == 255);
    ensure!(status(&shim, &client, "e").await? == Status::CREATED);
    shim.task.delete(&client, "e").await?;
    shim.end(&client).await?;

    let shim = bed.shim("bad", &["/bin/nosuch"]).await?;
    let client = shim.client().await?;
    let failed = match client.create(soon(), &shim.task.create_request()).await {
        Ok(_) => shim.task.start(&client, "").await.map(drop),
        Err(error) => Err(error),
    };
    let error = refusal(failed)?;
    ensure!(
        error.to_lowercase().contains("no such file or directory"),
        "{error}"
    );
    // Whichever of the two failed, this is how containerd goes on.
    let deleted = code(shim.task.delete(&client, "").await);
    ensure!(matches!(deleted, Code::OK | Code::NOT_FOUND), "{deleted:?}");
    shim.shutdown(&client).await?;
    bed.settled()
}

#[tokio::test]
async fn a_created_container_is_deleted() -> Result<()> {
    let Some(bed) = Bed::new().await? else {
        return Ok(());
    };
    let shim = bed.shim("made", &["/bin/true"]).await?;
    let client = shim.client().await?;
    client.create(soon(), &shim.task.create_request()).await?;
    ensure!(shim.task.delete(&client, "").await?.exit_status == 137);
    shim.shutdown(&client).await?;
    let told = bed.events.until("made", "delete").await?;
    ensure!(words(&told) == ["create", "exit", "delete"], "{told:?}");
    bed.settled()
}

#[tokio::test]
async fn a_client_that_gives_up_changes_nothing() -> Result<()> {
    let Some(bed) = Bed::new().await? else {
        return Ok(());
    };
    let shim = bed.shim("left", &["/bin/sleep", "100000"]).await?;
    let hurried = || context::with_timeout(1_000_000);
    let client = shim.client().await?;
    let created = client.create(hurried(), &shim.task.create_request()).await;
    ensure!(created.is_err(), "one millisecond is not enough");
    drop(client);
    bed.events.until("left", "create").await?;
    let client = shim.client().await?;
    let start = containerd_shim_protos::api::StartRequest {
        id: "left".into(),
        ..Default::default()
    };
    let _ = client.start(hurried(), &start).await;
    drop(client);
    bed.events.until("left", "start").await?;
    let client = shim.client().await?;
    ensure!(status(&shim, &client, "").await? == Status::RUNNING);
    shim.end(&client).await?;

    // What containerd does after a create that took too long.
    let shim = bed.shim("gone", &["/bin/sleep", "100000"]).await?;
    let client = shim.client().await?;
    let _ = client.create(hurried(), &shim.task.create_request()).await;
    drop(client);
    let client = shim.client().await?;
    let deleted = code(shim.task.delete(&client, "").await);
    ensure!(matches!(deleted, Code::OK | Code::NOT_FOUND), "{deleted:?}");
    shim.shutdown(&client).await?;
    bed.settled()
}

#[tokio::test]
async fn a_pod_outlives_its_first_container_and_dies_with_its_shim() -> Result<()> {
    let Some(bed) = Bed::new().await? else {
        return Ok(());
    };
    let group = [("io.kubernetes.cri.sandbox-id", "pod")];
    let mut members = Vec::new();
    for id in ["pod", "a", "b"] {
        let bundle = bed.bundle(id, &["/bin/sleep", "100000"], &group)?;
        let member = bed.start(id, &bundle).await?;
        member.run(&member.client().await?).await?;
        members.push(member);
    }
    ensure!(members[0].socket == members[2].socket, "one shim");
    let client = members[1].client().await?;
    members[1].task.end(&client).await?;
    std::fs::remove_dir_all(bed.node.path("/run/api/a"))?;
    let shutdown = containerd_shim_protos::api::ShutdownRequest::new();
    client.shutdown(soon(), &shutdown).await?;
    ensure!(
        status(&members[2], &client, "").await? == Status::RUNNING,
        "the shim stays"
    );

    let pid = members[0].pid().await?.to_string();
    bed.node.exec(&["/bin/kill", "-9", &pid])?.ok()?;
    // containerd deletes the first member only: it holds no connection for the others.
    bed.node.shell(
        "cd /run/api/pod; containerd-shim-sysbox-v2 -namespace api -address /run/none -id pod -bundle $PWD delete >/dev/null",
    )?.ok()?;
    bed.settled()
}

/// A client that dies takes its fifo along, at any moment. What was executed for it must not live on: a process that nobody
/// collects keeps the end of the pid namespace waiting, and with it the container's.
#[tokio::test]
async fn an_exec_whose_input_is_gone_leaves_nothing() -> Result<()> {
    let Some(bed) = Bed::new().await? else {
        return Ok(());
    };
    let shim = bed.shim("input", &["/bin/sleep", "100000"]).await?;
    let client = shim.client().await?;
    shim.run(&client).await?;
    let mut exec = shim.task.exec_request("e", &["/bin/sleep", "100000"]);
    // It is there when the streams are opened, and cannot be read when the process runs.
    exec.stdin = crate::bed::EVENTS.into();
    client.exec(soon(), &exec).await?;
    let refused = refusal(shim.task.start(&client, "e").await)?;
    ensure!(refused.contains("open stdin"), "{refused}");
    shim.task.delete(&client, "e").await?;
    shim.end(&client).await?;
    bed.settled()
}
