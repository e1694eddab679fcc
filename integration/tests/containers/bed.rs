//! A case and the matrix it runs in.

use anyhow::Result;
pub(crate) use integration::bed::ctr::{Bed, Container, Runtime};
use integration::debian::Release;
use integration::engines::Engine;
use integration::image::Image;
pub(crate) use integration::node::LINGER;
use integration::node::Node;
use integration::pool::Lease;
use integration::suite;
use libtest_mimic::Trial;

/// Runtimes for a case that any OCI runtime passes.
pub(crate) const ANY: &[Runtime] = &[Runtime::Runc, Runtime::Sysbox];
/// Runtimes for a case about what only a system container has.
pub(crate) const OURS: &[Runtime] = &[Runtime::Sysbox];

/// A test before it meets engine and runtime.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) runtimes: &'static [Runtime],
    pub(crate) body: fn(&Bed<'_>) -> Result<()>,
    pub(crate) releases: &'static [Release],
    newer: bool,
}

/// containerds that no release has yet.
const NEWER: [Engine; 2] = [Engine::Containerd23, Engine::Containerd24];

impl Case {
    pub(crate) const fn new(
        name: &'static str,
        runtimes: &'static [Runtime],
        body: fn(&Bed<'_>) -> Result<()>,
    ) -> Self {
        Self {
            name,
            runtimes,
            body,
            releases: &Release::ALL,
            newer: false,
        }
    }

    /// The same on one engine only.
    pub(crate) const fn only(mut self, releases: &'static [Release]) -> Self {
        self.releases = releases;
        self
    }

    /// Ours on the newer containerds, too: for what a containerd may do in another way.
    pub(crate) const fn newer(mut self) -> Self {
        self.newer = true;
        self
    }

    /// One trial for each engine and runtime.
    pub(crate) fn trials(&self) -> Vec<Trial> {
        let matrix = self.releases.iter().copied().flat_map(|release| {
            self.runtimes
                .iter()
                .map(move |runtime| (release, None, *runtime))
        });
        let newer = NEWER.into_iter().filter(|_| self.newer);
        matrix
            .chain(newer.map(|engine| (Release::Sid, Some(engine), Runtime::Sysbox)))
            .map(|(release, engine, runtime)| {
                let case = *self;
                let on = engine.map_or(release.suite(), Engine::name);
                let name = format!("{on}::{}::{}", runtime.name(), case.name);
                Trial::ignorable_test(name, move || {
                    let body = || case.run(release, engine, runtime);
                    match runtime {
                        Runtime::Sysbox => suite::trial(body),
                        Runtime::Runc => suite::trial_of_another(body),
                    }
                })
            })
            .collect()
    }

    fn run(self, release: Release, engine: Option<Engine>, runtime: Runtime) -> Result<()> {
        let lease = match engine {
            None => Lease::new(release),
            Some(engine) => Lease::of(engine.name(), || {
                let node = Node::builder(release).engines(&[engine]).start()?;
                node.import(Image::Busybox)?;
                Ok(node)
            }),
        };
        let lease = lease?;
        let bed = Bed::new(&lease, runtime);
        (self.body)(&bed).map_err(|error| lease.explain(&error))?;
        lease.give_back()
    }
}
