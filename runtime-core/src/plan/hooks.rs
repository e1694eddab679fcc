//! `hooks`.

use oci_spec::runtime as oci;
use serde::{Deserialize, Serialize};

use super::text;
use crate::error::{Error, Result};

/// Hooks by the runtime spec's names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hooks {
    /// Runtime namespace, at create.
    pub prestart: Vec<Hook>,
    /// Runtime namespace, at create, after `prestart`.
    pub create_runtime: Vec<Hook>,
    /// Container namespaces, host root file system, at create.
    pub create_container: Vec<Hook>,
    /// Container namespaces and root file system, at start.
    pub start_container: Vec<Hook>,
    /// Runtime namespace, after start.
    pub poststart: Vec<Hook>,
    /// Runtime namespace, after delete.
    pub poststop: Vec<Hook>,
}

/// One hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hook {
    /// Absolute path.
    pub path: String,
    /// argv, with argv[0]; empty: the path alone.
    pub args: Vec<String>,
    /// Environment; empty means empty.
    pub env: Vec<String>,
    /// Seconds until it is killed.
    pub timeout: Option<u64>,
}

/// Most hooks of one kind.
const MAX_HOOKS: usize = 256;

/// Most arguments or variables of one hook.
const MAX_STRINGS: usize = 65536;

impl Hooks {
    /// Checks `hooks`.
    pub(super) fn new(given: Option<&oci::Hooks>) -> Result<Hooks> {
        let Some(given) = given else {
            return Ok(Hooks::default());
        };
        Ok(Hooks {
            prestart: list("prestart", given.prestart())?,
            create_runtime: list("createRuntime", given.create_runtime())?,
            create_container: list("createContainer", given.create_container())?,
            start_container: list("startContainer", given.start_container())?,
            poststart: list("poststart", given.poststart())?,
            poststop: list("poststop", given.poststop())?,
        })
    }
}

fn list(kind: &str, given: &Option<Vec<oci::Hook>>) -> Result<Vec<Hook>> {
    let given = given.as_deref().unwrap_or_default();
    text::bounded(&format!("hooks.{kind}"), given, MAX_HOOKS)?;
    given
        .iter()
        .enumerate()
        .map(|(i, hook)| plan_one(&format!("hooks.{kind}[{i}]"), hook))
        .collect()
}

fn plan_one(field: &str, hook: &oci::Hook) -> Result<Hook> {
    let strings = |name: &str, given: &Option<Vec<String>>| -> Result<Vec<String>> {
        let given = given.as_deref().unwrap_or_default();
        text::bounded(&format!("{field}.{name}"), given, MAX_STRINGS)?;
        for (i, string) in given.iter().enumerate() {
            text::plain(&format!("{field}.{name}[{i}]"), string, text::ARG_MAX)?;
        }
        Ok(given.to_vec())
    };
    let env = strings("env", hook.env())?;
    if let Some((i, variable)) = env.iter().enumerate().find(|(_, v)| !v.contains('=')) {
        return Err(Error::invalid(
            format!("{field}.env[{i}]"),
            variable,
            "write it as NAME=VALUE",
        ));
    }
    let timeout = match hook.timeout() {
        None => None,
        Some(seconds) => Some(
            u64::try_from(seconds)
                .ok()
                .filter(|seconds| *seconds > 0)
                .ok_or_else(|| {
                    Error::invalid(
                        format!("{field}.timeout"),
                        seconds,
                        "give at least 1 second, or leave it out",
                    )
                })?,
        ),
    };
    Ok(Hook {
        path: text::absolute(&format!("{field}.path"), hook.path())?,
        args: strings("args", hook.args())?,
        env,
        timeout,
    })
}
