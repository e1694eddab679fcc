//! Docker users' side: what `docker run --runtime sysbox` must do beyond the one scenario of all doors (`tests/doors`).
//!
//! `DAEMON::CASE`; a case is a script in the node (`*.sh`) that prints a line for each check, or a function.

mod bed;
mod namespaces;
mod restore;

use std::process::ExitCode;

use anyhow::Result;
use integration::image::Image;
use integration::suite;
use libtest_mimic::{Arguments, Trial};

use bed::{Bed, DAEMONS, Daemon};

type Body = fn(&Bed) -> Result<()>;

const CASES: &[(&str, &[Image], Body)] = &[
    ("files", &[], |bed| bed.script(include_str!("files.sh"))),
    ("network", &[], |bed| bed.script(include_str!("network.sh"))),
    ("lifecycle", &[], |bed| {
        bed.script(include_str!("lifecycle.sh"))
    }),
    ("older-kernel", &[], older_kernel),
    ("inner", &[Image::DindSystemd], |bed| {
        bed.script(include_str!("inner.sh"))
    }),
    ("job", &[Image::Dind], |bed| {
        bed.script(&format!("{SERVE}\n{}", include_str!("job.sh")))
    }),
    ("gitlab", &[Image::Dind], gitlab),
    ("outer", &[], |bed| {
        by_default(bed, include_str!("outer.sh"))
    }),
    ("restore", &[], restore::everything),
    ("namespaces", &[], namespaces::apart),
];

const SERVE: &str = include_str!("serve.sh");

/// As on a kernel without all that is used only where it is there.
fn older_kernel(bed: &Bed) -> Result<()> {
    let config = format!("pretend-missing = {:?}", bed.node.kernel_features()?);
    bed.node
        .with_config(&config, || bed.script(include_str!("older_kernel.sh")))
}

/// gitlab-ci-local with our runtime as dockerd's default.
fn gitlab(bed: &Bed) -> Result<()> {
    integration::gitlab::install(&bed.node)?;
    by_default(bed, &format!("{SERVE}\n{}", include_str!("gitlab.sh")))?;
    integration::gitlab::remove(&bed.node)
}

/// A script in a node whose dockerd takes our runtime where none is named.
fn by_default(bed: &Bed, script: &str) -> Result<()> {
    // Where none is named any more dockerd stays with the last one.
    const TAKEN: &str = r#"timeout 20 sh -c 'until [ "$(docker info -f "{{.DefaultRuntime}}")" = sysbox ]; do sleep 0.1; done'"#;
    let configure = |change: &str| {
        format!("sed -i '{change}' /etc/docker/daemon.json; kill -HUP $(cat /run/docker.pid)")
    };
    let begin = configure(r#"1s/^{/{"default-runtime": "sysbox", /"#);
    bed.node.shell(&format!("{begin}; {TAKEN}"))?.ok()?;
    bed.script(script)?;
    let end = configure(r#"1s/"default-runtime": "sysbox", //"#);
    bed.node.shell(&end)?.ok()?;
    Ok(())
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Each starts a node of its own.
    arguments.test_threads.get_or_insert(1);
    let mut trials = Vec::new();
    for daemon in &DAEMONS {
        for &(name, images, body) in CASES.iter().filter(|(name, ..)| daemon.has(name)) {
            trials.push(Trial::ignorable_test(
                format!("{}::{name}", daemon.name),
                move || suite::trial(|| tried(daemon, images, body)),
            ));
        }
    }
    // Each bed looks at the kernel's log itself.
    suite::run(&arguments, trials, || (), |_| Vec::new())
}

fn tried(daemon: &'static Daemon, images: &[Image], body: Body) -> Result<()> {
    let bed = Bed::new(daemon, images)?;
    let done = body(&bed).and_then(|()| bed.settled());
    done.map_err(|error| {
        let dockerd = integration::dockerd::log_tail(&bed.node).unwrap_or_default();
        let containerd = bed.node.log_tail();
        anyhow::anyhow!(
            "{error:#}\n--- dockerd's log\n{dockerd}\n--- containerd's log\n{containerd}"
        )
    })
}
