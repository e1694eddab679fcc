//! systemd that does not answer: a start fails in bounded time, by name, and leaves nothing; a removal works without it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::booted::Booted;
use integration::image::Image;

/// The runtime's patience of 20 s, and what a busy machine adds.
const BOUND: Duration = Duration::from_secs(50);

pub(crate) fn systemd_does_not_answer(host: &Booted) -> Result<()> {
    host.load(Image::Busybox)?;
    let run = "docker run -d --runtime sysbox --network none localhost/busybox sleep 1000";
    let id = host.shell(run)?.ok()?.text().to_owned();
    // From outside: no signal stops PID 1 in its own namespace.
    let signal = |name: &str| {
        host.node()
            .shell(&format!("kill -{name} $(cat /run/host.pid)"))?
            .ok()
            .context("signal systemd")
    };
    signal("STOP")?;
    let begin = Instant::now();
    let (started, removed) = std::thread::scope(|scope| {
        let removed = scope.spawn(|| host.shell(&format!("docker rm -f {id}")));
        let started = host.shell(run);
        (started, removed.join())
    });
    let took = begin.elapsed();
    signal("CONT")?;
    let (started, removed) = (
        started?,
        removed.map_err(|_| anyhow::anyhow!("a thread panicked"))??,
    );
    ensure!(started.code != 0, "it started without systemd's answer");
    ensure!(
        started.stderr.contains("/run/systemd/private"),
        "{}",
        started.stderr
    );
    removed.ok()?;
    ensure!(took < BOUND, "it took {took:?}");
    host.shell(
        "docker ps -aq | xargs -r docker rm -f
         i=0; until [ -z \"$(systemctl list-units --all --plain --no-legend 'docker-*.scope'; ls -d /sys/fs/cgroup/system.slice/docker-*.scope 2>/dev/null)\" ]
         do sleep 0.1; i=$((i + 1)); [ $i -lt 100 ]; done",
    )?
    .ok()?;
    Ok(())
}
