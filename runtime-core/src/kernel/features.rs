//! Features of the kernel that are used where they are there (design D15): since when, what is done without, what that costs.
//!
//! Each is looked for once, by trying the very thing on file systems made for it, before a container is made; what was found
//! holds for the container's life. No error in the midst of work decides. A configuration may say that one is missing
//! (`pretend-missing`): so the other way is tested on a kernel that has it, and an operator can take it.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::io::{Errno, Result};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_fd,
    fsconfig_set_string, fsmount, fsopen, open_tree,
};
use serde::{Deserialize, Serialize};

macro_rules! features {
    ($($(#[$doc:meta])* $feature:ident { $name:literal, since: $since:literal, without: $without:literal, costs: $costs:literal })*) => {
        /// One of them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Feature { $($(#[$doc])* $feature,)* }

        impl Feature {
            /// All of them, oldest first.
            pub const ALL: &'static [Feature] = &[$(Feature::$feature,)*];

            /// What is known of it.
            pub fn facts(self) -> Facts {
                match self {
                    $(Feature::$feature => Facts { name: $name, since: $since, without: $without, costs: $costs },)*
                }
            }
        }
    };
}

features! {
    /// fusectl, by which FUSE connections are aborted (fs/fuse/control.c).
    FuseControl {
        "fuse-control",
        since: "2.6.18",
        without: "FUSE connections of a container that does not die stay",
        costs: "a container of which a process waits for ever in a FUSE file system of its own cannot be killed"
    }
    /// fsconfig(2) takes overlayfs's lower layers one by one (`lowerdir+`, fs/overlayfs/params.c).
    OverlayAppend {
        "overlay-append",
        since: "6.7",
        without: "an overlay that dockerd had mounted is put back by mount(2)",
        costs: "a container of dockerd's is refused if the paths of its layers are together longer than a page"
    }
    /// overlayfs takes layers as O_PATH descriptors (FSCONFIG_SET_FD).
    OverlayDescriptors {
        "overlay-descriptors",
        since: "6.13",
        without: "layers are named by way of /proc/self/fd and mounted by mount(2)",
        costs: "an image of more than about 200 layers is refused"
    }
    /// open_tree(2) copies a mount that is in no mount namespace (fs/namespace.c, may_copy_tree()).
    CloneDetached {
        "clone-detached",
        since: "6.15",
        without: "ID-mapped copies of the layers' mounts, below which data roots are copied, are attached below the root file system",
        costs: "a mount or two more while a container is made"
    }
    /// overlayfs takes layers on mounts that are in no mount namespace (fs/namespace.c, clone_private_mount()).
    OverlayDetached {
        "overlay-detached",
        since: "6.15",
        without: "ID-mapped copies of the layers' mounts are attached below the root file system while it is mounted",
        costs: "a mount or two more while a container is made"
    }
    /// procfs is told its pid namespace (`pidns=`, fs/proc/root.c).
    ProcPidns {
        "proc-pidns",
        since: "6.18",
        without: "processes inside the pid namespace open it",
        costs: "two short-lived processes for each procfs, some milliseconds for each container"
    }
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// As `pretend-missing` and `check` spell it.
    pub name: &'static str,
    /// First release of Linux that has it.
    pub since: &'static str,
    /// What is done where it is missing.
    pub without: &'static str,
    /// What that costs.
    pub costs: &'static str,
}

/// What was found of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// It works.
    There,
    /// It does not: the error is the kernel's.
    Missing(Errno),
    /// The configuration says so.
    Pretended,
}

/// What this kernel has of them. By default all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Features {
    missing: Vec<Feature>,
    pretended: Vec<Feature>,
}

impl Features {
    /// Looks for each of them but those that are `pretended` to be missing. Takes some 0.2 ms, as root.
    pub(crate) fn probe(pretended: &[Feature]) -> Features {
        let missing = look_for_features(pretended)
            .into_iter()
            .filter(|(_, found)| *found != Found::There)
            .map(|(feature, _)| feature);
        Features {
            missing: missing.collect(),
            pretended: pretended.to_vec(),
        }
    }

