//! Engines on a host that systemd has booted, with the systemd cgroup driver: `RELEASE::CASE`. A case is a script on that host
//! that prints a line for each check. systemd has no controllers there but what this machine's cgroup v2 has, so limits are
//! looked at as systemd keeps them.

use std::process::ExitCode;

use anyhow::Result;
use integration::booted::Booted;
use integration::debian::Release;
use integration::image::Image;
use integration::{kernel_log, suite};
use libtest_mimic::{Arguments, Trial};

mod silent;

type Body = fn(&Booted) -> Result<()>;

const CASES: &[(&str, &[Release], Body)] = &[
    ("docker", &[Release::Sid, Release::Trixie], |host| {
        host.load(Image::Busybox)?;
        script(host, include_str!("docker.sh"))
    }),
    ("inner", &[Release::Sid], |host| {
        host.load(Image::Systemd)?;
        script(host, include_str!("inner.sh"))
    }),
    ("limits", &[Release::Sid], |host| {
        script(host, include_str!("limits.sh"))
    }),
    ("pods", &[Release::Sid], |host| {
        host.import(Image::Pause)?;
        host.import(Image::Busybox)?;
        script(host, include_str!("pods.sh"))
    }),
    ("silent", &[Release::Sid], silent::systemd_does_not_answer),
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Each boots a host of its own.
    arguments.test_threads.get_or_insert(1);
    let mut trials = Vec::new();
    for &(name, releases, body) in CASES {
        for &release in releases {
            trials.push(Trial::ignorable_test(
                format!("{}::{name}", release.suite()),
                move || suite::trial(|| body(&Booted::start(release)?)),
            ));
        }
    }
    suite::run(&arguments, trials, || (), kernel_log::but_of_clients)
}

fn script(host: &Booted, checks: &str) -> Result<()> {
    host.script(&format!("{}\n{checks}", include_str!("prelude.sh")))
}
