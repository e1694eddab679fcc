//! containerd's CRI plugin in a node: runtime handlers and the pods' network.

use std::fmt::Write as _;

use crate::image::Image;

/// A handler of ours by its own type; one by runc's type and our binary's path, which containerd before 2.2.7 and 2.3.4
/// asks for where pods have user namespaces; runc for comparison.
const HANDLERS: [(&str, &str, Option<&str>); 3] = [
    ("runc", "io.containerd.runc.v2", None),
    ("sysbox", "io.containerd.sysbox.v2", None),
    (
        "sysbox-path",
        "io.containerd.runc.v2",
        Some("/usr/local/bin/containerd-shim-sysbox-v2"),
    ),
];

/// Bridge with masquerading, then port maps: the usual pair of a small cluster.
pub(super) const NETWORK: &str = r#"{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [
    {
      "type": "bridge",
      "bridge": "cni0",
      "isGateway": true,
      "ipMasq": true,
      "hairpinMode": true,
      "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": "10.88.0.0/16"}], [{"subnet": "fd00:88::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
"#;

/// Where [`RUNC_SCRIPT`] is.
pub(super) const RUNC: &str = "/usr/local/bin/runc-without-weight";

/// runc, which refuses a pod's CPU weight and what the kubelet adds where the controllers are not on cgroup v2.
pub(super) const RUNC_SCRIPT: &str = r#"#!/bin/sh
if ! grep -qw cpu /sys/fs/cgroup/cgroup.controllers; then
    for word; do
        [ "$before" = --bundle ] && sed -i -E 's/"(shares|quota|period)":-?[0-9]*,?//g; s/,?"unified":\{[^}]*\}//' "$word/config.json"
        before=$word
    done
fi
exec runc "$@"
"#;

/// crictl's configuration: two seconds, its own patience, are too few on a busy machine.
pub(super) const CRICTL: &str = "runtime-endpoint: unix:///run/containerd/containerd.sock\nimage-endpoint: unix:///run/containerd/containerd.sock\ntimeout: 40\n";

/// The plugin's part of a configuration of version 2, which every containerd we know reads.
pub(super) fn configuration() -> String {
    let mut text = format!(
        "[plugins.\"io.containerd.grpc.v1.cri\"]\n\
         sandbox_image = \"{}\"\n\
         # Root may lack CAP_SYS_RESOURCE where tests run.\n\
         restrict_oom_score_adj = true\n\
         [plugins.\"io.containerd.grpc.v1.cri\".cni]\n\
         bin_dir = \"/usr/lib/cni\"\n",
        Image::Pause.reference()
    );
    for (name, kind, path) in HANDLERS {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.{name}]\n\
             runtime_type = \"{kind}\"\n"
        );
        if let Some(path) = path {
            let _ = writeln!(text, "runtime_path = \"{path}\"");
        }
        if name == "runc" {
            let _ = write!(
                text,
                "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]\n\
                 BinaryName = \"{RUNC}\"\n"
            );
        }
    }
    text
}
