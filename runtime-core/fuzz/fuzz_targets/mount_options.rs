//! Any options on any type of mount: the first line is the type, the second source and destination, the rest the options.
#![no_main]

use libfuzzer_sys::fuzz_target;

/// What `ctr run` writes.
const SPEC: &str = include_str!("../../src/plan/tests/specs/ctr.json");

fuzz_target!(|text: &str| {
    let mut lines = text.split('\n');
    let mut line = || lines.next().unwrap_or_default();
    let (kind, source, destination) = (line(), line(), line());
    let options: Vec<&str> = lines.collect();
    let mount = serde_json::json!({
        "type": kind, "source": source, "destination": destination, "options": options
    });
    let mut spec: serde_json::Value = serde_json::from_str(SPEC).expect("a spec of ctr's");
    spec["mounts"] = serde_json::json!([mount]);
    runtime_core::fuzz::plan(&serde_json::from_value(spec).expect("strings are a mount"));
});
