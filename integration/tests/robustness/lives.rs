//! Lives that get into each other's way.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::api::{CloseIORequest, PauseRequest, StateRequest};
use integration::debian::Release;
use integration::image::Image;
use integration::node::Node;
use integration::shim_api::{Bundle, Shim, soon};
use nix::sys::stat::Mode;
use serde_json::json;

use crate::watch::Watch;

/// A node with one container that sleeps, after a first cycle; `body` must leave all as it was.
fn with_sleeper(body: impl FnOnce(&Node, &Shim, &Bundle) -> Result<()>) -> Result<()> {
    let node = Node::start(Release::Sid)?;
    node.import(Image::Busybox)?;
    let bundle = Bundle::new(&node, "c1", &["/probe", "sleep"], |_| {})?;
    let shim = Shim::start(&node, &bundle)?;
    shim.run(async {
        bundle.run(&shim.client).await?;
        bundle
            .task
            .execute(&shim.client, "first", &["/probe", "exit", "0"])
            .await?;
        bundle.task.end(&shim.client).await
    })
    .context("first cycle")?;
    let watch = Watch::new(&node, shim.pid()?);
    shim.run(bundle.run(&shim.client))
        .context("create and start")?;
    body(&node, &shim, &bundle).map_err(|error| {
        let log = node.log_tail();
        error.context(format!("containerd's log:\n{log}"))
    })?;
    shim.run(bundle.task.end(&shim.client)).context("delete")?;
    watch.settled(true)?;
    shim.shutdown(&node)
}

/// A process with input and output but without a third stream: each number has what it should.
pub(crate) fn streams() -> Result<()> {
    with_sleeper(|node, shim, bundle| {
        let (stdin, stdout) = (fifo(node, bundle, "stdin")?, fifo(node, bundle, "stdout")?);
        let mut request = bundle.task.exec_request("e", &["/probe", "count"]);
        request.stdin = bundle.path("stdin").display().to_string();
        request.stdout = bundle.path("stdout").display().to_string();
        let reader = std::thread::Builder::new().spawn(move || fs::read_to_string(stdout))?;
        let deleted = shim.run(async {
            shim.client.exec(soon(), &request).await?;
            bundle.task.start(&shim.client, "e").await?;
            // Nobody reads it where the process has no input of ours: then this hangs no test.
            let written = tokio::task::spawn_blocking(move || fs::write(stdin, "twelve bytes"));
            tokio::time::timeout(Duration::from_secs(10), written)
                .await
                .context("nobody reads the input")???;
            let close = CloseIORequest {
                id: bundle.task.id.clone(),
                exec_id: "e".into(),
                stdin: true,
                ..Default::default()
            };
            shim.client.close_io(soon(), &close).await?;
            bundle.task.wait(&shim.client, "e").await?;
            anyhow::Ok(bundle.task.delete(&shim.client, "e").await?)
        })?;
        let counted = reader
            .join()
            .map_err(|_| anyhow::anyhow!("the reader panicked"))??;
        ensure!(
            (deleted.exit_status, counted.trim()) == (0, "12"),
            "it counted {counted:?}, exit {}",
            deleted.exit_status
        );
        for name in ["stdin", "stdout"] {
            fs::remove_file(node.path(bundle.path(name)))?;
        }
        Ok(())
    })
}

/// A frozen container is killed, and with init its exec'd processes: their exits are told before init's.
pub(crate) fn frozen() -> Result<()> {
    with_sleeper(|_, shim, bundle| {
        let client = &shim.client;
        shim.run(until(|| shim.events.count() >= 9))?;
        drop(shim.events.take());
        let deleted = shim.run(async {
            for exec in ["a", "b"] {
                client
                    .exec(
                        soon(),
                        &bundle.task.exec_request(exec, &["/probe", "sleep"]),
                    )
                    .await?;
                bundle.task.start(client, exec).await?;
            }
            let pause = PauseRequest {
                id: bundle.task.id.clone(),
                ..Default::default()
            };
            client.pause(soon(), &pause).await?;
            bundle.task.stop(client).await?;
            for exec in ["a", "b"] {
                bundle.task.delete(client, exec).await?;
            }
            let deleted = bundle.task.delete(client, "").await?;
            bundle.run(client).await?;
            Ok::<_, ttrpc::Error>(deleted)
        })?;
        ensure!(deleted.exit_status == 137, "exit {}", deleted.exit_status);
        // Two of each exec, the pause, three exits, the delete, and create and start of the next.
        shim.run(until(|| shim.events.count() >= 11))?;
        let exits: Vec<_> = shim
            .events
            .take()
            .into_iter()
            .filter(|told| told.what.starts_with("exit"))
            .collect();
        ensure!(
            exits.len() == 3
                && exits.iter().all(|told| told.status == 137)
                && exits.last().is_some_and(|told| told.what == "exit"),
            "{exits:?}"
        );
        Ok(())
    })
}

