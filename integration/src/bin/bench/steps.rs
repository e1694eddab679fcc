//! What each named step of ours takes, as its debug log tells.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::api::Bundle;
use crate::runtime::Runtime;

/// Lower directories of the containers that are made.
const LAYERS: [usize; 2] = [1, 20];

/// A verb (`create`), with what its steps take.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    verb: String,
    layers: usize,
    /// Median of the whole, in milliseconds.
    whole: f64,
    /// Process and step with its median, in the order of the log.
    steps: Vec<(String, f64)>,
}

/// Create, exec and delete, `rounds` times each, in a shim that logs them.
pub(crate) async fn all(rounds: usize, layer: &str) -> Result<Vec<Row>> {
    Bundle::layers(layer, LAYERS.into_iter().max().unwrap_or(1))?;
    let mut rows = Vec::new();
    for layers in LAYERS {
        let group = format!("steps{layers}");
        let first = Bundle::new(Runtime::Ours, &group, &group, layers, &["sleep", "100000"])?;
        let shim = first.start_shim_with(&["-debug"]).await?;
        shim.create(&first).await?;
        shim.start(&first).await?;
        first.logged()?;
        let mut log = String::new();
        for round in 0..rounds {
            let bundle = Bundle::new(
                Runtime::Ours,
                &format!("{group}-{round}"),
                &group,
                layers,
                &["true"],
            )?;
            shim.cycle(&bundle).await?;
            shim.exec(&first, &format!("x{round}"), &["true"]).await?;
            log.push_str(&first.logged()?);
        }
        for verb in ["create", "exec", "delete"] {
            rows.push(Row::new(verb, layers, &log)?);
        }
        let pid = shim.pid(&first).await?;
        shim.kill(&first).await?;
        shim.shutdown(&first, pid).await?;
    }
    Ok(rows)
}

impl Row {
    /// Medians of the lines `VERB 9.8 ms: plan 0.4, cgroup 0.2; stage: rootfs 1.3` of `log`.
    fn new(verb: &str, layers: usize, log: &str) -> Result<Row> {
        let (mut wholes, mut order) = (Vec::new(), Vec::new());
        let mut steps: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        let start = format!("\"{verb} ");
        for line in log.lines() {
            let Some((_, text)) = line.split_once(&start) else {
                continue;
            };
            let text = text.split('"').next().unwrap_or_default();
            let Some((whole, parts)) = text.split_once(" ms: ") else {
                continue;
            };
            wholes.push(whole.parse::<f64>().context("milliseconds")?);
            for part in parts.split("; ") {
                let (process, list) = part.split_once(": ").unwrap_or(("shim", part));
                for item in list.split(", ").filter(|item| !item.is_empty()) {
                    let (step, took) = item.rsplit_once(' ').context("a step and its time")?;
                    let name = format!("{process} {step}");
                    if !order.contains(&name) {
                        order.push(name.clone());
                    }
                    steps.entry(name).or_default().push(took.parse()?);
                }
            }
        }
        ensure!(!wholes.is_empty(), "no {verb} in the log:\n{log}");
        let steps = order
            .into_iter()
            .map(|name| {
                let samples = steps.remove(&name).unwrap_or_default();
                (name, median(samples))
            })
            .collect();
        Ok(Row {
            verb: verb.to_owned(),
            layers,
            whole: median(wholes),
            steps,
        })
    }
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or_default()
}

/// Prints a line a verb, and below it the steps that take a tenth of a millisecond at least.
pub(crate) fn print(rows: &[Row]) {
    for row in rows {
        println!(
            "{} with {} layers: {:.1} ms",
            row.verb, row.layers, row.whole
        );
        let text: Vec<_> = row
            .steps
            .iter()
            .filter(|(_, took)| *took >= 0.1)
            .map(|(name, took)| format!("{name} {took:.2}"))
            .collect();
        println!("    {}", text.join(", "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_medians_in_their_order() {
        let line = |whole: &str, plan: &str| {
            format!(
                "level=debug msg=\"create {whole} ms: plan {plan}; stage: rootfs 1.3, dev 0.5\" id=x\n"
            )
        };
        let log = line("9.0", "0.4")
            + "level=info msg=\"else\"\n"
            + &line("7.0", "0.2")
            + &line("8.0", "0.3");
        let row = Row::new("create", 20, &log).expect("three lines");
        assert!((row.whole - 8.0).abs() < 1e-9);
        let names: Vec<_> = row.steps.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["shim plan", "stage rootfs", "stage dev"]);
        assert!((row.steps[0].1 - 0.3).abs() < 1e-9);
        assert!(Row::new("exec", 20, &log).is_err());
    }
}