    /// Whether the kernel has `feature`.
    pub(crate) fn has(&self, feature: Feature) -> bool {
        !self.missing.contains(&feature)
    }

    /// Whether the kernel may have `feature`, which we are to do without.
    pub(crate) fn pretend_without(&self, feature: Feature) -> bool {
        self.pretended.contains(&feature)
    }
}

/// Looks for each of them but those that are `pretended` to be missing, by trying it; nothing is left behind. Without
/// privilege all are missing, by EPERM.
pub fn look_for_features(pretended: &[Feature]) -> Vec<(Feature, Found)> {
    let scratch = Scratch::new();
    let look = |feature: &Feature| {
        if pretended.contains(feature) {
            return Found::Pretended;
        }
        let has = scratch
            .as_ref()
            .map_or_else(|errno| Err(*errno), |scratch| scratch.has(*feature));
        has.map_or_else(Found::Missing, |()| Found::There)
    };
    Feature::ALL
        .iter()
        .map(|feature| (*feature, look(feature)))
        .collect()
}

/// A detached tmpfs with two directories.
struct Scratch {
    tree: OwnedFd,
    dirs: [OwnedFd; 2],
}

impl Scratch {
    fn new() -> Result<Scratch> {
        let context = open_fs("tmpfs")?;
        fsconfig_create(&context)?;
        let tree = fsmount(
            &context,
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::empty(),
        )?;
        let dir = |name: &str| {
            mkdirat(&tree, name, Mode::from_raw_mode(0o755))?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            openat(&tree, name, flags, Mode::empty())
        };
        let dirs = [dir("a")?, dir("b")?];
        Ok(Scratch { tree, dirs })
    }

    fn has(&self, feature: Feature) -> Result<()> {
        match feature {
            Feature::FuseControl => fsconfig_create(open_fs("fusectl")?),
            Feature::OverlayAppend => self.overlay_append(),
            Feature::OverlayDescriptors => self.overlay_descriptors(),
            Feature::CloneDetached => self.clone_detached(),
            Feature::OverlayDetached => self.overlay_detached(),
            Feature::ProcPidns => proc_pidns(),
        }
    }

    fn overlay_append(&self) -> Result<()> {
        let context = open_fs("overlay")?;
        // Before 6.5 a context of overlayfs takes every word, and says at the end that it does not know it.
        if fsconfig_set_string(&context, "no-such-option", "").is_ok() {
            return Err(Errno::INVAL);
        }
        fsconfig_set_string(&context, "lowerdir+", name(&self.dirs[0]))
    }

    fn overlay_descriptors(&self) -> Result<()> {
        fsconfig_set_fd(open_fs("overlay")?, "lowerdir+", &self.dirs[0])
    }

    fn clone_detached(&self) -> Result<()> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH;
        open_tree(&self.tree, "", flags).map(drop)
    }

    fn overlay_detached(&self) -> Result<()> {
        // It came together with this; overlayfs would complain in the kernel's log.
        self.clone_detached()?;
        let context = open_fs("overlay")?;
        let [a, b] = &self.dirs;
        fsconfig_set_string(&context, "lowerdir", format!("{}:{}", name(a), name(b)))?;
        fsconfig_create(&context)
    }
}

fn proc_pidns() -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let ours = openat(CWD, "/proc/self/ns/pid", flags, Mode::empty())?;
    fsconfig_set_fd(open_fs("proc")?, "pidns", ours)
}

/// A context for file system `kind`; loads its module.
fn open_fs(kind: &str) -> Result<OwnedFd> {
    fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)
}

fn name(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_spells_names_as_the_configuration_does() {
        for feature in Feature::ALL {
            let spelt = serde_json::to_value(feature).unwrap();
            assert_eq!(spelt, feature.facts().name);
        }
    }

    #[test]
    fn what_is_pretended_is_not_looked_for() {
        let found = look_for_features(Feature::ALL);
        assert!(found.iter().all(|(_, found)| *found == Found::Pretended));
        let features = Features::probe(Feature::ALL);
        assert!(Feature::ALL.iter().all(|feature| !features.has(*feature)));
        assert!(Features::default().has(Feature::ProcPidns));
    }
}
