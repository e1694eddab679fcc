//! The named steps of create, exec and delete: what an error names, and where a fault can be injected.

use serde::{Deserialize, Serialize};

macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)*) => {
        /// One named step.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Step { $($(#[$doc])* $name,)* }

        impl Step {
            /// All steps, in the order of the pipelines.
            pub const ALL: &'static [Step] = &[$(Step::$name,)*];

            /// The step's name as errors and the file `fail-at` spell it.
            pub fn name(self) -> &'static str {
                match self { $(Step::$name => $text,)* }
            }
        }
    };
}

steps! {
    /// Check the spec.
    Plan => "plan",
    /// Hand out an exclusive id range.
    Range => "range",
    /// Make the container's cgroup.
    Cgroup => "cgroup",
    /// Write the record that `delete` reads.
    Record => "record",
    /// Unmount a root file system that the engine has mounted.
    TakeRootfs => "take-rootfs",
    /// Start the stage process.
    Spawn => "spawn",
    /// Stage: private mount namespace.
    MountNs => "mount-ns",
    /// Stage: the first process of the user namespace, and its mappings.
    Userns => "userns",
    /// Maker: the other namespaces.
    Namespaces => "namespaces",
    /// Maker: container init.
    Init => "init",
    /// Stage: begin to move the host-owned network of the pod.
    Network => "network",
    /// Stage: limits of init (rlimits, oom_score_adj).
    Limits => "limits",
    /// Stage: the root file system.
    Rootfs => "rootfs",
    /// Stage: data roots beside the layer.
    DataRoots => "data-roots",
    /// Stage: enter namespaces that file systems are made from.
    EnterNs => "enter-ns",
    /// Stage: proc, sysfs and cgroup2.
    Proc => "proc",
    /// Stage: /dev.
    Dev => "dev",
    /// Stage: the spec's mounts.
    Mounts => "mounts",
    /// Stage: the network has moved.
    NetworkMoved => "network-moved",
    /// Stage: sysctls.
    Sysctl => "sysctl",
    /// Stage: masked and read-only paths.
    Masks => "masks",
    /// Put the new network in the place of the host's.
    NetworkPlace => "network-place",
    /// Give the host a view of a root file system that the engine had mounted.
    View => "view",
    /// createRuntime and createContainer hooks.
    Hooks => "hooks",
    /// Stage: pivot_root.
    Pivot => "pivot",
    /// Init and exec stage: the base filter of system calls.
    BaseFilter => "base-filter",
    /// Init: own mount namespace, which locks the mounts.
    Lock => "lock",
    /// Init: host name, terminal, working directory.
    Setup => "setup",
    /// Init: credentials, capabilities, seccomp.
    Security => "security",
    /// Init: exec of the user's program.
    Exec => "exec",
    /// Exec stage: join the container.
    Join => "join",
    /// Delete: kill what is left.
    Kill => "kill",
    /// Delete: put the engine's root file system back.
    GiveBackRootfs => "give-back-rootfs",
    /// Delete: swap data roots into the layer.
    Capture => "capture",
    /// Delete: remove the cgroup.
    RemoveCgroup => "remove-cgroup",
    /// Delete: give the id range back.
    ReleaseRange => "release-range",
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
