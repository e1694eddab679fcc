//! `[seccomp]`: what the base filter leaves out.

use serde::{Deserialize, Serialize};

/// `[seccomp]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    default,
    deny_unknown_fields,
    rename_all = "kebab-case",
    expecting = "a section [seccomp]"
)]
pub struct Seccomp {
    /// What containers may call although the base filter denies it.
    pub allow: Vec<Barred>,
}

/// An entry of the base filter. What each is and why it is there: the table in `docs/security.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Barred {
    /// Typing into terminals.
    TerminalInput,
    /// Sockets to the hypervisor.
    Vsock,
    /// Sockets of families that hardly anybody uses.
    RareSockets,
    /// io_uring.
    IoUring,
    /// Mounting beneath a mount.
    MountBeneath,
    /// A copy of a tree as a mount namespace.
    OpenTreeNamespace,
    /// Faults of the kernel handled in user mode.
    Userfaultfd,
    /// eBPF.
    Bpf,
    /// Opening files by their number.
    OpenByHandle,
    /// Another kernel.
    Kexec,
}

#[cfg(test)]
impl Barred {
    /// All of them.
    pub(crate) const ALL: [Barred; 10] = [
        Barred::TerminalInput,
        Barred::Vsock,
        Barred::RareSockets,
        Barred::IoUring,
        Barred::MountBeneath,
        Barred::OpenTreeNamespace,
        Barred::Userfaultfd,
        Barred::Bpf,
        Barred::OpenByHandle,
        Barred::Kexec,
    ];

    /// As the file spells it.
    pub(crate) fn name(self) -> String {
        toml::Value::try_from(self)
            .ok()
            .and_then(|value| value.as_str().map(str::to_owned))
            .unwrap_or_default()
    }
}
