//! The measurements. They run in the node, beside containerd and its shims: no step of the harness is in them.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::api::{Bundle, Shim};
use crate::runtime::Runtime;
use crate::{DOCKER, IMAGE, command, doors, inner};

/// Samples of one metric, those of each runtime in the order of [`Runtime::ALL`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Metric {
    pub(crate) name: String,
    pub(crate) unit: String,
    pub(crate) samples: [Vec<f64>; 3],
}

impl Metric {
    pub(crate) fn new(name: &str, unit: &str) -> Self {
        Self {
            name: name.to_owned(),
            unit: unit.to_owned(),
            samples: Default::default(),
        }
    }

    pub(crate) fn add(&mut self, runtime: Runtime, value: f64) {
        if let Some(samples) = self.samples.get_mut(runtime.index()) {
            samples.push(value);
        }
    }

    /// What passed since `begin`.
    pub(crate) fn since(&mut self, runtime: Runtime, begin: Instant) {
        self.add(runtime, begin.elapsed().as_secs_f64() * 1e3);
    }
}

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) rounds: usize,
    shims: &'static [usize],
}

impl Size {
    /// For figures.
    pub(crate) const FULL: Self = Self {
        rounds: 40,
        shims: &[1, 10, 100],
    };
    /// To see that everything runs: the same metrics, but their figures mean nothing.
    pub(crate) const QUICK: Self = Self {
        rounds: 2,
        shims: &[1, 2, 3],
    };
}

/// Layers of the container that all metrics but `rootfs-*` run.
const LAYERS: usize = 1;
const SLEEP: &[&str] = &["sleep", "100000"];

/// Every metric. `layer` is the directory of busybox's files.
pub(crate) async fn all(size: Size, layer: &str) -> Result<Vec<Metric>> {
    Bundle::layers(layer, 100)?;
    let mut metrics = vec![
        api_cycle(size.rounds).await?,
        api_cycle_warm(size.rounds).await?,
        ctr_run(size.rounds, IMAGE.reference())?,
        exec(size.rounds).await?,
    ];
    metrics.extend(memory(size.shims).await?);
    for layers in [1, 20, 100] {
        metrics.push(rootfs(size.rounds / 2, layers).await?);
    }
    metrics.extend(doors::all(size.rounds, IMAGE.reference())?);
    metrics.extend(inner::both(size.rounds.div_ceil(5), DOCKER.reference())?);
    Ok(metrics)
}

/// From the spawn of the shim's `start` to the answer of Delete. That the shim then exits is not in it.
async fn api_cycle(rounds: usize) -> Result<Metric> {
    let mut metric = Metric::new("api-cycle", "ms");
    for round in 0..rounds + 1 {
        for runtime in Runtime::round(round) {
            let id = format!("cold{round}");
            let bundle = Bundle::new(runtime, &id, &id, LAYERS, &["true"])?;
            let begin = Instant::now();
            let shim = bundle.start_shim().await?;
            shim.cycle(&bundle).await?;
            // The first round fills the page cache.
            if round > 0 {
                metric.since(runtime, begin);
            }
            let pid = shim.pid(&bundle).await?;
            shim.shutdown(&bundle, pid).await?;
        }
    }
    Ok(metric)
}

/// A sleeping container of each runtime, its shim running.
struct Sleepers(Vec<(Bundle, Shim)>);

impl Sleepers {
    async fn start(group: &str) -> Result<Self> {
        let mut all = Vec::new();
        for runtime in Runtime::ALL {
            all.push(sleeper(runtime, &format!("{group}-sleeper"), group).await?);
        }
        Ok(Self(all))
    }

    fn of(&self, runtime: Runtime) -> Result<&(Bundle, Shim)> {
        self.0.get(runtime.index()).context("no such sleeper")
    }

    async fn stop(self) -> Result<()> {
        for (bundle, shim) in self.0 {
            stop(bundle, shim).await?;
        }
        Ok(())
    }
}

async fn sleeper(runtime: Runtime, id: &str, group: &str) -> Result<(Bundle, Shim)> {
    let bundle = Bundle::new(runtime, id, group, LAYERS, SLEEP)?;
    let shim = bundle.start_shim().await?;
    shim.create(&bundle).await?;
    shim.start(&bundle).await?;
    Ok((bundle, shim))
}

