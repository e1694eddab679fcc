//! Each spec that cannot be done gives one error that names field, value and remedy.

mod bounds;
mod linux;
mod mounts;
mod process;
mod resources;
mod sections;

use crate::Error;
use serde_json::{Value, json};

use super::{plan, put, spec};

/// A change to the spec of `ctr run`, and the error it gives: the field exactly, parts of the value and of the remedy.
struct Case {
    at: &'static str,
    value: Value,
    error: [&'static str; 3],
}

fn case(at: &'static str, value: Value, error: [&'static str; 3]) -> Case {
    Case { at, value, error }
}

fn check(cases: &[Case]) {
    for Case { at, value, error } in cases {
        let mut spec = spec("ctr");
        put(&mut spec, at, value.clone());
        let Err(found) = plan(&spec) else {
            panic!("{at} = {value}: accepted");
        };
        let Error::Invalid {
            field,
            value: shown,
            remedy,
        } = &found
        else {
            panic!("{at} = {value}: {found:?}");
        };
        let [want_field, want_value, want_remedy] = error;
        assert_eq!(field, want_field, "{at} = {value}: {found}");
        assert!(shown.contains(want_value), "{at} = {value}: {found}");
        assert!(remedy.contains(want_remedy), "{at} = {value}: {found}");
        assert!(remedy.len() > 5 && shown.len() <= 204, "{found}");
    }
}

/// The spec's list of namespaces without one type.
fn without(kind: &str) -> Value {
    let kinds = ["pid", "network", "ipc", "uts", "mount"];
    let list: Vec<Value> = kinds
        .iter()
        .filter(|k| **k != kind)
        .map(|k| json!({"type": k}))
        .collect();
    json!(list)
}

/// A list with one namespace more.
fn namespaces_and(more: Value) -> Value {
    let mut list = without("none");
    list.as_array_mut().unwrap().push(more);
    list
}

fn mappings(lines: &[[u32; 3]]) -> Value {
    let lines: Vec<Value> = lines
        .iter()
        .map(|[c, h, s]| json!({"containerID": c, "hostID": h, "size": s}))
        .collect();
    json!(lines)
}

/// `linux` of the base with both kinds of mapping alike.
fn linux_mapped(lines: &[[u32; 3]]) -> Value {
    let mut linux = spec("ctr")["linux"].clone();
    linux["uidMappings"] = mappings(lines);
    linux["gidMappings"] = mappings(lines);
    linux
}

fn long(len: usize) -> String {
    "x".repeat(len)
}
