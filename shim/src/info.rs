//! `-info`: what this runtime can do, in the runtime spec's terms (runtime-spec `features.md`). Kubernetes gives a pod
//! `hostUsers: false` only where this says that user namespaces and ID-mapped mounts work.

use std::io::{self, Read, Write};

use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};
use runtime_core::{OsContext, systemd_booted};
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::options::Options;

/// The runtime's type.
pub(crate) const RUNTIME_NAME: &str = "io.containerd.sysbox.v2";

/// typeurl of `specs-go/features.Features`; its value is JSON.
const FEATURES_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// Reads an `Any` of options from stdin (often empty) and prints a `RuntimeInfo`.
pub(crate) fn run() -> Result<()> {
    let mut stdin = Vec::new();
    io::stdin().read_to_end(&mut stdin).os("read", "stdin")?;
    let info = runtime_info(&stdin)?;
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(&info.write_to_bytes().unwrap_or_default())
        .and_then(|()| stdout.flush())
        .os("write", "stdout")?;
    Ok(())
}

fn runtime_info(stdin: &[u8]) -> Result<RuntimeInfo> {
    let options = Any::parse_from_bytes(stdin)
        .map_err(|e| Error::InvalidArgument(format!("options on stdin: {e}")))?;
    Options::from_any(&options)?;
    let mut info = RuntimeInfo {
        name: RUNTIME_NAME.into(),
        version: MessageField::some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").into(),
            ..RuntimeVersion::default()
        }),
        features: MessageField::some(Any {
            type_url: FEATURES_URL.into(),
            value: features().to_string().into_bytes(),
            ..Any::default()
        }),
        ..RuntimeInfo::default()
    };
    if !options.type_url.is_empty() {
        info.options = MessageField::some(options);
    }
    Ok(info)
}

/// systemd's form of a cgroup's path is a scope only where systemd is there; elsewhere it is a directory like another.
fn features() -> Value {
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.2.1",
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": [
            "async", "atime", "bind", "defaults", "dev", "diratime", "dirsync", "exec", "idmap", "iversion",
            "lazytime", "loud", "noatime", "nodev", "nodiratime", "noexec", "noiversion", "nolazytime",
            "norelatime", "nostrictatime", "nosuid", "nosymfollow", "private", "ratime", "rbind", "rdev",
            "rdiratime", "relatime", "rexec", "ridmap", "rnoatime", "rnodev", "rnodiratime", "rnoexec",
            "rnorelatime", "rnostrictatime", "rnosuid", "rnosymfollow", "ro", "rprivate", "rrelatime", "rro",
            "rrw", "rshared", "rslave", "rstrictatime", "rsuid", "rsymfollow", "runbindable", "rw", "shared",
            "silent", "slave", "strictatime", "suid", "symfollow", "sync", "tmpcopyup", "unbindable"
        ],
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "cgroup": {"v1": false, "v2": true, "systemd": systemd_booted(), "systemdUser": false, "rdma": true},
            "seccomp": {
                "enabled": true,
                "actions": [
                    "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
                    "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP"
                ],
                "operators": [
                    "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT",
                    "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"
                ]
            },
            "apparmor": {"enabled": false},
            "selinux": {"enabled": false},
            "intelRdt": {"enabled": false},
            "mountExtensions": {"idmap": {"enabled": true}},
            "netDevices": {"enabled": false}
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_containerd_and_the_kubelet_look_for() {
        let info =
            RuntimeInfo::parse_from_bytes(&runtime_info(b"").unwrap().write_to_bytes().unwrap())
                .unwrap();
        assert_eq!(info.name, "io.containerd.sysbox.v2");
        assert!(info.options.is_none());
        let features = info.features.unwrap();
        assert_eq!(features.type_url, FEATURES_URL);
        let json: Value = serde_json::from_slice(&features.value).unwrap();
        let list = |pointer: &str| json.pointer(pointer).unwrap().as_array().unwrap().clone();
        // containerd internal/cri/server: UserNamespaces, RecursiveReadOnlyMounts.
        assert!(list("/linux/namespaces").contains(&"user".into()));
        assert!(list("/mountOptions").contains(&"rro".into()));
        assert_eq!(
            json.pointer("/linux/mountExtensions/idmap/enabled"),
            Some(&true.into())
        );
        // The runtime spec's own types accept it.
        serde_json::from_value::<oci_spec::runtime::Features>(json).unwrap();
    }

    #[test]
    fn options_are_echoed_and_checked() {
        let any = Any {
            type_url: "containerd.runc.v1.Options".into(),
            ..Any::default()
        };
        let info = runtime_info(&any.write_to_bytes().unwrap()).unwrap();
        assert_eq!(info.options.unwrap().type_url, any.type_url);
        let unknown = Any {
            type_url: "x.Options".into(),
            ..Any::default()
        };
        assert!(runtime_info(&unknown.write_to_bytes().unwrap()).is_err());
    }
}
