//! A process of the runtime that is in the container's namespaces already, seen by one that waits for it there
//! (CVE-2016-9962): it must not be traced, nor its descriptors, root and memory be had.

use anyhow::{Context, Result, ensure};
use integration::bed::{cri, ctr};
use integration::image::Image;
use integration::node::DEADLINE;
use integration::process;
use serde_json::{Value, json};

use crate::case::Case;

pub(crate) const CASES: &[Case] = &[
    Case::ctr("of_exec", exec)
        .ours("runc has more than one descriptor open in the midst of execve(2), as six runs of six saw; by luck, so it is not asserted"),
    Case::pod("of_another_container_of_the_pod", pod)
        .ours("as of_exec"),
];

/// What the watcher said: it met the runtime, and got nothing.
fn nothing(said: &str) -> Result<()> {
    let said: Value = serde_json::from_str(said).with_context(|| format!("no JSON: {said}"))?;
    ensure!(
        said["seen"].as_u64().is_some_and(|seen| seen > 0),
        "it met no stage: {said}"
    );
    ensure!(said["got"] == json!([]), "{said}");
    Ok(())
}

fn exec(bed: &ctr::Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    let words = ["/bin/sh", "-c", "/probe watch 4; sleep 0.1"];
    let mut watcher = container.exec_command(&[], &words);
    let said = std::thread::scope(|scope| {
        let watching = std::thread::Builder::new()
            .name("watcher".to_owned())
            .spawn_scoped(scope, || process::run(&mut watcher, b"", DEADLINE))?;
        while !watching.is_finished() {
            container.exec(&["/bin/true"])?.ok()?;
        }
        let said = watching.join();
        said.map_err(|_| anyhow::anyhow!("the watcher panicked"))?
    })?;
    nothing(said.ok()?.text())?;
    container.remove()
}

fn pod(bed: &cri::Bed<'_>) -> Result<()> {
    let shared = json!({"linux": {"security_context": {"namespace_options": {"pid": 0}}}});
    let pod = bed.pod(shared.clone())?;
    let mut config = shared;
    config["command"] = json!(["/probe", "sleep"]);
    let first = pod.run(config.clone())?;
    let mut watcher = first.exec(&[], &["/bin/sh", "-c", "/probe watch 5; sleep 0.1"]);
    let said = std::thread::scope(|scope| {
        let watching = std::thread::Builder::new()
            .name("watcher".to_owned())
            .spawn_scoped(scope, || process::run(&mut watcher, b"", DEADLINE))?;
        while !watching.is_finished() {
            pod.run(config.clone())?.remove()?;
        }
        let said = watching.join();
        said.map_err(|_| anyhow::anyhow!("the watcher panicked"))?
    })?;
    nothing(said.ok()?.text())?;
    pod.remove()
}
