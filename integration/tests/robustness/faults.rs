//! A fault at every named step of create, start, exec and delete.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use integration::debian::Release;
use integration::dockerd::{self, Store};
use integration::image::Image;
use integration::leak::{self, Snapshot};
use integration::node::Node;
use integration::process;
use integration::shim_api::{Bundle, Shim, soon};
use runtime_core::Step;

use crate::watch::Watch;

const STATE_DIR: &str = "/run/containerd-shim-sysbox";
/// The file that names the step to fail at.
pub(crate) const FAIL_AT: &str = "/run/containerd-shim-sysbox/fail-at";

/// Steps at which create fails.
const CREATE: &[Step] = &[
    Step::Plan,
    Step::Record,
    Step::Range,
    Step::Cgroup,
    Step::TakeRootfs,
    Step::Spawn,
    Step::MountNs,
    Step::Userns,
    Step::Namespaces,
    Step::Init,
    Step::Network,
    Step::Limits,
    Step::Rootfs,
    Step::DataRoots,
    Step::EnterNs,
    Step::Proc,
    Step::Dev,
    Step::Mounts,
    Step::NetworkMoved,
    Step::Sysctl,
    Step::Masks,
    Step::NetworkPlace,
    Step::View,
    Step::Hooks,
    Step::Pivot,
    Step::BaseFilter,
    Step::Lock,
    Step::Setup,
];
/// Steps of init behind the start gate.
const START: &[Step] = &[Step::Security, Step::Exec];
const EXEC: &[Step] = &[
    Step::Plan,
    Step::Spawn,
    Step::Limits,
    Step::Join,
    Step::BaseFilter,
    Step::Setup,
    Step::Security,
    Step::Exec,
];
pub(crate) const DELETE: &[Step] = &[
    Step::Kill,
    Step::GiveBackRootfs,
    Step::Capture,
    Step::RemoveCgroup,
    Step::ReleaseRange,
];

/// A shim with the feature `fault-injection`, built beside the tests.
pub(crate) fn faulty_shim() -> Result<PathBuf> {
    let target = std::env::current_exe()?
        .ancestors()
        .find(|dir| dir.ends_with("debug") || dir.ends_with("release"))
        .context("the test is not in a target directory")?
        .with_file_name("fault-injection");
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args([
            "build",
            "--quiet",
            "--locked",
            "--package",
            "containerd-shim-sysbox-v2",
        ])
        .args([
            "--features",
            "fault-injection",
            "--message-format",
            "json",
            "--target-dir",
        ])
        .arg(&target)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    let output = process::run(&mut cargo, b"", Duration::from_secs(900))?.ok()?;
    let built = output.stdout.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(PathBuf::from(message.get("executable")?.as_str()?))
    });
    built.context("cargo names no executable")
}

pub(crate) struct Faults<'a> {
    pub(crate) node: &'a Node,
}

impl Faults<'_> {
    pub(crate) fn at(&self, step: Step) -> Result<()> {
        fs::write(self.file(), step.name()).context("write fail-at")
    }

    pub(crate) fn none(&self) -> Result<()> {
        fs::write(self.file(), "").context("write fail-at")
    }

    /// Runs a script of a client that a fault at `step` fails, and that says so.
    pub(crate) fn hits(&self, step: Step, script: &str) -> Result<()> {
        self.at(step)?;
        let output = self.node.shell(script)?;
        self.none()?;
        ensure!(
            output.code != 0 && output.stderr.contains(&format!("injected fault at {step}")),
            "a fault at {step}: {} {}",
            output.code,
            output.stderr
        );
        Ok(())
    }

    fn file(&self) -> PathBuf {
        self.node.path(FAIL_AT)
    }
}

/// The error must name the step as the one that failed on purpose.
fn names<T>(result: ttrpc::Result<T>, step: Step) -> Result<()> {
    match result {
        Ok(_) => bail!("no error"),
        Err(error) => {
            let text = error.to_string();
            ensure!(
                text.contains(&format!("injected fault at {step}: ")),
                "the error does not name the step: {text}"
            );
            Ok(())
        }
    }
}

pub(crate) fn every_step() -> Result<()> {
    for verb in [CREATE, START, EXEC, DELETE] {
        let unique: BTreeSet<_> = verb.iter().map(|step| step.name()).collect();
        ensure!(unique.len() == verb.len(), "a step is listed twice");
    }
    for step in Step::ALL {
        ensure!(
            [CREATE, START, EXEC, DELETE]
                .iter()
                .any(|verb| verb.contains(step)),
            "step {step} is in no verb's list"
        );
    }

    let node = Node::builder(Release::Sid).shim(faulty_shim()?).start()?;
    node.import(Image::Busybox)?;
    fs::DirBuilder::new()
        .mode(0o700)
        .create(node.path(STATE_DIR))
        .context("make the state directory")?;
    let faults = Faults { node: &node };
    faults.none()?;
    let bundle = Bundle::new(&node, "c1", &["/probe", "sleep"], |_| {})?;
    let shim = Shim::start(&node, &bundle)?;
    let result = walk(&node, &shim, &bundle, &faults).map_err(|error| {
        let log = node.log_tail();
        error.context(format!("containerd's log:\n{log}"))
    });
    result?;
    shim.shutdown(&node)
}

