//! A cluster of one node with the real API server and kubelet, `KIND::CASE`: `plain` is a pod that says `runtimeClassName:
//! sysbox` and nothing else, `users` says `hostUsers: false` too, `runc` keeps the cases honest. Only where `SYSBOX_K8S` is set,
//! as `make test-k8s` does.

mod cluster;
mod docker;
mod files;
mod life;
mod pod;
mod restricted;

use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, anyhow};
use integration::{leak, suite};
use libtest_mimic::{Arguments, Trial};

use cluster::Cluster;
use pod::Kind;

/// All cases share one, one after the other.
static CLUSTER: Mutex<Option<Cluster>> = Mutex::new(None);

type Case = (
    &'static str,
    &'static [Kind],
    fn(&Cluster, Kind) -> Result<()>,
);

const ANY: &[Kind] = &[Kind::Plain, Kind::Users, Kind::Runc];
const OURS: &[Kind] = &[Kind::Plain, Kind::Users];

const CASES: &[Case] = &[
    ("docker", ANY, docker::docker),
    ("volumes", ANY, files::volumes),
    ("liveness_restart", ANY, life::restart),
    ("probes_and_host_port", ANY, life::network),
    ("grace_period", ANY, life::grace),
    ("debug", ANY, life::debug),
    ("restricted", ANY, restricted::restricted),
    ("docker_with_the_default_filter", OURS, restricted::docker),
    ("ten_at_once", OURS, life::crowd),
    ("shim_is_killed", OURS, life::shim),
    ("kubelet_and_containerd_are_killed", OURS, life::killed),
    ("host_namespaces_are_refused", &[Kind::Plain], life::refused),
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    if std::env::var_os("SYSBOX_K8S").is_none() && !arguments.list {
        println!(
            "the tests of a whole cluster are run by `make test-k8s` (SYSBOX_K8S=1): its programs take a quarter of an hour to build"
        );
        return ExitCode::SUCCESS;
    }
    // Whatever is left is to be seen at the end, and a kubelet that is killed is everybody's.
    arguments.test_threads = Some(1);
    let trial = |case: &Case, kind: Kind| {
        let (name, _, body) = *case;
        Trial::ignorable_test(format!("{}::{name}", kind.name()), move || {
            suite::trial(|| run(|cluster| body(cluster, kind)))
        })
    };
    let mut trials: Vec<_> = CASES
        .iter()
        .flat_map(|case| case.1.iter().map(|kind| trial(case, *kind)))
        .collect();
    trials.push(Trial::ignorable_test("nothing_is_left", || {
        suite::trial(|| run(nothing_is_left))
    }));
    suite::run(&arguments, trials, drain, |said| said)
}

fn run(body: impl FnOnce(&Cluster) -> Result<()>) -> Result<()> {
    let mut shared = CLUSTER.lock().unwrap_or_else(PoisonError::into_inner);
    let cluster = match &mut *shared {
        Some(cluster) => cluster,
        none => none.insert(Cluster::start()?),
    };
    body(cluster).map_err(|error| {
        anyhow!(
            "{error:#}\n{}\n--- the last of containerd's log\n{}",
            cluster.log_tail("kubelet"),
            cluster.node.log_tail()
        )
    })
}

/// With all pods gone and the kubelet's collector having run, the node is as it was before its first pod.
fn nothing_is_left(cluster: &Cluster) -> Result<()> {
    for (namespace, _) in cluster::NAMESPACES {
        cluster.kubectl(&["-n", namespace, "delete", "pods", "--all", "--wait"])?;
    }
    let directories = "cd /var; find lib/kubelet/pods log/pods log/containers -mindepth 1 | wc -l";
    cluster::until("the kubelet's directories to be empty", || {
        Ok(cluster.node.shell(directories)?.ok()?.stdout.lines().last() == Some("0"))
    })?;
    leak::settled_within(&cluster.node, &cluster.before, cluster::PATIENCE)
}

fn drain() {
    drop(
        CLUSTER
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(),
    );
}
