//! The only `unsafe` of the project: system calls that neither rustix nor nix offers in the form needed, behind safe
//! signatures (`AsFd` in, `OwnedFd` out).

pub(crate) mod bpf;
pub(crate) mod clone;
pub(crate) mod fd;
pub(crate) mod keys;
pub(crate) mod mount;
pub(crate) mod net;
pub(crate) mod ns;
pub(crate) mod process;
pub(crate) mod seccomp;
pub(crate) mod signal;
