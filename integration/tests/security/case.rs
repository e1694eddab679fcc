//! A case, its way in, and what it is tried with.

use anyhow::{Result, bail};
use integration::bed::cri::{self, Kind};
use integration::bed::ctr::{self, Runtime};
use integration::bed::docker;
use integration::debian::Release;
use integration::pool::Lease;
use integration::suite;
use libtest_mimic::Trial;

/// What works with which client.
#[derive(Debug, Clone, Copy)]
enum Body {
    Ctr(fn(&ctr::Bed<'_>) -> Result<()>),
    Docker(fn(&docker::Bed<'_>) -> Result<()>),
    Pod(fn(&cri::Bed<'_>) -> Result<()>),
}

/// What the same does under runc.
#[derive(Debug, Clone, Copy)]
enum Runc {
    /// It passes as well.
    Same,
    /// It must fail, for runc differs.
    Differs,
    /// It is not tried.
    Untried,
}

/// A test before it meets engine and runtime. Passes under runc too unless it says otherwise.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    body: Body,
    runc: Runc,
}

impl Case {
    /// Containers by `ctr` on Debian's containerd.
    pub(crate) const fn ctr(name: &'static str, body: fn(&ctr::Bed<'_>) -> Result<()>) -> Self {
        Self::new(name, Body::Ctr(body))
    }

    /// Containers by Docker's client on Debian's dockerd.
    pub(crate) const fn docker(
        name: &'static str,
        body: fn(&docker::Bed<'_>) -> Result<()>,
    ) -> Self {
        Self::new(name, Body::Docker(body))
    }

    /// Pods on containerd 2.4: with our handler alone, and with `hostUsers: false`.
    pub(crate) const fn pod(name: &'static str, body: fn(&cri::Bed<'_>) -> Result<()>) -> Self {
        Self::new(name, Body::Pod(body))
    }

    const fn new(name: &'static str, body: Body) -> Self {
        Self {
            name,
            body,
            runc: Runc::Same,
        }
    }

    /// It must fail under runc, which differs as `_how` says.
    pub(crate) const fn differs(mut self, _how: &'static str) -> Self {
        self.runc = Runc::Differs;
        self
    }

    /// Not tried under runc, for what `_why` says.
    pub(crate) const fn ours(mut self, _why: &'static str) -> Self {
        self.runc = Runc::Untried;
        self
    }

    /// One trial for each runtime, and for each sort of pod.
    pub(crate) fn trials(&self, kind: &str) -> Vec<Trial> {
        let pods = [cri::NEW_PLAIN, cri::NEW_USERS];
        let ours: Vec<_> = match self.body {
            Body::Pod(_) => pods.map(|pods| (Runtime::Sysbox, pods)).into(),
            Body::Ctr(_) | Body::Docker(_) => vec![(Runtime::Sysbox, cri::NEW_PLAIN)],
        };
        let runc = (Runtime::Runc, cri::NEW_RUNC);
        let runc = (!matches!(self.runc, Runc::Untried)).then_some(runc);
        let trial = |(runtime, pods): (Runtime, Kind)| {
            let engine = match self.body {
                Body::Ctr(_) => Release::Sid.suite(),
                Body::Docker(_) => "docker-28",
                Body::Pod(_) => pods.name,
            };
            let name = format!("{engine}::{}::{kind}::{}", runtime.name(), self.name);
            let case = *self;
            Trial::ignorable_test(name, move || match runtime {
                Runtime::Sysbox => suite::trial(|| case.run(runtime, pods)),
                Runtime::Runc => suite::trial_of_another(|| case.run(runtime, pods)),
            })
        };
        ours.into_iter().chain(runc).map(trial).collect()
    }

    /// On a node that it has for itself and must leave as it was.
    fn run(self, runtime: Runtime, pods: Kind) -> Result<()> {
        let lease = match self.body {
            Body::Ctr(_) => Lease::new(Release::Sid),
            Body::Docker(_) => Lease::of(docker::MADE_AS, docker::node),
            Body::Pod(_) => Lease::of(&pods.made_as(), || cri::node(pods, &[])),
        }?;
        let outcome = match self.body {
            Body::Ctr(body) => body(&ctr::Bed::new(&lease, runtime)),
            Body::Docker(body) => body(&docker::Bed::new(&lease, runtime)),
            Body::Pod(body) => body(&cri::Bed::new(&lease, pods)),
        };
        if matches!((self.runc, runtime), (Runc::Differs, Runtime::Runc)) {
            // What a failed body leaves goes with the node.
            return match outcome {
                Err(_) => Ok(()),
                Ok(()) => bail!("it passes under runc, which is said to differ"),
            };
        }
        outcome.map_err(|error| lease.explain(&error))?;
        lease.give_back()
    }
}
