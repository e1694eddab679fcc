//! Containers of the host's own engines.

use anyhow::Result;

use crate::host::Host;

pub(crate) fn docker(host: &mut Host) -> Result<()> {
    host.shell(
        "set -x
         docker run --rm --runtime sysbox-runc busybox echo hi | grep -x hi
         docker run -d --name plain --runtime sysbox-runc busybox sleep 1000
         docker exec plain sh -c 'echo inside >/f; id -u' | grep -x 0
         docker cp plain:/f /tmp/f; grep -x inside /tmp/f
         docker cp /tmp/f plain:/g; docker exec plain grep -x inside /g
         docker restart -t 1 plain; docker exec plain grep -x inside /f
         docker stop -t 1 plain; docker inspect -f '{{.State.ExitCode}}' plain | grep -x 137
         docker start plain
         docker commit plain made
         for runtime in sysbox-runc runc; do docker run --rm --runtime $runtime made grep -x inside /g; done
         docker rm -f plain; docker rmi made; rm /tmp/f",
    )
    .map(drop)
}

pub(crate) fn ctr(host: &mut Host) -> Result<()> {
    host.shell(
        "set -x
         image=docker.io/library/busybox:latest
         ctr run -d --runtime io.containerd.sysbox.v2 $image c sleep 1000
         ctr task exec --exec-id x c sh -c 'echo here; sleep 0.5' | grep -x here
         ctr task rm --force c; ctr container rm c
         ctr run --rm --runtime io.containerd.sysbox.v2 $image c sh -c 'echo again; sleep 0.5' | grep -x again",
    )
    .map(drop)
}

pub(crate) fn systemd(host: &mut Host) -> Result<()> {
    host.shell(
        "set -x
         docker run -d --name boots --runtime sysbox-runc localhost/dind-systemd:latest
         for i in $(seq 60); do docker exec boots systemctl is-system-running --wait >/tmp/state && break; sleep 1; done
         grep -x running /tmp/state || { docker exec boots systemctl --failed; docker exec boots journalctl -n 40; exit 1; }
         rm /tmp/state",
    )?;
    host.shell(
        "set -x
         docker exec boots docker import /root/bb.tar bb
         docker exec boots docker run --rm bb echo inner | grep -x inner
         docker rm -f boots",
    )
    .map(drop)
}

/// Nothing of any container is there any more, and none of the runtime's processes.
pub(crate) fn nothing_is_left(host: &mut Host) -> Result<()> {
    host.shell(
        "set -x
         test -z \"$(docker ps -aq)$(ctr container ls -q)$(ctr task ls -q)\"
         test -z \"$(ls -A /run/containerd-shim-sysbox/ranges)\"
         for i in $(seq 20); do pgrep -f containerd-shim-sysbox-v2 || break; sleep 1; done
         ! pgrep -a -f containerd-shim-sysbox-v2
         ! grep -E 'containerd-shim-sysbox|/merged|io.containerd.runtime' /proc/self/mountinfo
         ! find /sys/fs/cgroup -type d -name '*docker-*' | grep .",
    )
    .map(drop)
}
