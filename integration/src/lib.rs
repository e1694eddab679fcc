//! What the integration tests, the demo and the benches share.
//!
//! | module | idea |
//! |---|---|
//! | [`bed`] | what a case's body works with, a file for each client |
//! | [`host`] | what this machine must have, and how to say what it lacks |
//! | [`cache`] | artefacts built once, atomically, outside the tree |
//! | [`debian`] | root file systems from Debian packages |
//! | [`engines`] | engines and clients from their Go modules |
//! | [`gitlab`] | gitlab-ci-local from npm |
//! | [`dockerd`] | dockerd in a node |
//! | [`nerdctl`] | nerdctl in a node |
//! | [`booted`] | a host that systemd has booted, in a node |
//! | [`kubernetes`] | Debian's part of a cluster: etcd and kubectl |
//! | [`image`] | OCI images made of those, without a registry |
//! | [`node`] | a real containerd in private namespaces |
//! | [`kernel_log`] | what the kernel complained about |
//! | [`leak`] | what a test left behind |
//! | [`pool`] | nodes that tests borrow |
//! | [`shim_api`] | a shim driven through its ttrpc API |
//! | [`script`] | checks in the node, a line of shell each |
//! | [`suite`] | the frame of a suite of trials |
//! | [`terminal`] | a command with a terminal of its own |
//! | [`hostile`] | the probe's FUSE that does not answer |
//! | [`vm`] | a real host with a kernel of its own |
//! | [`process`] | commands with a deadline |
//!
//! Nothing here changes the host outside the cache directory, one cgroup per running node and the packages that
//! [`host::require_packages`] announces.

pub mod bed;
pub mod booted;
pub mod cache;
pub mod calls;
pub mod debian;
pub mod dockerd;
pub mod engines;
pub mod gitlab;
pub mod host;
pub mod hostile;
pub mod image;
pub mod kernel_log;
pub mod kubernetes;
pub mod leak;
pub mod nerdctl;
pub mod node;
pub mod pool;
pub mod process;
pub mod script;
pub mod shim_api;
pub mod suite;
pub mod terminal;
pub mod vm;
