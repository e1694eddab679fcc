//! The one error type of the library.
//!
//! A variant exists only where a caller acts on it; the chain of sources is what a person reads, joined once by whoever
//! ends it ([`Error::chain`]). `Display` never repeats its source.

use std::io;

use serde::{Deserialize, Serialize};

/// Result of this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The user asked for something malformed or impossible: names the field, the value and the remedy.
    #[error("{field}: {value}: {remedy}")]
    Invalid {
        /// Field of the runtime spec, option or configuration, as the user wrote it (`linux.namespaces[2].path`).
        field: String,
        /// The offending value, shortened if long.
        value: String,
        /// What is wrong and what to do instead.
        remedy: String,
    },
    /// No such container, process or file.
    #[error("{0} not found")]
    NotFound(String),
    /// The name is taken.
    #[error("{0} already exists")]
    AlreadyExists(String),
    /// The container's state forbids the verb.
    #[error("cannot {verb}: {state}")]
    WrongState {
        /// What was asked (`start`).
        verb: &'static str,
        /// The state that forbids it (`the container is paused`).
        state: String,
    },
    /// This host (kernel, configuration) cannot do it.
    #[error("{feature} needs {needs}")]
    Unsupported {
        /// What was asked.
        feature: String,
        /// What the host lacks.
        needs: String,
    },
    /// A stage process failed; the step and its own chain came over the socket.
    #[error("{0}")]
    Stage(StageFailure),
    /// A system call or file operation failed.
    #[error("{op} {target}")]
    Os {
        /// Operation (`mount proc on`).
        op: &'static str,
        /// Path and data (`/proc/1/uid_map "0 1 2"`).
        target: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// A user's mistake: `field` as written, `value` given, `remedy` what to do.
    pub fn invalid(
        field: impl Into<String>,
        value: impl ToString,
        remedy: impl Into<String>,
    ) -> Self {
        let mut value = value.to_string();
        if value.len() > 200 {
            let cut = (0..=200)
                .rev()
                .find(|i| value.is_char_boundary(*i))
                .unwrap_or(0);
            value.truncate(cut);
            value.push('…');
        }
        Error::Invalid {
            field: field.into(),
            value,
            remedy: remedy.into(),
        }
    }

    /// Display of the error and all its sources, joined by `: `.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(source) = next {
            text.push_str(": ");
            text.push_str(&source.to_string());
            next = source.source();
        }
        text
    }

    /// The kernel's error number, where the error has one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Os { source, .. } => source.raw_os_error(),
            Error::Stage(failure) => failure.errno,
            _ => None,
        }
    }
}

/// What a stage process reports when a step fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{step}: {chain}")]
pub struct StageFailure {
    /// The named step that failed.
    pub step: String,
    /// The joined error chain.
    pub chain: String,
    /// The kernel's error number, where there is one.
    pub errno: Option<i32>,
}

/// Names the operation and its target on an I/O error.
pub trait OsContext<T> {
    /// Wraps the error as [`Error::Os`].
    fn os(self, op: &'static str, target: impl std::fmt::Display) -> Result<T>;
}

impl<T> OsContext<T> for io::Result<T> {
    fn os(self, op: &'static str, target: impl std::fmt::Display) -> Result<T> {
        self.map_err(|source| Error::Os {
            op,
            target: target.to_string(),
            source,
        })
    }
}

impl<T> OsContext<T> for rustix::io::Result<T> {
    fn os(self, op: &'static str, target: impl std::fmt::Display) -> Result<T> {
        self.map_err(|source| Error::Os {
            op,
            target: target.to_string(),
            source: source.into(),
        })
    }
}

impl<T> OsContext<T> for nix::Result<T> {
    fn os(self, op: &'static str, target: impl std::fmt::Display) -> Result<T> {
        self.map_err(|source| Error::Os {
            op,
            target: target.to_string(),
            source: source.into(),
        })
    }
}

/// A downgrade: the container runs, but not exactly as asked. The shim logs each as a warning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// Spec field or feature (`linux.resources.cpu.shares`).
    pub field: String,
    /// What was not done and why, and the remedy.
    pub text: String,
}

impl Warning {
    /// A warning about `field`.
    pub fn new(field: impl Into<String>, text: impl Into<String>) -> Self {
        Warning {
            field: field.into(),
            text: text.into(),
        }
    }
}
