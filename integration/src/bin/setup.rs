//! Prepares all caches: what `make demo` and `make test` need beside the compiled programs.

use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use integration::debian::{self, Release};
use integration::engines::{self, Engine};
use integration::host;
use integration::image::Image;
use integration::node::Node;

type Job = Box<dyn FnOnce() -> Result<()> + Send>;

fn main() -> ExitCode {
    let begin = Instant::now();
    match run() {
        Ok(()) => {
            println!("setup: ready in {:.1} s", begin.elapsed().as_secs_f64());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("setup: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    if let Some(obstacle) = host::obstacle() {
        bail!("{obstacle}");
    }
    host::require_packages()?;
    // Said before the long builds, not after them.
    engines::go_version()?;
    // The small inner image first: the others contain it. Then the longest ones, so that no thread ends late.
    Image::Busybox.layout(Release::Sid)?;
    let mut jobs: Vec<Job> = Vec::new();
    for image in [Image::DindSystemd, Image::Dind, Image::Systemd] {
        jobs.extend(
            Release::ALL.map(|release| Box::new(move || image.layout(release).map(drop)) as Job),
        );
    }
    jobs.extend(
        Release::ALL.map(|release| Box::new(move || debian::node_root(release).map(drop)) as Job),
    );
    let engines = Engine::ALL.into_iter().filter(|engine| !engine.is_slow());
    jobs.extend(engines.map(|engine| Box::new(move || engine.programs().map(drop)) as Job));
    run_all(jobs)?;
    // A first node of each release unpacks the images for all later ones.
    run_all(
        Release::ALL
            .map(|release| Box::new(move || first_node(release)) as Job)
            .into(),
    )
}

fn first_node(release: Release) -> Result<()> {
    drop(Node::builder(release).images(&Image::PACKAGED).start()?);
    let begin = Instant::now();
    drop(Node::builder(release).images(&Image::PACKAGED).start()?);
    println!(
        "setup: a node of {} starts and stops in {:.1} s",
        release.suite(),
        begin.elapsed().as_secs_f64()
    );
    Ok(())
}

fn run_all(jobs: Vec<Job>) -> Result<()> {
    // One more than there are processors: a build waits for the network part of its time.
    let threads = thread::available_parallelism().map_or(2, usize::from) + 1;
    let queue = Mutex::new(jobs.into_iter());
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|number| {
                thread::Builder::new()
                    .name(format!("build-{number}"))
                    .spawn_scoped(scope, || {
                        loop {
                            let job = queue
                                .lock()
                                .unwrap_or_else(std::sync::PoisonError::into_inner)
                                .next();
                            match job {
                                Some(job) => job()?,
                                None => return Ok(()),
                            }
                        }
                    })
            })
            .collect();
        let mut outcome = Ok(());
        for worker in workers {
            let result: Result<()> = worker
                .context("start a thread")?
                .join()
                .unwrap_or_else(|_| bail!("a build panicked"));
            outcome = outcome.and(result);
        }
        outcome
    })
}
