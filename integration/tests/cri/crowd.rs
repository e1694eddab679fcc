//! Many pods at a time. `SYSBOX_CRI_PODS` and `SYSBOX_CRI_CONTAINERS` (3 and 3) at a time for `SYSBOX_CRI_SECONDS` (5).

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use serde_json::json;

use crate::bed::{Bed, Case, NEWEST};

pub(crate) const CASES: &[Case] = &[Case::new("a_crowd", NEWEST, crowd)];

fn number(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text}")),
        Err(_) => Ok(default),
    }
}

fn crowd(bed: &Bed<'_>) -> Result<()> {
    let (pods, containers) = (
        number("SYSBOX_CRI_PODS", 3)?,
        number("SYSBOX_CRI_CONTAINERS", 3)?,
    );
    let seconds = Duration::from_secs(number("SYSBOX_CRI_SECONDS", 5)?);
    let begin = Instant::now();
    let one = || -> Result<()> {
        while begin.elapsed() < seconds {
            let pod = bed.pod(json!({}))?;
            for _ in 0..containers {
                pod.sleeper()?;
            }
            pod.remove()?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..pods).map(|_| scope.spawn(one)).collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
        })
    })
}