fn walk(node: &Node, shim: &Shim, bundle: &Bundle, faults: &Faults<'_>) -> Result<()> {
    let client = &shim.client;
    let cycle = || {
        shim.run(async {
            bundle.run(client).await?;
            let code = bundle
                .task
                .execute(client, "e", &["/probe", "exit", "5"])
                .await?;
            bundle.task.end(client).await?;
            Ok::<_, ttrpc::Error>(code)
        })
    };
    let works = || -> Result<()> {
        let code = cycle().context("without a fault")?;
        ensure!(code == 5, "exec exited with {code}");
        Ok(())
    };
    works()?;
    let watch = Watch::new(node, shim.pid()?);
    for &step in Step::ALL {
        let say = |verb: &str| format!("{verb} with a fault at {step}");

        // Create and start take their fault from the same moment.
        faults.at(step)?;
        let created = shim.run(client.create(soon(), &bundle.create_request()));
        if CREATE.contains(&step) {
            names(created, step).with_context(|| say("create"))?;
        } else {
            created.with_context(|| say("create"))?;
            let started = shim.run(bundle.task.start(client, ""));
            if START.contains(&step) {
                names(started, step).with_context(|| say("start"))?;
            } else {
                started.with_context(|| say("start"))?;
                shim.run(bundle.task.stop(client))
                    .with_context(|| say("stop"))?;
            }
            faults.none()?;
            shim.run(bundle.task.delete(client, ""))
                .with_context(|| say("delete after start"))?;
        }
        faults.none()?;
        watch
            .settled(false)
            .with_context(|| say("create or start"))?;

        shim.run(bundle.run(client))
            .with_context(|| say("create after create"))?;
        faults.at(step)?;
        let executed = shim.run(async {
            client
                .exec(
                    soon(),
                    &bundle.task.exec_request("e", &["/probe", "exit", "5"]),
                )
                .await?;
            bundle.task.start(client, "e").await
        });
        faults.none()?;
        if EXEC.contains(&step) {
            names(executed, step).with_context(|| say("exec"))?;
        } else {
            executed.with_context(|| say("exec"))?;
            shim.run(bundle.task.wait(client, "e"))?;
        }
        shim.run(bundle.task.delete(client, "e"))
            .with_context(|| say("delete of the process after exec"))?;
        let code = shim.run(bundle.task.execute(client, "e", &["/probe", "exit", "6"]));
        ensure!(
            code.with_context(|| say("exec after exec"))? == 6,
            "another exit code"
        );

        shim.run(bundle.task.stop(client))
            .with_context(|| say("stop"))?;
        faults.at(step)?;
        let deleted = shim.run(bundle.task.delete(client, ""));
        faults.none()?;
        if DELETE.contains(&step) {
            names(deleted, step).with_context(|| say("delete"))?;
            shim.run(bundle.task.delete(client, ""))
                .with_context(|| say("second delete after delete"))?;
        } else {
            deleted.with_context(|| say("delete"))?;
        }
        watch
            .settled(false)
            .with_context(|| say("exec or delete"))?;
    }
    works()?;
    watch.settled(true)
}

/// The same through dockerd, which mounts root file systems itself: each is as it was after a create that failed, and after
/// a delete that has failed once the container starts again.
pub(crate) fn docker() -> Result<()> {
    let node = Node::builder(Release::Sid).shim(faulty_shim()?).start()?;
    dockerd::start(&node, Store::Overlay2)?;
    let image = dockerd::load(&node, Image::Busybox)?;
    let run = format!("docker run --rm --runtime sysbox {image} true");
    node.shell(&run)?.ok().context("without a fault")?;
    let faults = Faults { node: &node };
    faults.none()?;
    let before = Snapshot::of_node(&node);
    for &step in [CREATE, START].concat().iter() {
        faults.hits(step, &run)?;
        leak::settled(&node, &before).with_context(|| format!("a fault at {step}"))?;
    }
    for &step in DELETE {
        node.shell(&format!(
            "docker run -d --name c1 --runtime sysbox {image} sleep 1000"
        ))?
        .ok()?;
        faults.at(step)?;
        node.shell("docker kill c1; docker wait c1; sleep 0.2")?
            .ok()?;
        faults.none()?;
        node.shell("docker start c1; docker exec c1 true; docker rm -f c1")?
            .ok()
            .with_context(|| format!("start after a fault at {step}"))?;
        leak::settled(&node, &before).with_context(|| format!("a fault at {step}"))?;
    }
    Ok(())
}
