//! Terminals whose locks the container holds: what the shim does with its ends of them hinders nobody.

use std::time::Duration;

use anyhow::{Context, Result};
use containerd_shim_protos::api::ResizePtyRequest;
use containerd_shim_protos::shim_async::TaskClient;
use integration::hostile::{Rescue, meet};
use integration::shim_api::soon;
use serde_json::Value;
use tokio::time::timeout;

use crate::bed::{Bed, Shim};

/// How long anything may take that hangs in nothing, on a busy machine, and a kill with all that it needs.
const BOUND: Duration = Duration::from_secs(20);
/// Where the FUSE is.
const FUSE: &str = "/dev/shm/f";

/// Runs a process with a terminal that says which, until `until`.
async fn with_terminal(shim: &Shim, client: &TaskClient, until: &str) -> Result<()> {
    let script = format!("tty >/dev/shm/tty; {until}");
    let mut request = shim.task.exec_request("t", &["/bin/sh", "-c", &script]);
    request.terminal = true;
    if let Some(spec) = request.spec.as_mut() {
        let mut process: Value = serde_json::from_slice(&spec.value)?;
        process["terminal"] = true.into();
        spec.value = process.to_string().into_bytes();
    }
    client.exec(soon(), &request).await?;
    shim.task.start(client, "t").await?;
    Ok(())
}

/// A container that has an exec with a terminal, on which the probe does `what` to hold it.
async fn held<'a>(
    bed: &'a Bed,
    what: &str,
    until: &str,
) -> Result<(Shim, TaskClient, [Rescue<'a>; 2])> {
    let shim = bed.shim("terminal", &["/probe", "pause"]).await?;
    let client = shim.client().await?;
    shim.run(&client).await?;
    let start = async |id, words: &[&str]| {
        let request = shim.task.exec_request(id, words);
        client.exec(soon(), &request).await?;
        shim.task.start(&client, id).await
    };
    let server = start("server", &["/probe", "fuse-silent", FUSE]).await?;
    let ready = meet(&bed.node, server, "ready")?;
    with_terminal(&shim, &client, until).await?;
    if until == "exit" {
        shim.task.wait(&client, "t").await?;
    }
    let script = format!(
        "until test -s /dev/shm/tty; do sleep 0.02; done; exec {FUSE}/program {what} $(cat /dev/shm/tty)"
    );
    start("holder", &["/bin/sh", "-c", &script]).await?;
    let held = meet(&bed.node, server, "held")?;
    Ok((shim, client, [ready, held]))
}

/// Nobody else is hindered, a kill ends it, and all that is left ends with it.
async fn ends(bed: &Bed, shim: &Shim, client: &TaskClient) -> Result<()> {
    let other = shim.task.execute(client, "other", &["/bin/true"]);
    timeout(BOUND, other).await.context("an exec hangs")??;
    timeout(BOUND, shim.end(client))
        .await
        .context("the container does not end")??;
    bed.settled()
}

#[tokio::test]
async fn the_size_of_one_whose_lock_is_held() -> Result<()> {
    let Some(bed) = Bed::new().await? else {
        return Ok(());
    };
    let (shim, client, _rescue) = held(&bed, "tty-size", "sleep 1000").await?;
    let request = ResizePtyRequest {
        id: shim.task.id.clone(),
        exec_id: "t".into(),
        width: 80,
        height: 20,
        ..ResizePtyRequest::default()
    };
    timeout(BOUND, client.resize_pty(soon(), &request))
        .await
        .context("nobody is told")?
        .err()
        .context("it is not held")?;
    ends(&bed, &shim, &client).await
}

#[tokio::test]
async fn the_end_of_one_that_is_being_written() -> Result<()> {
    let Some(bed) = Bed::new().await? else {
        return Ok(());
    };
    let (shim, client, _rescue) = held(&bed, "tty-write", "exit").await?;
    // The shim closes its end.
    timeout(BOUND, shim.task.delete(&client, "t"))
        .await
        .context("the exec's end hangs")??;
    ends(&bed, &shim, &client).await
}
