//! The benches run to their end and write the file that their readers expect. Of the figures only the memory that
//! `deploy/` promises is looked at.

use std::fs;
use std::process::Command;
use std::time::Duration;

use integration::{host, process};
use serde_json::Value;

#[test]
fn the_summary_has_its_form() {
    if let Some(obstacle) = host::obstacle().or_else(|| host::shim().err().map(|e| e.to_string())) {
        assert!(!host::strict(), "{obstacle}");
        eprintln!("skipped: {obstacle}");
        return;
    }
    let dir = tempfile::tempdir().expect("make a directory");
    let file = dir.path().join("summary.json");
    let mut bench = Command::new(env!("CARGO_BIN_EXE_bench"));
    bench.arg("--quick").arg("--out").arg(&file);
    process::run(&mut bench, b"", Duration::from_secs(300))
        .and_then(process::Output::ok)
        .expect("run bench");
    let text = fs::read_to_string(&file).expect("read the summary");
    let rows: Vec<Value> = serde_json::from_str(&text).expect("an array");
    let names: Vec<_> = rows.iter().filter_map(|row| row["name"].as_str()).collect();
    assert_eq!(
        names,
        [
            "api-cycle",
            "api-cycle-warm",
            "ctr-run",
            "exec",
            "shim-pss-1",
            "shim-pss-10",
            "shim-pss-100",
            "rootfs-1",
            "rootfs-20",
            "rootfs-100",
            "docker-run",
            "docker-exec",
            "nerdctl-run",
            "dind-ready",
            "inner-run",
            "cri-pod",
            "cri-pod-move"
        ]
    );
    let alone = rows.iter().find(|row| row["name"] == "shim-pss-1");
    let alone = alone.and_then(|row| row["ours"]["p50"].as_f64());
    if host::shim().is_ok_and(|shim| shim.ends_with("release/containerd-shim-sysbox-v2")) {
        let megabytes = overhead();
        assert!(
            alone < Some(megabytes),
            "a shim has {alone:?} MB, the RuntimeClass says {megabytes}"
        );
    }
    for row in rows {
        assert!(row["unit"].is_string(), "{row}");
        let mut runtimes = vec![("ours", None), ("runc", Some("ratio_runc"))];
        if !row["crun"].is_null() {
            runtimes.push(("crun", Some("ratio_crun")));
        }
        for (runtime, ratio) in runtimes {
            for quantile in ["p50", "p90"] {
                assert!(row[runtime][quantile].as_f64() > Some(0.0), "{row}");
            }
            assert!(ratio.is_none_or(|ratio| row[ratio].is_f64()), "{row}");
        }
    }
}

/// Megabytes that the RuntimeClass reserves for a pod's shim.
fn overhead() -> f64 {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/runtimeclass.yaml");
    let text = fs::read_to_string(file).expect("read the RuntimeClass");
    let memory = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("memory: "));
    let mebibytes = memory.and_then(|value| value.strip_suffix("Mi"));
    let mebibytes: f64 = mebibytes
        .and_then(|number| number.parse().ok())
        .expect("overhead.podFixed.memory in Mi");
    mebibytes * 1.048_576
}
