//! The two protocols by which containerd starts a shim (containerd `docs/runtime-v2.md`, `pkg/shim/compat.go`).
//!
//! Up to containerd 2.2: flags, environment, and an optional `Any` of runtime options on stdin; the reply is the plain
//! address, which every release since 1.6 reads as "task API version 2". From 2.3: `BootstrapParams` on stdin, and
//! `BootstrapResult`, where we announce version 3.

use containerd_shim_protos::TASK_API_VERSION;
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult, LogLevel};
use protobuf::Message;
use protobuf::well_known_types::any::Any;

use crate::error::{Error, Result};
use crate::flags::Flags;
use crate::options::Options;

/// Which protocol containerd spoke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Flags; plain address.
    Flags,
    /// `BootstrapParams`; `BootstrapResult`.
    Params,
}

/// What `start` was told.
#[derive(Debug)]
pub(crate) struct Bootstrap {
    /// How to reply.
    pub(crate) protocol: Protocol,
    /// containerd's ttrpc socket, for events; empty if not told.
    pub(crate) ttrpc_address: String,
    /// containerd's gRPC socket.
    pub(crate) grpc_address: String,
    /// Log more.
    pub(crate) debug: bool,
    /// Directory for the socket, if not the default.
    pub(crate) socket_dir: Option<String>,
    /// Runtime options.
    pub(crate) options: Options,
}

impl Bootstrap {
    /// From the command line, `TTRPC_ADDRESS` and stdin.
    ///
    /// A legacy `Any` parses as `BootstrapParams`, too (both begin with a string field); only the identity tells
    /// them apart.
    pub(crate) fn parse(flags: &Flags, ttrpc_address: String, stdin: &[u8]) -> Result<Bootstrap> {
        if let Ok(params) = BootstrapParams::parse_from_bytes(stdin)
            && !stdin.is_empty()
            && params.instance_id == flags.id
            && params.namespace == flags.namespace
        {
            return Bootstrap::from_params(flags, ttrpc_address, params);
        }
        let any = Any::parse_from_bytes(stdin)
            .map_err(|e| Error::InvalidArgument(format!("options on stdin: {e}")))?;
        Ok(Bootstrap {
            protocol: Protocol::Flags,
            ttrpc_address,
            grpc_address: flags.address.clone(),
            debug: flags.debug,
            socket_dir: None,
            options: Options::from_any(&any)?,
        })
    }

    fn from_params(
        flags: &Flags,
        ttrpc_address: String,
        params: BootstrapParams,
    ) -> Result<Bootstrap> {
        let or = |given: String, fallback: &str| {
            if given.is_empty() {
                fallback.to_owned()
            } else {
                given
            }
        };
        let options = params
            .extensions
            .iter()
            .filter_map(|extension| extension.value.as_ref())
            .find(|any| any.type_url.ends_with("Options"))
            .map_or(Ok(Options::default()), Options::from_any)?;
        Ok(Bootstrap {
            protocol: Protocol::Params,
            ttrpc_address: or(params.containerd_ttrpc_address, &ttrpc_address),
            grpc_address: or(params.containerd_grpc_address, &flags.address),
            debug: flags.debug || params.log_level.value() <= LogLevel::LOG_LEVEL_DEBUG as i32,
            socket_dir: params.socket_dir.filter(|dir| !dir.is_empty()),
            options,
        })
    }
}

/// The bytes that `start` writes to stdout.
pub(crate) fn reply(protocol: Protocol, address: &str) -> Vec<u8> {
    match protocol {
        Protocol::Flags => address.as_bytes().to_vec(),
        Protocol::Params => {
            let result = BootstrapResult {
                version: TASK_API_VERSION,
                address: address.into(),
                protocol: "ttrpc".into(),
                ..BootstrapResult::default()
            };
            // Encoding into memory fails only beyond 2 GiB.
            result.write_to_bytes().unwrap_or_default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use containerd_shim_protos::bootstrap_api::Extension;
    use containerd_shim_protos::shim::oci;
    use protobuf::{EnumOrUnknown, MessageField};

    fn flags() -> Flags {
        Flags {
            namespace: "ns".into(),
            id: "c1".into(),
            address: "/grpc".into(),
            ..Flags::default()
        }
    }

    fn runc_any() -> Any {
        let options = oci::Options {
            shim_cgroup: "/x".into(),
            ..oci::Options::default()
        };
        Any {
            type_url: "containerd.runc.v1.Options".into(),
            value: options.write_to_bytes().unwrap(),
            ..Any::default()
        }
    }

    #[test]
    fn flags_without_stdin() {
        let b = Bootstrap::parse(&flags(), "/ttrpc".into(), b"").unwrap();
        assert_eq!(b.protocol, Protocol::Flags);
        assert_eq!(
            (b.ttrpc_address.as_str(), b.grpc_address.as_str()),
            ("/ttrpc", "/grpc")
        );
        assert_eq!(b.options, Options::default());
    }

    #[test]
    fn a_legacy_any_is_not_taken_for_params() {
        let stdin = runc_any().write_to_bytes().unwrap();
        assert!(
            BootstrapParams::parse_from_bytes(&stdin).is_ok(),
            "the ambiguity exists"
        );
        let b = Bootstrap::parse(&flags(), String::new(), &stdin).unwrap();
        assert_eq!(b.protocol, Protocol::Flags);
        assert_eq!(b.options.shim_cgroup.as_deref(), Some("/x"));
    }

    #[test]
    fn params_win_over_flags() {
        let params = BootstrapParams {
            instance_id: "c1".into(),
            namespace: "ns".into(),
            log_level: EnumOrUnknown::new(LogLevel::LOG_LEVEL_TRACE),
            containerd_ttrpc_address: "/other.ttrpc".into(),
            extensions: vec![Extension {
                value: MessageField::some(runc_any()),
                ..Extension::default()
            }],
            socket_dir: Some("/run/s".into()),
            ..BootstrapParams::default()
        };
        let stdin = params.write_to_bytes().unwrap();
        let b = Bootstrap::parse(&flags(), "/ttrpc".into(), &stdin).unwrap();
        assert_eq!(b.protocol, Protocol::Params);
        assert_eq!(
            (b.ttrpc_address.as_str(), b.grpc_address.as_str()),
            ("/other.ttrpc", "/grpc")
        );
        assert!(b.debug);
        assert_eq!(b.socket_dir.as_deref(), Some("/run/s"));
        assert_eq!(b.options.shim_cgroup.as_deref(), Some("/x"));
    }

    #[test]
    fn garbage_on_stdin_is_refused() {
        let error = Bootstrap::parse(&flags(), String::new(), b"\xff\xff").unwrap_err();
        assert_eq!(error.code(), ttrpc::Code::INVALID_ARGUMENT);
    }

    #[test]
    fn replies() {
        assert_eq!(reply(Protocol::Flags, "unix:///s"), b"unix:///s");
        let result =
            BootstrapResult::parse_from_bytes(&reply(Protocol::Params, "unix:///s")).unwrap();
        assert_eq!(
            (
                result.version,
                result.address.as_str(),
                result.protocol.as_str()
            ),
            (3, "unix:///s", "ttrpc")
        );
    }
}
