//! A crowd of requests that hang in what one container holds: every other verb answers, there and in its pod's other container.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use containerd_shim_protos::api::{
    KillRequest, PauseRequest, PidsRequest, ResumeRequest, StateRequest, StatsRequest,
    UpdateTaskRequest,
};
use containerd_shim_protos::shim_async::TaskClient;
use integration::hostile::meet;
use integration::shim_api::soon;
use protobuf::MessageField;
use protobuf::well_known_types::any::Any;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::bed::{Bed, Shim};

/// As many as the pool of threads once had.
const CROWD: usize = 512;
/// How long a verb may take that hangs in nothing, on a busy machine.
const SOON: Duration = Duration::from_secs(10);
/// The same of one that may, and of a kill with all that it needs.
const BOUND: Duration = Duration::from_secs(20);
/// A directory in memory: the containers have one root file system.
const FUSE: &str = "/dev/shm/f";

/// What is asked of a container.
#[derive(Debug, Clone, Copy)]
enum Verb {
    State,
    Stats,
    Pids,
    /// A signal to all that ends nobody.
    Signal,
    Kill,
    Update,
    Pause,
    Resume,
    Exec,
    /// One that cannot come to run.
    HungExec,
}

/// All that any container can be asked at any time, in this order.
const ALL: [Verb; 8] = [
    Verb::State,
    Verb::Stats,
    Verb::Pids,
    Verb::Signal,
    Verb::Update,
    Verb::Exec,
    Verb::Pause,
    Verb::Resume,
];

impl Verb {
    /// Asks; `name` is one that no other exec has.
    async fn ask(self, shim: &Shim, client: &TaskClient, name: &str) -> ttrpc::Result<()> {
        let id = shim.task.id.clone();
        let signal = |signal| KillRequest {
            id: shim.task.id.clone(),
            signal,
            all: true,
            ..KillRequest::default()
        };
        match self {
            Verb::State => {
                let request = StateRequest {
                    id,
                    ..StateRequest::default()
                };
                client.state(soon(), &request).await.map(drop)
            }
            Verb::Stats => {
                let request = StatsRequest {
                    id,
                    ..StatsRequest::default()
                };
                client.stats(soon(), &request).await.map(drop)
            }
            Verb::Pids => {
                let request = PidsRequest {
                    id,
                    ..PidsRequest::default()
                };
                client.pids(soon(), &request).await.map(drop)
            }
            Verb::Signal => client.kill(soon(), &signal(18)).await.map(drop),
            Verb::Kill => client.kill(soon(), &signal(9)).await.map(drop),
            Verb::Update => {
                let resources = json!({"pids": {"limit": 4000}}).to_string();
                let request = UpdateTaskRequest {
                    id,
                    resources: MessageField::some(Any {
                        type_url:
                            "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
                                .into(),
                        value: resources.into_bytes(),
                        ..Any::default()
                    }),
                    ..UpdateTaskRequest::default()
                };
                client.update(soon(), &request).await.map(drop)
            }
            Verb::Pause => {
                let request = PauseRequest {
                    id,
                    ..PauseRequest::default()
                };
                client.pause(soon(), &request).await.map(drop)
            }
            Verb::Resume => {
                let request = ResumeRequest {
                    id,
                    ..ResumeRequest::default()
                };
                client.resume(soon(), &request).await.map(drop)
            }
            Verb::Exec => {
                let executed = shim.task.execute(client, name, &["/bin/true"]);
                executed.await.map(drop)
            }
            Verb::HungExec => {
                let mut request = shim.task.exec_request(name, &["/bin/true"]);
                if let Some(spec) = request.spec.as_mut() {
                    let mut process: Value =
                        serde_json::from_slice(&spec.value).unwrap_or_default();
                    process["cwd"] = json!(format!("{FUSE}/x"));
                    spec.value = process.to_string().into_bytes();
                }
                client.exec(soon(), &request).await?;
                shim.task.start(client, name).await.map(drop)
            }
        }
    }
}

/// Starts the probe in a container.
async fn probe(shim: &Shim, client: &TaskClient, words: &[&str]) -> Result<()> {
    let words = [&["/probe"], words].concat();
    let request = shim.task.exec_request("probe", &words);
    client.exec(soon(), &request).await?;
    shim.task.start(client, "probe").await?;
    Ok(())
}

/// Two containers of one pod: `held` will serve what does not answer, or hold what others need.
struct Pod<'a> {
    bed: &'a Bed,
    held: Shim,
    neighbour: Shim,
    client: TaskClient,
    crowd: JoinSet<()>,
}

