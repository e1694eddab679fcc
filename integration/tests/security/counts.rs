//! What the kernel counts for each user is counted for the pod: none can use up the host's, or another pod's.

use anyhow::{Context, Result, ensure};
use integration::bed::ctr::{Bed, Container};
use integration::image::Image;
use rustix::fs::inotify;

use crate::case::Case;

pub(crate) const CASES: &[Case] = &[Case::ctr("inotify_instances", inotify_instances)
    .ours("it would take those of the machine's root")];

/// Of so many instances that the host's root wants, how many it gets.
const WANTED: usize = 12;

/// What the probe has said, once it has taken all.
const TAKEN: &str = "until grep -q ready /taken; do sleep 0.02; done; head -n 1 /taken";

fn inotify_instances(bed: &Bed<'_>) -> Result<()> {
    let spare = || {
        let open = |_| inotify::init(inotify::CreateFlags::CLOEXEC).ok();
        (0..WANTED).map_while(open).collect::<Vec<_>>().len()
    };
    ensure!(
        spare() == WANTED,
        "this machine's root has too few to begin with"
    );
    let taken = |container: &Container<'_>| -> Result<usize> {
        let line = container.shell(TAKEN)?;
        let (count, error) = line.split_once(' ').context(line.clone())?;
        ensure!(error.contains("24"), "not EMFILE: {line}");
        Ok(count.parse()?)
    };
    let hungry = ["/bin/sh", "-c", "exec /probe instances >/taken"];
    let greedy = bed.detached(&[], Image::Busybox, &hungry)?;
    let first = taken(&greedy)?;
    ensure!(
        spare() == WANTED,
        "the host's root gets {} of {WANTED}",
        spare()
    );
    // A container of another pod has as many again.
    let other = bed.detached(&[], Image::Busybox, &hungry)?;
    let second = taken(&other)?;
    ensure!(first == second && first > WANTED, "{first}, then {second}");
    ensure!(
        spare() == WANTED,
        "the host's root gets {} of {WANTED}",
        spare()
    );
    greedy.remove()?;
    other.remove()
}