pub(crate) fn containers() -> Result<()> {
    const MANY: usize = 50;
    with_sleeper(|node, shim, _| {
        let bundles = (0..MANY)
            .map(|n| Bundle::new(node, &format!("m{n}"), &["/probe", "exit", "3"], |_| {}))
            .collect::<Result<Vec<_>>>()?;
        drop(shim.events.take());
        let begin = Instant::now();
        let all: Vec<_> = bundles
            .iter()
            .map(|bundle| {
                let (client, bundle) = (shim.client.clone(), bundle.clone());
                shim.spawn(async move {
                    bundle.run(&client).await?;
                    bundle.task.wait(&client, "").await?;
                    let deleted = bundle.task.delete(&client, "").await?;
                    Ok::<_, ttrpc::Error>(deleted.exit_status)
                })
            })
            .collect();
        for (bundle, one) in bundles.iter().zip(all) {
            let status = shim.run(one)?.with_context(|| bundle.task.id.clone())?;
            ensure!(status == 3, "{} exited with {status}", bundle.task.id);
        }
        println!(
            "{MANY} containers in {:.1} s",
            begin.elapsed().as_secs_f64()
        );
        shim.run(until(|| shim.events.count() >= MANY * 4))
            .context("events are missing")?;
        let events = shim.events.take();
        for bundle in &bundles {
            let of_it = events
                .iter()
                .filter(|told| told.container == bundle.task.id);
            let (seen, statuses): (Vec<_>, Vec<_>) =
                of_it.map(|told| (told.what.as_str(), told.status)).unzip();
            ensure!(
                seen == ["create", "start", "exit", "delete"] && statuses == [0, 0, 3, 3],
                "events of {}: {seen:?} {statuses:?}",
                bundle.task.id
            );
            bundle.remove(node)?;
        }
        fs::remove_file(node.path("/srv/c1/bundle/members")).context("the list of members")
    })
}

/// A create that hangs in a hook: others are made, asked and killed meanwhile, and it is deleted when it has ended.
pub(crate) fn hung_create() -> Result<()> {
    with_sleeper(|node, shim, sleeper| {
        let bundle = Bundle::new(node, "hung", &["/probe", "sleep"], |spec| {
            spec["hooks"] = json!({"createRuntime": [{
                "path": "/bin/sh",
                "args": ["sh", "-c", "touch /srv/hung/begun; while ! test -e /srv/hung/go; do sleep 0.05; done"],
            }]});
        })?;
        let creating = {
            let (client, request) = (shim.client.clone(), bundle.create_request());
            shim.spawn(async move { client.create(soon(), &request).await })
        };
        shim.run(until(|| node.path("/srv/hung/begun").exists()))?;
        let begin = Instant::now();
        let state = StateRequest {
            id: sleeper.task.id.clone(),
            ..Default::default()
        };
        shim.run(shim.client.state(soon(), &state))
            .context("State")?;
        let code = shim.run(
            sleeper
                .task
                .execute(&shim.client, "x", &["/probe", "exit", "4"]),
        )?;
        ensure!(code == 4, "exec exited with {code}");
        shim.run(async {
            sleeper.task.end(&shim.client).await?;
            sleeper.run(&shim.client).await
        })
        .context("another container beside one being created")?;
        ensure!(
            begin.elapsed() < Duration::from_secs(5),
            "it took {:?}",
            begin.elapsed()
        );
        ensure!(!creating.is_finished(), "the create did not hang");
        fs::write(node.path("/srv/hung/go"), "")?;
        shim.run(creating)?.context("create")?;
        // Never started: delete kills it.
        shim.run(bundle.task.delete(&shim.client, ""))
            .context("delete of a created container")?;
        bundle.remove(node)?;
        fs::remove_file(node.path("/srv/c1/bundle/members")).context("the list of members")
    })
}

async fn until(done: impl Fn() -> bool) -> Result<()> {
    let begin = Instant::now();
    while !done() {
        ensure!(begin.elapsed() < Duration::from_secs(30), "not within 30 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// A fifo in the container's directory, by its path outside.
fn fifo(node: &Node, bundle: &Bundle, name: &str) -> Result<PathBuf> {
    let path = node.path(bundle.path(name));
    nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600)).context("mkfifo")?;
    Ok(path)
}
