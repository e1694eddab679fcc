//! protobuf ⇄ our own types. The only file that names both.

use std::time::SystemTime;

use containerd_shim_protos::api::{CreateTaskRequest, Status};
use containerd_shim_protos::types::mount::Mount;
use oci_spec::runtime as oci;
use protobuf::MessageField;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::timestamp::Timestamp;
use runtime_core::RootfsMount;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::lifecycle::State;
use crate::stdio::Streams;

/// typeurl of `specs-go.Process`; its value is JSON.
const PROCESS_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// typeurl of `specs-go.LinuxResources`; its value is JSON.
const RESOURCES_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

/// A point in time; before 1970 is 1970.
pub(crate) fn timestamp(time: SystemTime) -> Timestamp {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp {
        seconds: since.as_secs().cast_signed(),
        nanos: since.subsec_nanos().cast_signed(),
        ..Timestamp::default()
    }
}

/// A point in time that may not have come yet; Go reads an absent one as its zero time.
pub(crate) fn timestamp_field(time: Option<SystemTime>) -> MessageField<Timestamp> {
    time.map(timestamp).into()
}

/// Standard streams of a create.
pub(crate) fn streams(request: &CreateTaskRequest) -> Streams {
    Streams {
        stdin: request.stdin.clone(),
        stdout: request.stdout.clone(),
        stderr: request.stderr.clone(),
        terminal: request.terminal,
    }
}

/// A mount of the root file system.
pub(crate) fn rootfs_mount(mount: &Mount) -> RootfsMount {
    RootfsMount {
        fs_type: mount.type_.clone(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        options: mount.options.clone(),
    }
}

/// The process of an exec request.
pub(crate) fn process(any: Option<&Any>) -> Result<oci::Process> {
    json(any, "spec", PROCESS_URL)
}

/// The limits of an update request.
pub(crate) fn resources(any: Option<&Any>) -> Result<oci::LinuxResources> {
    json(any, "resources", RESOURCES_URL)
}

/// JSON in an `Any`. Clients spell the type URL with and without the prefix; only the last two words matter.
fn json<T: DeserializeOwned>(any: Option<&Any>, field: &str, url: &str) -> Result<T> {
    let any =
        any.ok_or_else(|| Error::InvalidArgument(format!("{field}: not given; send {url}")))?;
    let tail = |url: &str| {
        let mut words = url.rsplit('/').take(2).map(str::to_owned);
        (words.next(), words.next())
    };
    if tail(&any.type_url) != tail(url) {
        return Err(Error::InvalidArgument(format!(
            "{field}: type {:?}: not known; send {url}",
            any.type_url
        )));
    }
    serde_json::from_slice(&any.value).map_err(|e| Error::InvalidArgument(format!("{field}: {e}")))
}

/// State as the API spells it; a deleted process is not shown.
pub(crate) fn status(state: State) -> Status {
    match state {
        State::Created => Status::CREATED,
        State::Running => Status::RUNNING,
        State::Paused => Status::PAUSED,
        State::Stopped => Status::STOPPED,
        State::Deleted => Status::UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn time_keeps_its_nanoseconds() {
        let time = SystemTime::UNIX_EPOCH + Duration::new(7, 9);
        let converted = timestamp(time);
        assert_eq!((converted.seconds, converted.nanos), (7, 9));
        assert!(timestamp_field(None).is_none());
    }

    #[test]
    fn a_process_is_json_of_the_right_type() {
        let any = |url: &str, json: &str| Any {
            type_url: url.into(),
            value: json.into(),
            ..Any::default()
        };
        let good = r#"{"cwd":"/","args":["true"],"user":{"uid":0,"gid":0}}"#;
        let process = process(Some(&any(PROCESS_URL, good))).unwrap();
        assert_eq!(process.args().as_deref(), Some(&["true".to_owned()][..]));
        for (bad, what) in [
            (Some(any("x/Process2", good)), "x/Process2"),
            (Some(any(PROCESS_URL, "{")), "spec"),
            (None, "not given"),
        ] {
            let error = super::process(bad.as_ref()).unwrap_err();
            assert_eq!(error.code(), ttrpc::Code::INVALID_ARGUMENT);
            assert!(error.to_string().contains(what), "{error}");
        }
    }
}
