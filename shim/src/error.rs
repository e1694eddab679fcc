//! The shim's error, and the one place where errors become ttrpc status codes. containerd and its clients act on the
//! codes (containerd `errdefs`), people on the text.

use ttrpc::Code;

/// Result of the shim.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// What a verb ended with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// From the runtime library.
    #[error("{}", .0.chain())]
    Core(#[from] runtime_core::Error),
    /// No such container or process, or it has exited.
    #[error("{0}")]
    NotFound(String),
    /// The name is taken.
    #[error("{0}")]
    AlreadyExists(String),
    /// Right in itself, but not now.
    #[error("{0}")]
    FailedPrecondition(String),
    /// The lifecycle forbids it. containerd's own shim answers Unknown.
    #[error("{0}")]
    Refused(String),
    /// A request that cannot be read.
    #[error("{0}")]
    InvalidArgument(String),
    /// A method we do not have.
    #[error("{0}")]
    Unimplemented(String),
    /// A handler panicked.
    #[error("{0}")]
    Internal(String),
}

impl Error {
    /// The gRPC code that containerd's `errdefs` knows the error by.
    pub(crate) fn code(&self) -> Code {
        use runtime_core::Error as Core;
        match self {
            Error::NotFound(_) | Error::Core(Core::NotFound(_)) => Code::NOT_FOUND,
            Error::AlreadyExists(_) | Error::Core(Core::AlreadyExists(_)) => Code::ALREADY_EXISTS,
            Error::FailedPrecondition(_) | Error::Core(Core::WrongState { .. }) => {
                Code::FAILED_PRECONDITION
            }
            Error::Refused(_) => Code::UNKNOWN,
            Error::InvalidArgument(_) | Error::Core(Core::Invalid { .. }) => Code::INVALID_ARGUMENT,
            Error::Unimplemented(_) | Error::Core(Core::Unsupported { .. }) => Code::UNIMPLEMENTED,
            Error::Internal(_) | Error::Core(Core::Stage(_) | Core::Os { .. }) => Code::INTERNAL,
        }
    }
}

impl From<Error> for ttrpc::Error {
    fn from(error: Error) -> Self {
        ttrpc::Error::RpcStatus(ttrpc::get_status(error.code(), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime_core::StageFailure;

    #[test]
    fn every_error_has_its_code() {
        use runtime_core::Error as Core;
        let text = || "x".to_string();
        let table = [
            (Error::NotFound(text()), Code::NOT_FOUND),
            (Error::AlreadyExists(text()), Code::ALREADY_EXISTS),
            (Error::FailedPrecondition(text()), Code::FAILED_PRECONDITION),
            (Error::Refused(text()), Code::UNKNOWN),
            (Error::InvalidArgument(text()), Code::INVALID_ARGUMENT),
            (Error::Unimplemented(text()), Code::UNIMPLEMENTED),
            (Error::Internal(text()), Code::INTERNAL),
            (Core::NotFound(text()).into(), Code::NOT_FOUND),
            (Core::AlreadyExists(text()).into(), Code::ALREADY_EXISTS),
            (Core::invalid("f", "v", "r").into(), Code::INVALID_ARGUMENT),
            (
                Core::WrongState {
                    verb: "start",
                    state: text(),
                }
                .into(),
                Code::FAILED_PRECONDITION,
            ),
            (
                Core::Unsupported {
                    feature: text(),
                    needs: text(),
                }
                .into(),
                Code::UNIMPLEMENTED,
            ),
            (
                Core::Stage(StageFailure {
                    step: "exec".into(),
                    chain: text(),
                    errno: Some(2),
                })
                .into(),
                Code::INTERNAL,
            ),
            (
                Core::Os {
                    op: "open",
                    target: text(),
                    source: std::io::Error::from_raw_os_error(2),
                }
                .into(),
                Code::INTERNAL,
            ),
        ];
        for (error, code) in table {
            let shown = format!("{error:?}");
            assert_eq!(error.code(), code, "{shown}");
            match ttrpc::Error::from(error) {
                ttrpc::Error::RpcStatus(status) => assert_eq!(status.code(), code, "{shown}"),
                other => panic!("{shown} became {other:?}"),
            }
        }
    }

    #[test]
    fn the_text_is_the_whole_chain() {
        // Docker turns "no such file or directory" into exit code 127 and "permission denied" into 126.
        let error = Error::from(runtime_core::Error::Os {
            op: "exec",
            target: "/bin/nosuch".into(),
            source: std::io::Error::from_raw_os_error(2),
        });
        assert_eq!(
            error.to_string(),
            "exec /bin/nosuch: No such file or directory (os error 2)"
        );
    }
}