impl<'a> Pod<'a> {
    /// The probe's `words` run in the first one.
    async fn new(bed: &'a Bed, words: &[&str]) -> Result<Pod<'a>> {
        let group = [("io.kubernetes.cri.sandbox-id", "held")];
        let mut members = Vec::new();
        for id in ["held", "neighbour"] {
            let bundle = bed.bundle(id, &["/probe", "pause"], &group)?;
            let member = bed.start(id, &bundle).await?;
            member.run(&member.client().await?).await?;
            members.push(member);
        }
        let (Some(neighbour), Some(held)) = (members.pop(), members.pop()) else {
            anyhow::bail!("not two");
        };
        let client = held.client().await?;
        probe(&held, &client, words).await?;
        Ok(Pod {
            bed,
            held,
            neighbour,
            client,
            crowd: JoinSet::new(),
        })
    }

    /// Asks the same of `held` many times at once, and waits until that has begun.
    async fn crowd(&mut self, verb: Verb) {
        for n in 0..CROWD {
            let (held, client) = (self.held.clone(), self.client.clone());
            self.crowd.spawn(async move {
                // Whatever it is told, it is told so.
                let _ = verb.ask(&held, &client, &format!("{verb:?}-{n}")).await;
            });
        }
        sleep(Duration::from_millis(500)).await;
    }

    /// The other container does everything, at once.
    async fn neighbour_answers(&self, round: &str) -> Result<()> {
        for verb in ALL {
            let name = format!("{verb:?}-{round}");
            let asked = verb.ask(&self.neighbour, &self.client, &name);
            let answer = timeout(SOON, asked).await;
            answer
                .with_context(|| format!("{verb:?} of the neighbour hangs, {round}"))?
                .with_context(|| format!("{verb:?} of the neighbour, {round}"))?;
        }
        Ok(())
    }

    /// Each verb of the one that holds answers, well or not.
    async fn held_answers(&self) -> Result<()> {
        let mut asked = JoinSet::new();
        for verb in ALL {
            let (held, client) = (self.held.clone(), self.client.clone());
            asked.spawn(async move {
                let answer = timeout(BOUND, verb.ask(&held, &client, "last")).await;
                let hangs = || format!("{verb:?} of the container hangs");
                answer.map(drop).with_context(hangs)
            });
        }
        while let Some(answer) = asked.join_next().await {
            answer??;
        }
        Ok(())
    }

    /// A kill ends it, and whoever still waits.
    async fn end(mut self) -> Result<()> {
        // It may be dead.
        let _ = self.held.task.kill(&self.client, "", 9).await;
        timeout(BOUND, self.held.task.wait(&self.client, ""))
            .await
            .context("it does not die")??;
        let all = async { while self.crowd.join_next().await.is_some() {} };
        timeout(BOUND, all)
            .await
            .context("somebody waits after the kill")?;
        self.held.task.delete(&self.client, "").await?;
        self.neighbour.task.end(&self.client).await?;
        self.held.shutdown(&self.client).await?;
        self.bed.settled()
    }
}

/// A container's first process, of the node.
async fn init(shim: &Shim, client: &TaskClient) -> Result<u32> {
    let request = StateRequest {
        id: shim.task.id.clone(),
        ..StateRequest::default()
    };
    Ok(client.state(soon(), &request).await?.pid)
}

/// Whoever lists the container's cgroup, or looks for a file in it, waits behind one of its processes.
#[tokio::test]
async fn requests_that_need_a_cgroup_whose_lock_is_held() -> Result<()> {
    let Some(bed) = Bed::new().await? else {
        return Ok(());
    };
    let mut pod = Pod::new(&bed, &["fuse-hold", FUSE, "/sys/fs/cgroup"]).await?;
    let _rescue = meet(&bed.node, init(&pod.held, &pod.client).await?, "ready")?;
    for verb in [Verb::Stats, Verb::Pids, Verb::Signal, Verb::Update] {
        pod.crowd(verb).await;
        let round = format!("{CROWD} of {verb:?}");
        pod.neighbour_answers(&round).await?;
    }
    pod.held_answers().await?;
    pod.end().await
}

/// A process that waits in its own FUSE cannot be frozen, nor killed before that is ended.
#[tokio::test]
async fn pauses_and_kills_of_what_cannot_freeze_or_die() -> Result<()> {
    let Some(bed) = Bed::new().await? else {
        return Ok(());
    };
    let mut pod = Pod::new(&bed, &["fuse-locked", FUSE]).await?;
    let _rescue = meet(&bed.node, init(&pod.held, &pod.client).await?, "ready")?;
    pod.crowd(Verb::Pause).await;
    pod.neighbour_answers("pauses").await?;
    pod.held_answers().await?;
    pod.crowd(Verb::Kill).await;
    pod.neighbour_answers("kills").await?;
    pod.end().await
}

#[tokio::test]
async fn execs_that_do_not_come_to_run() -> Result<()> {
    let Some(bed) = Bed::new().await? else {
        return Ok(());
    };
    let mut pod = Pod::new(&bed, &["fuse-silent", FUSE]).await?;
    let _rescue = meet(&bed.node, init(&pod.held, &pod.client).await?, "ready")?;
    pod.crowd(Verb::HungExec).await;
    pod.neighbour_answers("execs").await?;
    pod.end().await
}

/// Both have the same ids. One dies, though nobody sees any more what it waits in; the other's file system goes on.
#[tokio::test]
async fn a_kill_spares_the_file_system_of_the_pods_other_container() -> Result<()> {
    let Some(bed) = Bed::new().await? else {
        return Ok(());
    };
    let pod = Pod::new(&bed, &["fuse-locked", FUSE]).await?;
    probe(&pod.neighbour, &pod.client, &["fuse-silent", FUSE]).await?;
    let _rescues = [
        meet(&bed.node, init(&pod.held, &pod.client).await?, "ready")?,
        meet(&bed.node, init(&pod.neighbour, &pod.client).await?, "ready")?,
    ];
    let unmount = ["/bin/umount", "-l", FUSE];
    let unmounted = pod.held.task.execute(&pod.client, "umount", &unmount);
    ensure!(unmounted.await? == 0, "umount");
    timeout(BOUND, pod.held.task.stop(&pod.client))
        .await
        .context("it does not die")??;
    let list = ["/bin/ls", "-l", &format!("{FUSE}/program")];
    let listed = pod.neighbour.task.execute(&pod.client, "ls", &list);
    ensure!(listed.await? == 0, "the neighbour's file system is gone");
    pod.end().await
}
