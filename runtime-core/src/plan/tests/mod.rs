//! The plan against whole specs, as JSON: what engines write, and what is refused.

mod details;
mod invalid;
mod limits;
mod valid;

use std::path::Path;

use crate::config::Config;
use crate::plan::{Plan, PlanInput};
use oci_spec::runtime as oci;
use serde_json::Value;

/// `src/plan/tests/specs/{name}.json`.
fn spec(name: &str) -> Value {
    let path = format!(
        "{}/src/plan/tests/specs/{name}.json",
        env!("CARGO_MANIFEST_DIR")
    );
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The plan of a spec in /bundle, under the default configuration, on a kernel of 41 capabilities.
fn plan(spec: &Value) -> crate::Result<Plan> {
    plan_by(spec, &Config::default())
}

/// The plan of `spec` under a configuration.
fn plan_by(spec: &Value, config: &Config) -> crate::Result<Plan> {
    let spec: oci::Spec = serde_json::from_value(spec.clone()).unwrap();
    Plan::new(PlanInput {
        spec: &spec,
        bundle: Path::new("/bundle"),
        id: "c1",
        namespace: "default",
        config,
        terminal: None,
        last_cap: 40,
        seccomp_cache: None,
    })
}

/// Puts `value` at a JSON pointer, objects on the way there made if need be.
fn put(spec: &mut Value, pointer: &str, value: Value) {
    let mut at = spec;
    for key in pointer.split('/').skip(1) {
        at = match key.parse::<usize>() {
            Ok(index) => &mut at[index],
            Err(_) => &mut at[key],
        };
    }
    *at = value;
}
