//! A pod whose network moves (design D9), under faults and `kill -9`: CNI takes it down all the same, and nothing is left.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::debian::Release;
use integration::engines::Engine;
use integration::image::Image;
use integration::leak::{self, Snapshot};
use integration::node::{DEADLINE, Node};
use runtime_core::Step;

use crate::faults::{DELETE, FAIL_AT, Faults, faulty_shim};
use crate::kills::{Random, Victim, ends, enough, strike, victims};
use crate::number;

/// A plain pod with a port of the host's.
const POD: &str = r#"{
  "metadata": {"name": "p", "namespace": "default", "uid": "u", "attempt": 0},
  "port_mappings": [{"container_port": 80, "host_port": 8080}]
}"#;

/// What CNI plugins keep beside interfaces: addresses handed out, ports of the host.
const KEPT: &str = "\
ls /var/lib/cni/networks/pods /var/lib/cni/results | grep -v -e '^/' -e '^$' -e last_reserved -e lock || true
nft list ruleset | grep 8080 || true";

/// Steps of create before, during and after the move.
const STEPS: [Step; 7] = [
    Step::Namespaces,
    Step::Network,
    Step::Rootfs,
    Step::NetworkMoved,
    Step::NetworkPlace,
    Step::Setup,
    Step::Exec,
];

struct Pods {
    node: Node,
    before: Snapshot,
}

impl Pods {
    /// A node that has had its first pod.
    fn new(node: Node) -> Result<Self> {
        node.import(Image::Busybox)?;
        std::fs::write(node.path("/srv/pod.json"), POD).context("write the pod")?;
        let run =
            "p=$(crictl runp --runtime sysbox /srv/pod.json) && crictl stopp $p && crictl rmp $p";
        node.shell(run)?.ok().context("the first pod")?;
        node.ctr(&["content", "prune", "references"])?.ok()?;
        std::thread::sleep(Duration::from_secs(1));
        let before = Snapshot::of_node(&node);
        Ok(Self { node, before })
    }

    /// No pod, no address, no port, no namespace, no interface.
    fn nothing_is_left(&self) -> Result<()> {
        let pods = self.node.shell("crictl pods -q")?.ok()?;
        ensure!(pods.text().is_empty(), "pods are left: {}", pods.text());
        let kept = self.node.shell(KEPT)?.ok()?;
        ensure!(kept.text().is_empty(), "CNI has kept {}", kept.text());
        leak::settled(&self.node, &self.before)
    }

    /// As the kubelet: again and again, until there is none.
    fn remove(&self) -> Result<()> {
        let begin = Instant::now();
        loop {
            let removed = self.node.shell("crictl rmp --all --force 2>&1")?;
            let left = self.node.shell("crictl pods -q")?;
            if left.code == 0 && left.text().is_empty() {
                return Ok(());
            }
            ensure!(
                begin.elapsed() < DEADLINE,
                "the pod cannot be removed: {}",
                removed.stdout
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// A fault at steps of a pod's create, and at each of its delete.
pub(crate) fn faults() -> Result<()> {
    let node = Node::builder(Release::Sid)
        .cri(true)
        .engines(&[Engine::CriTools, Engine::Containerd24])
        .shim(faulty_shim()?)
        .start()?;
    let mut pods = Pods::new(node)?;
    Faults { node: &pods.node }.none()?;
    // The file that names the step is there until the end.
    pods.before = Snapshot::of_node(&pods.node);
    let faults = Faults { node: &pods.node };
    walk(&pods, &faults).map_err(|error| {
        let log = pods.node.log_tail();
        error.context(format!("containerd's log:\n{log}"))
    })
}

fn walk(pods: &Pods, faults: &Faults<'_>) -> Result<()> {
    let run = "crictl runp --runtime sysbox /srv/pod.json";
    for step in STEPS {
        faults.hits(step, run)?;
        // containerd has cleaned up by itself.
        pods.nothing_is_left()
            .with_context(|| format!("a fault at {step}"))?;
    }
    for &step in DELETE {
        pods.node.shell(run)?.ok()?;
        faults.at(step)?;
        // containerd deletes the task as often as it takes.
        pods.node
            .shell(&format!(
                "crictl stopp $(crictl pods -q) & sleep 1; : >{FAIL_AT}; wait $!"
            ))?
            .ok()
            .with_context(|| format!("stop after a fault at {step}"))?;
        faults.none()?;
        pods.remove()
            .and_then(|()| pods.nothing_is_left())
            .with_context(|| format!("a fault at {step}"))?;
    }
    Ok(())
}

/// A kill at a random moment of the move.
pub(crate) fn kills() -> Result<()> {
    let cycles = number("SYSBOX_KILL_CYCLES", 60)?.div_ceil(5);
    let mut random = Random::new()?;
    let node = Node::builder(Release::Sid)
        .cri(true)
        .engines(&[Engine::CriTools, Engine::Containerd24])
        .start()?;
    let pods = Pods::new(node)?;
    let mut hits = 0;
    for cycle in 0..cycles {
        let victim = random.one_of(&[Victim::Stage, Victim::Shim, Victim::Containerd]);
        let hit = one(&pods, victim, &mut random)
            .and_then(|hit| {
                pods.remove()?;
                pods.nothing_is_left()?;
                Ok(hit)
            })
            .map_err(|error| {
                let log = pods.node.log_tail();
                error.context(format!("cycle {cycle}: {victim:?} killed\n{log}"))
            })?;
        hits += u64::from(hit);
    }
    enough(hits, cycles)
}

/// Runs a pod and kills the victim once the stage, which moves the network, is there.
fn one(pods: &Pods, victim: Victim, random: &mut Random) -> Result<bool> {
    let node = &pods.node;
    let mut command = node.command(&["crictl", "runp", "--runtime", "sysbox", "/srv/pod.json"]);
    let mut run = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("start crictl")?;
    let begin = Instant::now();
    while victims(node, Victim::Stage).is_empty() && run.try_wait()?.is_none() {
        ensure!(begin.elapsed() < DEADLINE, "no stage comes");
    }
    std::thread::sleep(Duration::from_millis(random.below(40)));
    let hit = strike(node, victim, random)?;
    ends(&mut run)?;
    Ok(hit)
}
