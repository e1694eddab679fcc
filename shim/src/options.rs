//! Runtime options: what a client of containerd may send along with `start`, `-info` and Create, by type URL. Compared
//! before decoding, because field 3 means different things in the two messages we know.

use containerd_shim_protos::shim::oci;
use protobuf::well_known_types::any::Any;
use protobuf::{CodedInputStream, Message};
use runtime_core::Warning;

use crate::config::Source;
use crate::error::{Error, Result};

/// The options that mean something to us.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    /// `runtimeoptions.v1.Options.config_path` and `config_body`.
    pub(crate) config: Source,
    /// `containerd.runc.v1.Options.shim_cgroup`: cgroup for the shim, relative to the hierarchy's root.
    pub(crate) shim_cgroup: Option<String>,
    /// `containerd.runc.v1.Options.io_uid` and `io_gid`: owner of the process's pipes, if one was asked.
    pub(crate) io_owner: Option<(u32, u32)>,
    /// What was asked that has no effect here.
    pub(crate) warnings: Vec<Warning>,
}

impl Options {
    /// Decodes an `Any`; one without a type URL is no options at all.
    pub(crate) fn from_any(any: &Any) -> Result<Options> {
        match any.type_url.rsplit('/').next().unwrap_or_default() {
            "" => Ok(Options::default()),
            "containerd.runc.v1.Options" => Options::from_runc(&any.value),
            "runtimeoptions.v1.Options" => Options::from_runtimeoptions(&any.value),
            other => Err(Error::InvalidArgument(format!(
                "options: {other}: not known to this runtime; send containerd.runc.v1.Options, \
                 runtimeoptions.v1.Options, or none"
            ))),
        }
    }

    fn from_runc(bytes: &[u8]) -> Result<Options> {
        let options = oci::Options::parse_from_bytes(bytes)
            .map_err(|e| malformed("containerd.runc.v1.Options", &e))?;
        let warnings = [
            (
                "BinaryName",
                !options.binary_name.is_empty(),
                "no runc or crun runs here, the shim makes containers itself; name another runtime for the program",
            ),
            (
                "NoPivotRoot",
                options.no_pivot_root,
                "the root file system is always entered by pivot_root(2)",
            ),
            (
                "NoNewKeyring",
                options.no_new_keyring,
                "the container never has the session keyring of containerd",
            ),
        ]
        .into_iter()
        .filter(|(_, given, _)| *given)
        .map(|(field, _, why)| Warning::new(format!("options.{field}"), format!("no effect: {why}")))
        .collect();
        Ok(Options {
            warnings,
            config: Source::default(),
            shim_cgroup: Some(options.shim_cgroup).filter(|path| !path.is_empty()),
            // Zero is both "not set" and root; either way the library's own choice of owner is right.
            io_owner: (options.io_uid != 0 || options.io_gid != 0)
                .then_some((options.io_uid, options.io_gid)),
        })
    }

    /// containerd `api/types/runtimeoptions/v1/api.proto`: type_url = 1, config_path = 2, config_body = 3. Not in
    /// the crate of containerd's messages.
    fn from_runtimeoptions(bytes: &[u8]) -> Result<Options> {
        const CONFIG_PATH: u32 = (2 << 3) | 2;
        const CONFIG_BODY: u32 = (3 << 3) | 2;
        let decode = || -> protobuf::Result<Source> {
            let mut input = CodedInputStream::from_bytes(bytes);
            let mut config = Source::default();
            while let Some(tag) = input.read_raw_tag_or_eof()? {
                match tag {
                    CONFIG_PATH => config.path = Some(input.read_string()?.into()),
                    CONFIG_BODY => config.body = input.read_string()?,
                    other => protobuf::rt::skip_field_for_tag(other, &mut input)?,
                }
            }
            config.path = config.path.filter(|path| !path.as_os_str().is_empty());
            Ok(config)
        };
        Ok(Options {
            config: decode().map_err(|e| malformed("runtimeoptions.v1.Options", &e))?,
            ..Options::default()
        })
    }
}

fn malformed(name: &str, error: &protobuf::Error) -> Error {
    Error::InvalidArgument(format!("options: {name}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(type_url: &str, value: Vec<u8>) -> Any {
        Any {
            type_url: type_url.into(),
            value,
            ..Any::default()
        }
    }

    #[test]
    fn none_is_default() {
        assert_eq!(Options::from_any(&Any::new()).unwrap(), Options::default());
    }

    #[test]
    fn runc_options() {
        let message = oci::Options {
            shim_cgroup: "/shims".into(),
            io_uid: 100_000,
            io_gid: 100_001,
            binary_name: "crun".into(),
            ..oci::Options::default()
        };
        let bytes = message.write_to_bytes().unwrap();
        for url in [
            "containerd.runc.v1.Options",
            "type.googleapis.com/containerd.runc.v1.Options",
        ] {
            let mut options = Options::from_any(&any(url, bytes.clone())).unwrap();
            let fields: Vec<_> = options.warnings.drain(..).map(|w| w.field).collect();
            assert_eq!(fields, ["options.BinaryName"]);
            assert_eq!(
                options,
                Options {
                    shim_cgroup: Some("/shims".into()),
                    io_owner: Some((100_000, 100_001)),
                    ..Options::default()
                }
            );
        }
        let empty = any("containerd.runc.v1.Options", vec![]);
        assert_eq!(Options::from_any(&empty).unwrap(), Options::default());
    }

    #[test]
    fn runtimeoptions() {
        // type_url "t", config_path "/etc/x", config_body "a=1", and a field of the future (9, varint).
        let bytes = b"\x0a\x01t\x12\x06/etc/x\x1a\x03a=1\x48\x01".to_vec();
        let config = Source {
            path: Some("/etc/x".into()),
            body: "a=1".into(),
        };
        assert_eq!(
            Options::from_any(&any("runtimeoptions.v1.Options", bytes)).unwrap(),
            Options {
                config,
                ..Options::default()
            },
            "field 3 is no cgroup here"
        );
        let empty = any("runtimeoptions.v1.Options", b"\x12\x00".to_vec());
        assert_eq!(Options::from_any(&empty).unwrap(), Options::default());
    }

    #[test]
    fn what_is_unknown_or_broken_is_named() {
        let error = Options::from_any(&any("io.example.Options", vec![])).unwrap_err();
        assert!(error.to_string().contains("io.example.Options"), "{error}");
        for url in ["containerd.runc.v1.Options", "runtimeoptions.v1.Options"] {
            let error = Options::from_any(&any(url, vec![0x0a])).unwrap_err();
            assert!(error.to_string().contains(url), "{error}");
            assert_eq!(error.code(), ttrpc::Code::INVALID_ARGUMENT);
        }
    }
}
