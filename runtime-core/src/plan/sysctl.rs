//! `linux.sysctl`: only what the kernel keeps per namespace, so that no value reaches the host.

use std::collections::BTreeMap;

use oci_spec::runtime as oci;

use super::text;
use crate::error::{Error, Result};

/// Most sysctls of a container.
const MAX_SYSCTLS: usize = 4096;

/// Keys of the IPC namespace below `kernel` (ipc/ipc_sysctl.c).
const IPC_KEYS: [&str; 12] = [
    "auto_msgmni",
    "msg_next_id",
    "msgmax",
    "msgmnb",
    "msgmni",
    "sem",
    "sem_next_id",
    "shm_next_id",
    "shm_rmid_forced",
    "shmall",
    "shmmax",
    "shmmni",
];

/// Checks `linux.sysctl`. `hostname` and `domainname` are those of the spec; a sysctl may name them where the spec does
/// not, and is then taken out of the result.
pub(super) fn plan_sysctls(
    linux: &oci::Linux,
    hostname: &mut Option<String>,
    domainname: &mut Option<String>,
) -> Result<BTreeMap<String, String>> {
    let mut out = BTreeMap::new();
    let Some(given) = linux.sysctl() else {
        return Ok(out);
    };
    if given.len() > MAX_SYSCTLS {
        return Err(Error::invalid(
            "linux.sysctl",
            format!("{} entries", given.len()),
            format!("give at most {MAX_SYSCTLS} entries"),
        ));
    }
    for (key, value) in given {
        let field = format!("linux.sysctl.{}", key.escape_debug());
        let components = components(key).ok_or_else(|| {
            Error::invalid(
                "linux.sysctl",
                key.escape_debug(),
                "write the key as in sysctl.conf(5), `net.ipv4.ip_forward`",
            )
        })?;
        text::line(&field, value, 4096)?;
        let words: Vec<&str> = components.iter().map(String::as_str).collect();
        match words[..] {
            ["kernel", "hostname"] => name(&field, value, hostname, "hostname")?,
            ["kernel", "domainname"] => name(&field, value, domainname, "domainname")?,
            ["net", _, ..] | ["fs", "mqueue", _] => {
                out.insert(key.clone(), value.clone());
            }
            ["kernel", key_of_ipc] if IPC_KEYS.contains(&key_of_ipc) => {
                out.insert(key.clone(), value.clone());
            }
            _ => {
                return Err(Error::invalid(
                    field,
                    value,
                    "remove it, and set it on the host if the host is to have it: this key belongs to no namespace \
                     of the container (net.*, fs.mqueue.*, kernel.msg*, kernel.sem*, kernel.shm* do)",
                ));
            }
        }
    }
    Ok(out)
}

/// The path of a sysctl below /proc/sys. Keys are those of a [`super::Plan`].
pub(crate) fn sysctl_path(key: &str) -> Option<String> {
    components(key).map(|components| components.join("/"))
}

/// The components of a key as sysctl(8) reads it: whichever of `.` and `/` comes first separates, the other one stands
/// for the separator inside a component (`net.ipv4.conf.eth0/1.forwarding`).
fn components(key: &str) -> Option<Vec<String>> {
    let separator = key.chars().find(|c| matches!(c, '.' | '/'))?;
    let components: Vec<String> = key
        .split(separator)
        .map(|component| match separator {
            '.' => component.replace('/', "."),
            _ => component.to_string(),
        })
        .collect();
    let sound = |c: &String| {
        !matches!(c.as_str(), "" | "." | "..")
            && c.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_-.:@".contains(&b))
    };
    (key.len() <= 255 && components.iter().all(sound)).then_some(components)
}

fn name(field: &str, value: &str, slot: &mut Option<String>, of: &str) -> Result<()> {
    match slot {
        Some(given) if given != value => Err(Error::invalid(
            field,
            value,
            format!("remove it, or let it agree with {of} of the spec ({given})"),
        )),
        _ => {
            *slot = Some(super::uts_name(field, value)?);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_paths_as_sysctl_reads_them() {
        for (key, path) in [
            ("net.ipv4.ip_forward", Some("net/ipv4/ip_forward")),
            ("net/ipv4/ip_forward", Some("net/ipv4/ip_forward")),
            (
                "net.ipv4.conf.eth0/1.forwarding",
                Some("net/ipv4/conf/eth0.1/forwarding"),
            ),
            (
                "net/ipv4/conf/eth0.1/forwarding",
                Some("net/ipv4/conf/eth0.1/forwarding"),
            ),
            ("net/../kernel/core_pattern", None),
            ("net.//.kernel", None),
            ("net..ipv4", None),
            ("/net/ipv4", None),
            ("net", None),
            ("net.ipv4.x\n", None),
        ] {
            assert_eq!(sysctl_path(key).as_deref(), path, "{key}");
        }
    }
}
