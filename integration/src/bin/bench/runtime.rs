//! What is compared.

use std::process::Command;

/// A shim and the runtime behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Runtime {
    /// Our shim.
    Ours,
    /// runc's shim with runc.
    Runc,
    /// runc's shim with crun.
    Crun,
}

impl Runtime {
    /// In the order of every array of three.
    pub(crate) const ALL: [Self; 3] = [Self::Ours, Self::Runc, Self::Crun];

    /// All, beginning with another one in each round: what a round does to its successor hits each runtime alike.
    pub(crate) fn round(number: usize) -> impl Iterator<Item = Self> {
        Self::ALL
            .into_iter()
            .cycle()
            .skip(number % Self::ALL.len())
            .take(Self::ALL.len())
    }

    /// Ours and runc, in turns first: crun refuses what dockerd writes where a controller is on cgroup v1.
    pub(crate) fn pair(number: usize) -> [Self; 2] {
        if number.is_multiple_of(2) {
            [Self::Ours, Self::Runc]
        } else {
            [Self::Runc, Self::Ours]
        }
    }

    /// Its place in an array of three.
    pub(crate) fn index(self) -> usize {
        match self {
            Self::Ours => 0,
            Self::Runc => 1,
            Self::Crun => 2,
        }
    }

    /// Its name in ids.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Runc => "runc",
            Self::Crun => "crun",
        }
    }

    /// The shim's command line up to its own flags.
    pub(crate) fn shim(self) -> Command {
        Command::new(match self {
            Self::Ours => "containerd-shim-sysbox-v2",
            Self::Runc | Self::Crun => "containerd-shim-runc-v2",
        })
    }

    /// The options of `ctr run` that choose it.
    pub(crate) fn ctr_options(self) -> &'static [&'static str] {
        match self {
            Self::Ours => &["--runtime", "io.containerd.sysbox.v2"],
            Self::Runc => &["--runtime", "io.containerd.runc.v2"],
            Self::Crun => &[
                "--runtime",
                "io.containerd.runc.v2",
                "--runc-binary",
                "crun",
            ],
        }
    }

    /// `binary_name`, field 6 of `containerd.runc.v1.Options`, where it is not the shim's default.
    pub(crate) fn create_options(self) -> Option<Vec<u8>> {
        (self == Self::Crun).then(|| [&[6 << 3 | 2, 4], b"crun".as_slice()].concat())
    }
}
