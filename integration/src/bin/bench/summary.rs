//! The file that other programs read, and the table for people.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::measure::Metric;

/// Quantiles of one runtime's samples, by nearest rank.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Quantiles {
    p50: f64,
    p90: f64,
}

/// One element of `summary.json`.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    name: String,
    unit: String,
    ours: Quantiles,
    runc: Quantiles,
    /// None where an engine's door is compared, behind which crun does not run on every host.
    crun: Option<Quantiles>,
    ratio_runc: f64,
    ratio_crun: Option<f64>,
}

impl Row {
    /// # Errors
    /// If ours or runc has no sample.
    pub(crate) fn new(metric: &Metric) -> Result<Self> {
        let [ours, runc, crun] = &metric.samples;
        let (ours, runc) = (quantiles(ours)?, quantiles(runc)?);
        let crun = (!crun.is_empty()).then(|| quantiles(crun)).transpose()?;
        Ok(Self {
            name: metric.name.clone(),
            unit: metric.unit.clone(),
            ours,
            runc,
            crun,
            ratio_runc: rounded(ours.p50 / runc.p50),
            ratio_crun: crun.map(|crun| rounded(ours.p50 / crun.p50)),
        })
    }
}

fn quantiles(samples: &[f64]) -> Result<Quantiles> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |percent: usize| {
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().map(rounded)
    };
    Ok(Quantiles {
        p50: at(50).context("no sample")?,
        p90: at(90).context("no sample")?,
    })
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// Writes the file.
pub(crate) fn write(rows: &[Row], file: &Path) -> Result<()> {
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    fs::write(file, serde_json::to_string_pretty(rows)? + "\n")
        .with_context(|| format!("write {}", file.display()))
}

/// Prints the table.
pub(crate) fn print(rows: &[Row]) {
    println!(
        "{:15} {:>4} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8}",
        "p50 and p90", "", "ours", "", "runc", "", "crun", "", "of runc", "of crun"
    );
    let figure = |value: Option<f64>, width: usize| {
        value.map_or_else(
            || format!("{:>width$}", "–"),
            |value| format!("{value:width$.2}"),
        )
    };
    for row in rows {
        println!(
            "{:15} {:>4} {:9.2} {:9.2} {:9.2} {:9.2} {} {} {:8.2} {}",
            row.name,
            row.unit,
            row.ours.p50,
            row.ours.p90,
            row.runc.p50,
            row.runc.p90,
            figure(row.crun.map(|crun| crun.p50), 9),
            figure(row.crun.map(|crun| crun.p90), 9),
            row.ratio_runc,
            figure(row.ratio_crun, 8)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples_by_nearest_rank() {
        let samples: Vec<f64> = (1..=10).rev().map(f64::from).collect();
        let quantiles = quantiles(&samples).expect("samples");
        assert_eq!((quantiles.p50, quantiles.p90), (5.0, 9.0));
        assert!(super::quantiles(&[]).is_err());
    }
}
