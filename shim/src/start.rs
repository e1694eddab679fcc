//! `start`: finds or makes the shim of the container's group and prints its address. containerd waits for it at every
//! create, and reads stdout and stderr as one: a single stray byte is a broken address.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use runtime_core::OsContext;
use serde::Deserialize;

use crate::bootstrap::{self, Bootstrap};
use crate::error::{Error, Result};
use crate::flags::Flags;
use crate::socket::{self, Bound};

/// Annotations that put containers into one shim, the first one present wins (containerd `manager_linux.go`).
const GROUP_ANNOTATIONS: &[&str] = &[
    "io.containerd.runc.v2.group",
    "io.kubernetes.cri.sandbox-id",
];

/// Environment variable with containerd's ttrpc socket.
pub(crate) const TTRPC_ADDRESS: &str = "TTRPC_ADDRESS";

/// Environment variable of the server with `config_body` of the runtime options.
pub(crate) const CONFIG_BODY: &str = "SYSBOX_CONFIG_BODY";

/// containerd's own limit on what it sends.
const MAX_STDIN: u64 = 10 << 20;

/// Runs the command in the bundle, which is the working directory.
pub(crate) fn run(flags: &Flags) -> Result<()> {
    if flags.namespace.is_empty() || flags.id.is_empty() {
        return Err(Error::InvalidArgument(
            "start: -namespace and -id must be given, as containerd does".into(),
        ));
    }
    let mut stdin = Vec::new();
    io::stdin()
        .take(MAX_STDIN)
        .read_to_end(&mut stdin)
        .os("read", "stdin")?;
    let ttrpc_address = std::env::var(TTRPC_ADDRESS).unwrap_or_default();
    let bootstrap = Bootstrap::parse(flags, ttrpc_address, &stdin)?;
    let bundle = std::env::current_dir().os("getcwd", "")?;
    let group = match fs::read(bundle.join("config.json")) {
        Ok(json) => group(&json, &flags.id)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => flags.id.clone(),
        Err(e) => Err(e).os("read", bundle.join("config.json").display())?,
    };
    let path = socket::path(
        bootstrap.socket_dir.as_deref(),
        &bootstrap.grpc_address,
        &flags.namespace,
        &group,
    )?;
    if let Bound::New(listener) = socket::bind(&path)? {
        serve(flags, &bootstrap, &path, listener.into()).inspect_err(|_| {
            let _ = socket::remove(&path);
        })?;
    }
    let address = socket::address(&path);
    socket::write_address(&bundle, &address)?;
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(&bootstrap::reply(bootstrap.protocol, &address))
        .and_then(|()| stdout.flush())
        .os("write", "stdout")?;
    Ok(())
}

/// Spawns the server with the bound socket as its stdin: whoever connects from now on is in its backlog.
fn serve(flags: &Flags, bootstrap: &Bootstrap, path: &Path, listener: OwnedFd) -> Result<()> {
    let config = &bootstrap.options.config;
    // Here the user sees what is wrong with it; the server has no terminal.
    config.load()?;
    if let Some(cgroup) = &bootstrap.options.shim_cgroup {
        join_cgroup(cgroup)?;
    }
    raise_oom_score()?;
    let mut server = Command::new("/proc/self/exe");
    server
        .arg0(std::env::args_os().next().unwrap_or_default())
        .args(["-namespace", &flags.namespace, "-id", &flags.id])
        .args(["-address", &bootstrap.grpc_address])
        .arg("-socket")
        .arg(path);
    if let Some(path) = &config.path {
        server.arg("-config").arg(path);
    }
    if bootstrap.debug {
        server.arg("-debug");
    }
    server
        .arg("serve")
        .env(TTRPC_ADDRESS, &bootstrap.ttrpc_address)
        .env(CONFIG_BODY, &config.body)
        // One malloc arena: the threads that run verbs are few and short-lived.
        .env("MALLOC_ARENA_MAX", "1")
        .stdin(Stdio::from(listener))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .os("spawn", "/proc/self/exe serve")?;
    Ok(())
}

/// The group named by the annotations, else the container's own id.
fn group(config_json: &[u8], id: &str) -> Result<String> {
    #[derive(Deserialize)]
    struct Spec {
        annotations: Option<HashMap<String, String>>,
    }
    let spec: Spec = serde_json::from_slice(config_json)
        .map_err(|e| Error::InvalidArgument(format!("config.json: {e}")))?;
    let annotations = spec.annotations.unwrap_or_default();
    let named = GROUP_ANNOTATIONS
        .iter()
        .find_map(|key| annotations.get(*key));
    Ok(named.map_or(id, String::as_str).to_owned())
}

/// Moves this process, and so the server, into the cgroup of `containerd.runc.v1.Options.shim_cgroup`.
fn join_cgroup(cgroup: &str) -> Result<()> {
    let procs = Path::new("/sys/fs/cgroup")
        .join(cgroup.trim_start_matches('/'))
        .join("cgroup.procs");
    Ok(fs::write(&procs, "0").os("write \"0\" to", procs.display())?)
}

/// One more than containerd's, our parent's, so that the kernel takes the shim first (containerd `AdjustOOMScore`).
fn raise_oom_score() -> Result<()> {
    let Some(parent) = rustix::process::getppid() else {
        return Ok(()); // Our parent is in another pid namespace; there is nothing to compare with.
    };
    let file = format!(
        "/proc/{parent}/oom_score_adj",
        parent = parent.as_raw_nonzero()
    );
    let text = fs::read_to_string(&file).os("read", &file)?;
    let score: i32 = text.trim().parse().unwrap_or(0);
    let raised = (score + 1).min(1000).to_string();
    Ok(fs::write("/proc/self/oom_score_adj", &raised)
        .os("write", format_args!("/proc/self/oom_score_adj {raised:?}"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_of_a_pod_share_a_group() {
        for (json, expected) in [
            (r#"{"ociVersion":"1.2.0"}"#, "c1"),
            (r#"{"annotations":null}"#, "c1"),
            (r#"{"annotations":{"other":"x"}}"#, "c1"),
            (
                r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod"}}"#,
                "pod",
            ),
            (
                r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod","io.containerd.runc.v2.group":"g"}}"#,
                "g",
            ),
        ] {
            assert_eq!(group(json.as_bytes(), "c1").unwrap(), expected, "{json}");
        }
        assert!(group(b"{", "c1").is_err());
    }
}
