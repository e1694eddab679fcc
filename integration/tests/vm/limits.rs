//! Limits by their effect, under runc and under ours alike.

use anyhow::Result;

use crate::host::Host;

fn each(host: &mut Host, script: &str) -> Result<()> {
    for runtime in ["runc", "sysbox-runc"] {
        host.shell(&format!("set -x; R={runtime}\n{script}"))?;
    }
    Ok(())
}

/// Who takes too much is killed, and the engine says why: it hears of that on its own way, which may take longer than the end.
pub(crate) fn memory(host: &mut Host) -> Result<()> {
    each(
        host,
        "code=0
         docker run --name greedy --runtime $R --memory 64m --memory-swap 64m busybox sh -c 'x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done' || code=$?
         [ $code = 137 ]
         for i in $(seq 10); do said=$(docker inspect -f '{{.State.ExitCode}} {{.State.OOMKilled}}' greedy); [ \"$said\" = '137 true' ] && break; sleep 1; done
         [ \"$said\" = '137 true' ]
         docker rm greedy",
    )
}

/// What is written to a tmpfs counts; what is in the page cache does not stand in the way.
pub(crate) fn memory_of_files(host: &mut Host) -> Result<()> {
    each(
        host,
        "docker run --rm --runtime $R --memory 64m --memory-swap 64m busybox sh -c 'dd if=/dev/zero of=/x bs=1M count=100 2>&1 && rm /x'
         code=0
         docker run --rm --runtime $R --memory 32m --memory-swap 32m --shm-size 64m busybox dd if=/dev/zero of=/dev/shm/x bs=1M count=60 || code=$?
         [ $code = 137 ]",
    )
}

pub(crate) fn pids(host: &mut Host) -> Result<()> {
    each(
        host,
        "docker run --rm --runtime $R --pids-limit 20 busybox sh -c 'for i in $(seq 40); do sleep 60 & done' 2>&1 | grep \"can't fork\"
         docker run --rm --runtime $R --pids-limit 60 busybox sh -c 'for i in $(seq 40); do sleep 60 & done; echo all' | grep -x all",
    )
}

/// A fifth of a processor: what a loop gets of it, by the kernel's count and by the clock, in hundredths of seconds.
pub(crate) fn cpu(host: &mut Host) -> Result<()> {
    each(
        host,
        r#"measure='at() { tr -d . </proc/uptime | cut -d" " -f1; }
         used() { sed -n "s/usage_usec //p" /sys/fs/cgroup/cpu.stat; }
         began=$(at); before=$(used); timeout 6 sh -c "while :; do :; done"; took=$(($(at) - began)); spent=$((($(used) - before) / 10000))
         echo $((100 * spent / took))'
         share=$(docker run --rm --runtime $R --cpus 0.2 busybox sh -c "$measure")
         [ "$share" -ge 10 ] && [ "$share" -le 35 ]
         share=$(docker run --rm --runtime $R busybox sh -c "$measure")
         [ "$share" -ge 60 ]"#,
    )
}

pub(crate) fn cpuset(host: &mut Host) -> Result<()> {
    each(
        host,
        "docker run --rm --runtime $R --cpuset-cpus 1 busybox sh -c 'nproc; sed -n \"s/^Cpus_allowed_list:.//p\" /proc/self/status' | tr '\\n' ' ' | grep -x '1 1 '",
    )
}