async fn stop(bundle: Bundle, shim: Shim) -> Result<()> {
    let pid = shim.pid(&bundle).await?;
    shim.kill(&bundle).await?;
    shim.shutdown(&bundle, pid).await
}

/// Create to Delete of a container of a pod whose shim runs already.
async fn api_cycle_warm(rounds: usize) -> Result<Metric> {
    let mut metric = Metric::new("api-cycle-warm", "ms");
    let sleepers = Sleepers::start("warm").await?;
    for round in 0..rounds {
        for runtime in Runtime::round(round) {
            let bundle = Bundle::new(runtime, &format!("warm{round}"), "warm", LAYERS, &["true"])?;
            let (_, shim) = sleepers.of(runtime)?;
            let begin = Instant::now();
            shim.cycle(&bundle).await?;
            metric.since(runtime, begin);
        }
    }
    sleepers.stop().await?;
    Ok(metric)
}

/// `ctr run --rm` of `true`, the client's own start included.
fn ctr_run(rounds: usize, image: &str) -> Result<Metric> {
    let mut metric = Metric::new("ctr-run", "ms");
    for round in 0..rounds {
        for runtime in Runtime::round(round) {
            let id = format!("{}-ctr{round}", runtime.name());
            let options = ["ctr", "run", "--rm", "--cpu-shares", "0"];
            let words = [&options, runtime.ctr_options(), &[image, &id, "true"]].concat();
            let begin = Instant::now();
            command::run(&words)?;
            metric.since(runtime, begin);
        }
    }
    Ok(metric)
}

/// Exec, Start, Wait and Delete of `true` in a running container.
async fn exec(rounds: usize) -> Result<Metric> {
    let mut metric = Metric::new("exec", "ms");
    let sleepers = Sleepers::start("exec").await?;
    for round in 0..rounds * 2 {
        for runtime in Runtime::round(round) {
            let (bundle, shim) = sleepers.of(runtime)?;
            let begin = Instant::now();
            shim.exec(bundle, &format!("x{round}"), &["true"]).await?;
            metric.since(runtime, begin);
        }
    }
    sleepers.stop().await?;
    Ok(metric)
}

/// The proportional set size of each of so many shims, a container in each (proc_pid_smaps(5), `smaps_rollup`).
async fn memory(counts: &[usize]) -> Result<Vec<Metric>> {
    let mut metrics: Vec<_> = ["shim-pss-1", "shim-pss-10", "shim-pss-100"]
        .map(|name| Metric::new(name, "MB"))
        .into();
    for runtime in Runtime::ALL {
        let mut running = Vec::new();
        for (metric, count) in metrics.iter_mut().zip(counts) {
            while running.len() < *count {
                let id = format!("pss{}", running.len());
                running.push(sleeper(runtime, &id, &id).await?);
            }
            // Threads that worked on the last call have gone to sleep by then.
            tokio::time::sleep(Duration::from_secs(1)).await;
            for (bundle, shim) in &running {
                metric.add(runtime, pss(shim.pid(bundle).await?)?);
            }
        }
        for (bundle, shim) in running {
            stop(bundle, shim).await?;
        }
    }
    Ok(metrics)
}

fn pss(pid: u32) -> Result<f64> {
    let path = Path::new("/proc")
        .join(pid.to_string())
        .join("smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let line = line.with_context(|| format!("no Pss in {}", path.display()))?;
    let kib: f64 = line.trim().trim_end_matches(" kB").trim().parse()?;
    Ok(kib * 1024.0 / 1e6)
}

/// Create alone, in a running shim, of a container above `layers` lower directories: ours maps each of them and makes its
/// own overlay, the others make a plain one.
async fn rootfs(rounds: usize, layers: usize) -> Result<Metric> {
    let mut metric = Metric::new(&format!("rootfs-{layers}"), "ms");
    let group = format!("rootfs{layers}");
    let sleepers = Sleepers::start(&group).await?;
    for round in 0..rounds.max(1) {
        for runtime in Runtime::round(round) {
            let id = format!("{group}-{round}");
            let bundle = Bundle::new(runtime, &id, &group, layers, &["true"])?;
            let (_, shim) = sleepers.of(runtime)?;
            let begin = Instant::now();
            shim.create(&bundle).await?;
            metric.since(runtime, begin);
            shim.start(&bundle).await?;
            shim.finish(&bundle).await?;
        }
    }
    sleepers.stop().await?;
    Ok(metric)
}
