//! Engines and shims that are killed under running containers.

use anyhow::{Context, Result, ensure};
use integration::dockerd;

use crate::bed::Bed;

const CONTAINERS: usize = 10;

/// dockerd, containerd, both, and in the end the shims.
pub(crate) fn everything(bed: &Bed) -> Result<()> {
    bed.script(&format!(
        "for i in $(seq {CONTAINERS}); do ours -d --name k$i $B sh -c 'trap \"exit 3\" TERM; while :; do echo $((++n)); sleep 0.1; done' >/dev/null; done
         t 'they run' bash -ec 'same $(docker ps -q | wc -l) {CONTAINERS}'"
    ))?;
    for (number, engines) in [
        &["dockerd"][..],
        &["containerd"],
        &["dockerd", "containerd"],
    ]
    .into_iter()
    .enumerate()
    {
        for engine in engines {
            match *engine {
                "dockerd" => dockerd::kill(&bed.node, "KILL")?,
                _ => bed.node.kill_containerd("KILL")?,
            }
        }
        if engines.contains(&"containerd") {
            bed.node.start_containerd()?;
        }
        if engines.contains(&"dockerd") {
            dockerd::again(&bed.node)?;
        }
        // dockerd tries again after a while where its connection to containerd has broken.
        bed.script("t 'dockerd has its containerd' bash -ec 'i=0; until docker exec k1 true; do sleep 0.2; i=$((i+1)); [ $i -lt 150 ]; done'")?;
        go_on(bed, number).with_context(|| format!("after kill -9 of {engines:?}"))?;
    }
    bed.script(&format!(
        r#"t "stop" bash -ec 'docker stop k1; same $(docker inspect -f "{{{{.State.ExitCode}}}}" k1) 3'
t "start" bash -ec 'docker start k1; docker exec k1 ls /root/in2'
before=$(pgrep -fc "^/usr/local/bin/containerd-shim-sysbox-v2 ")
pids=$(pgrep -f "^/usr/local/bin/containerd-shim-sysbox-v2 ")
same $before {CONTAINERS} || echo "not ok shims: $before"
kill -9 $pids
t "containers of killed shims are dead" bash -ec 'i=0; until same $(docker ps -q | wc -l) 0 >/dev/null; do sleep 0.1; i=$((i+1)); [ $i -lt 100 ]; done'
t "no view is left" bash -ec '! grep sysbox-view /proc/self/mountinfo'
t "they start again" bash -ec 'docker start k1 k2; docker exec k1 ls /root/in2; docker cp k1:/root/in2 -'
docker rm -f $(docker ps -aq) >/dev/null"#
    ))?;
    let left = bed
        .node
        .shell("ls /run/containerd-shim-sysbox/ranges")?
        .ok()?;
    ensure!(left.text().is_empty(), "ranges are left: {}", left.stdout);
    Ok(())
}

/// Everything that a client does works on all of them.
fn go_on(bed: &Bed, number: usize) -> Result<()> {
    bed.script(&format!(
        r#"t "they still run" bash -ec 'same $(docker ps -q | wc -l) {CONTAINERS}'
for c in k1 k2 k{CONTAINERS}; do
    export c
    t "$c: exec as a user by name" bash -ec 'same "$(docker exec -u nobody $c id -un)" nobody'
    t "$c: logs go on" bash -ec 'a=$(docker logs $c | tail -1); i=0; until [ $(docker logs $c | tail -1) -gt $a ]; do sleep 0.2; i=$((i+1)); [ $i -lt 50 ]; done'
    t "$c: copy in" bash -ec 'echo {number} >in; chown 33:44 in; docker cp -a in $c:/root/in{number}; same "$(inside $c /root/in{number})" 33:44:644'
    t "$c: copy out" bash -ec 'docker cp $c:/root/in{number} - | tar tv --numeric-owner | grep 33/44'
done
t "a new one" bash -ec 'same "$(ours --rm $B echo new)" new'"#
    ))
}
