//! A host with AppArmor: what is said and done of profiles.

use anyhow::{Result, ensure};

use crate::host::Host;

/// Docker's default is not applied, which is said once a container; one that is named is refused; none is silent.
pub(crate) fn profiles(host: &mut Host) -> Result<()> {
    let confinement = "cat /proc/self/attr/current";
    let said = "journalctl -q -o cat -u containerd -S \"$since\" | grep -c field=process.apparmorProfile || true";
    host.shell(&format!(
        "set -x
         docker run --rm --runtime runc busybox {confinement} | grep '^docker-default'
         since=$(date '+%F %T'); sleep 1
         docker run -d --name confined --runtime sysbox-runc busybox sleep 1000
         for i in 1 2 3; do docker exec confined {confinement} | grep -x unconfined; done
         docker rm -f confined
         journalctl --sync; [ $({said}) = 1 ]
         since=$(date '+%F %T'); sleep 1
         docker run --rm --runtime sysbox-runc --security-opt apparmor=unconfined busybox {confinement} | grep -x unconfined
         journalctl --sync; [ $({said}) = 0 ]"
    ))?;
    let refused = host.try_shell(
        "docker run --rm --runtime sysbox-runc --security-opt apparmor=docker-nobody busybox true",
    )?;
    ensure!(refused.code == 125 || refused.code == 127, "{refused:?}");
    ensure!(
        refused
            .stderr
            .contains("process.apparmorProfile: \"docker-nobody\"")
            || refused.stderr.contains("process.apparmorProfile"),
        "{refused:?}"
    );
    host.shell("docker ps -aq | xargs -r docker rm -f")
        .map(drop)
}
