//! A case and the kinds of pods that it meets.

use anyhow::{Result, ensure};
use integration::bed::cri::Kind;
pub(crate) use integration::bed::cri::{Bed, CONFIG};
use integration::bed::cri::{
    MIDDLE_USERS, NEW_PLAIN, NEW_RUNC, NEW_USERS, OLD_PATH, OLD_PLAIN, OLD_USERS, OLDEST_PLAIN,
    node,
};
use integration::image::Image;
use integration::pool::Lease;
use integration::suite;
use libtest_mimic::Trial;

/// What every runtime does for a pod.
pub(crate) const ANY: &[Kind] = &[OLD_PLAIN, OLD_USERS, NEW_PLAIN, NEW_USERS, NEW_RUNC];
/// What only a system container has.
pub(crate) const OURS: &[Kind] = &[OLD_PLAIN, OLD_USERS, MIDDLE_USERS, NEW_PLAIN, NEW_USERS];
/// What the oldest containerd is asked as well, where it is quick.
pub(crate) const ANY_AND_OLDEST: &[Kind] = &[
    OLDEST_PLAIN,
    OLD_PLAIN,
    OLD_USERS,
    NEW_PLAIN,
    NEW_USERS,
    NEW_RUNC,
];
/// The same for what only a system container has.
pub(crate) const OURS_AND_OLDEST: &[Kind] = &[
    OLDEST_PLAIN,
    OLD_PLAIN,
    OLD_USERS,
    MIDDLE_USERS,
    NEW_PLAIN,
    NEW_USERS,
];
/// Where one engine shows what is ours.
pub(crate) const NEWEST: &[Kind] = &[NEW_PLAIN, NEW_USERS];

/// Where critest runs: its pods do not say whether they want user namespaces.
pub(crate) const CRITEST: &[Kind] = &[OLD_PATH, NEW_PLAIN];
/// Where it runs through a proxy that says so.
pub(crate) const CRITEST_USERS: &[Kind] = &[OLD_USERS, NEW_USERS];

/// A test before it meets its kinds of pods.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    name: &'static str,
    kinds: &'static [Kind],
    body: fn(&Bed<'_>) -> Result<()>,
}

impl Case {
    pub(crate) const fn new(
        name: &'static str,
        kinds: &'static [Kind],
        body: fn(&Bed<'_>) -> Result<()>,
    ) -> Self {
        Self { name, kinds, body }
    }

    pub(crate) fn trials(&self) -> Vec<Trial> {
        let trial = |kind: &Kind| {
            let (case, kind) = (*self, *kind);
            Trial::ignorable_test(format!("{}::{}", kind.name, case.name), move || {
                suite::trial(|| case.run(kind))
            })
        };
        self.kinds.iter().map(trial).collect()
    }

    fn run(self, kind: Kind) -> Result<()> {
        let lease = Lease::of(&kind.made_as(), || node(kind, &[Image::Dind]))?;
        let bed = Bed::new(&lease, kind);
        (self.body)(&bed).map_err(|error| lease.explain(&error))?;
        lease.give_back()
    }
}

/// Both are the same, told so if not.
pub(crate) fn same(got: &str, wanted: &str) -> Result<()> {
    ensure!(got == wanted, "got  {got:?}\nwant {wanted:?}");
    Ok(())
}
