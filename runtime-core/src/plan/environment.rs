//! `process.env`, and the `SYSBOX_*` variables in it that configure the container.

use super::text;
use crate::config::OnVariables;
use crate::error::{Error, Result, Warning};

/// Most variables of a process: well above what execve(2) takes, so that the kernel's bound is the one met.
const MAX_VARIABLES: usize = 65536;

/// Most characters of the names that a warning lists: an image can bring many, and long ones.
const MAX_NAMED: usize = 256;

/// What `SYSBOX_*` variables of the container's environment ask for, as Sysbox defined them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sysbox {
    /// `SYSBOX_HONOR_CAPS=TRUE`: capabilities as the spec gives them ([`super::CapabilityRule::Spec`]).
    pub(super) honor_caps: bool,
    /// `SYSBOX_SKIP_UID_SHIFT=/a,/b`: paths inside whose mounts are not ID-mapped.
    pub(super) skip_uid_shift: Vec<String>,
    /// `SYSBOX_IGNORE_SYSFS_CHOWN=TRUE`: does nothing here.
    ignore_sysfs_chown: bool,
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
    /// Reads the `SYSBOX_*` variables of a container's environment, or not, as the configuration has it; a warning names
    /// those that have an effect, or lose theirs. One that does not exist, has a bad value, or asks for what this runtime
    /// does otherwise is an error that names it.
    pub(super) fn new(
        env: &[String],
        rule: OnVariables,
        warnings: &mut Vec<Warning>,
    ) -> Result<Sysbox> {
        let asked = match rule {
            OnVariables::Honor => Sysbox::from_env(env)?,
            OnVariables::Ignore => {
                warnings.extend(ignored(env));
                Sysbox::default()
            }
        };
        asked.warn(warnings);
        Ok(asked)
    }

    /// Says what was decided by whoever set the variables, the image's maker perhaps.
    fn warn(&self, warnings: &mut Vec<Warning>) {
        let mut honoured = |name: &str, what: &str| {
            warnings.push(Warning::new(
                format!("process.env.{name}"),
                format!(
                    "{what}; an image can set this variable, too: `environment = \"ignore\"` in the configuration makes it \
                     mean nothing"
                ),
            ));
        };
        if self.honor_caps {
            honoured(
                "SYSBOX_HONOR_CAPS",
                "the container has the capabilities of its spec and no more",
            );
        }
        if !self.skip_uid_shift.is_empty() {
            let paths = shown(self.skip_uid_shift.iter().map(String::as_str));
            honoured(
                "SYSBOX_SKIP_UID_SHIFT",
                &format!(
                    "mounts at {paths} are not ID-mapped, files of the host's users are nobody's there"
                ),
            );
        }
        if self.ignore_sysfs_chown {
            warnings.push(Warning::new(
                "process.env.SYSBOX_IGNORE_SYSFS_CHOWN",
                "no effect: chown on /sys is answered by the kernel here, not intercepted; remove it",
            ));
        }
    }

    fn from_env(env: &[String]) -> Result<Sysbox> {
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
                "SYSBOX_IGNORE_SYSFS_CHOWN" => asked.ignore_sysfs_chown = boolean(&field, value)?,
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

/// The warning that names variables which an administrator does not want to hold.
fn ignored(env: &[String]) -> Option<Warning> {
    let mut names = env
        .iter()
        .filter(|v| is_sysbox(v))
        .map(|v| v.split_once('=').map_or(v.as_str(), |(name, _)| name))
        .peekable();
    names.peek()?;
    Some(Warning::new(
        "process.env",
        format!(
            "{} left to the container and not heeded: the configuration says `environment = \"ignore\"`",
            shown(names)
        ),
    ))
}

/// What an image chose, for a log: bounded and without control characters.
fn shown<'a>(items: impl Iterator<Item = &'a str>) -> String {
    let listed = items.collect::<Vec<_>>().join(", ");
    let mut text: String = listed.chars().take(MAX_NAMED).collect();
    if text.len() < listed.len() {
        text.push('…');
    }
    text.escape_debug().to_string()
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
