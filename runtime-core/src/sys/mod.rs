//! The only `unsafe` of the library: system calls that no kept crate offers, behind safe signatures.

pub(crate) mod bpf;
