//! `process.env`, and the `SYSBOX_*` variables in it that configure the container.

use super::text;
use crate::error::{Error, Result};

/// Most variables of a process: well above what execve(2) takes, so that the kernel's bound is the one met.
const MAX_VARIABLES: usize = 65536;

/// What `SYSBOX_*` variables of the container's environment ask for, as Sysbox defined them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sysbox {
    /// `SYSBOX_HONOR_CAPS=TRUE`: capabilities as the spec gives them ([`super::CapabilityRule::Spec`]).
    pub(super) honor_caps: bool,
    /// `SYSBOX_SKIP_UID_SHIFT=/a,/b`: paths inside whose mounts are not ID-mapped.
    pub(super) skip_uid_shift: Vec<String>,
}

/// Checks the variables: `NAME=VALUE` without NUL. Of several with one name the last counts, as with runc.
pub(super) fn checked(given: &[String]) -> Result<Vec<String>> {
    text::bounded("process.env", given, MAX_VARIABLES)?;
    let mut out: Vec<String> = Vec::with_capacity(given.len());
    let mut seen = std::collections::HashSet::new();
    for (i, variable) in given.iter().enumerate().rev() {
        let field = format!("process.env[{i}]");
        text::plain(&field, variable, text::ARG_MAX)?;
        match variable.split_once('=') {
            Some((name, _)) if !name.is_empty() => {
                if seen.insert(name) {
                    out.push(variable.clone());
                }
            }
            _ => {
                let shown = variable.escape_debug();
                return Err(Error::invalid(field, shown, "write it as NAME=VALUE"));
            }
        }
    }
    out.reverse();
    Ok(out)
}

/// Whether a variable configures the runtime.
pub(super) fn is_sysbox(variable: &str) -> bool {
    variable.starts_with("SYSBOX_")
}

impl Sysbox {
    /// Reads the `SYSBOX_*` variables of a container's environment. One that does not exist, has a bad value, or asks
    /// for what this runtime does otherwise is an error that names it.
    pub(super) fn from_env(env: &[String]) -> Result<Sysbox> {
        let mut asked = Sysbox::default();
        for variable in env.iter().filter(|v| is_sysbox(v)) {
            let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
            let field = format!("process.env.{name}");
            match name {
                "SYSBOX_HONOR_CAPS" => asked.honor_caps = boolean(&field, value)?,
                "SYSBOX_SKIP_UID_SHIFT" => asked.skip_uid_shift = paths(&field, value)?,
                "SYSBOX_SYSCONT_MODE" => {
                    if !boolean(&field, value)? {
                        return Err(Error::invalid(
                            field,
                            value,
                            "remove it, or use runc: this runtime makes system containers only",
                        ));
                    }
                }
                "SYSBOX_IGNORE_SYSFS_CHOWN" => {
                    if boolean(&field, value)? {
                        return Err(Error::invalid(
                            field,
                            value,
                            "remove it: chown on /sys is answered by the kernel here, not intercepted",
                        ));
                    }
                }
                "SYSBOX_ALLOW_TRUSTED_XATTR" => {
                    if boolean(&field, value)? {
                        return Err(Error::invalid(
                            field,
                            value,
                            "remove it: inner engines use user.overlay.* here, which the kernel allows",
                        ));
                    }
                }
                _ => {
                    return Err(Error::invalid(
                        "process.env",
                        variable,
                        "remove it or correct its name: SYSBOX_HONOR_CAPS, SYSBOX_SKIP_UID_SHIFT, \
                         SYSBOX_SYSCONT_MODE, SYSBOX_IGNORE_SYSFS_CHOWN, SYSBOX_ALLOW_TRUSTED_XATTR",
                    ));
                }
            }
        }
        Ok(asked)
    }
}

fn boolean(field: &str, value: &str) -> Result<bool> {
    match value {
        "TRUE" => Ok(true),
        "FALSE" => Ok(false),
        _ => Err(Error::invalid(field, value, "give TRUE or FALSE")),
    }
}

fn paths(field: &str, value: &str) -> Result<Vec<String>> {
    value
        .split(',')
        .map(|path| {
            if path.is_empty() || path.contains(char::is_whitespace) {
                return Err(Error::invalid(
                    field,
                    value,
                    "give absolute paths, separated by commas, without white space",
                ));
            }
            text::absolute(field, path.as_ref())
        })
        .collect()
}
