# Boots the root that is mounted at $R as a host of its own in a node: systemd as PID 1 of its own pid, mount, uts, ipc and cgroup
# namespaces, in the node's network. It must not write to the machine: /sys and /proc/sys are read-only, but for the network's.
set -eu
H=/srv/host R=/srv/host/root
etc=$R/etc
mkdir -p $etc/systemd/journald.conf.d $etc/docker $etc/containerd $etc/cni $R/opt/bin
cat >$etc/systemd/system/host.target <<E
[Unit]
Requires=basic.target
After=basic.target
Wants=dbus.service containerd.service docker.service
E
printf '[Journal]\nReadKMsg=no\nStorage=volatile\n' >$etc/systemd/journald.conf.d/host.conf
# None of these has anything to do here: devices, clocks and sysctls are the machine's.
for unit in systemd-udevd.service systemd-udev-trigger.service systemd-udevd-control.socket systemd-udevd-kernel.socket \
    systemd-sysctl.service systemd-modules-load.service systemd-remount-fs.service systemd-logind.service systemd-binfmt.service \
    systemd-timesyncd.service systemd-networkd.service systemd-resolved.service systemd-firstboot.service systemd-tpm2-setup.service \
    proc-sys-fs-binfmt_misc.automount dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
    sys-kernel-config.mount sys-fs-fuse-connections.mount tmp.mount; do
    ln -sf /dev/null $etc/systemd/system/$unit
done
echo 01234567012345670123456701234567 >$etc/machine-id
cat >$etc/docker/daemon.json <<E
{"exec-opts": ["native.cgroupdriver=systemd"], "storage-driver": "overlay2", "bridge": "none", "iptables": false, "ip6tables": false,
"runtimes": {"sysbox": {"runtimeType": "io.containerd.sysbox.v2"}}}
E
sed 's/^BinaryName.*/&\nSystemdCgroup = true/' /etc/containerd/config.toml >$etc/containerd/config.toml
cp -a /etc/cni/. $etc/cni
cp /etc/crictl.yaml /etc/resolv.conf $etc
mkdir /sys/fs/cgroup/host
echo $$ >/sys/fs/cgroup/host/cgroup.procs
unshare --mount --pid --uts --ipc --cgroup --fork --propagation private sh -ec '
R=/srv/host/root
mount --rbind $R $R
mount -t proc proc $R/proc
mount -t sysfs -o ro sysfs $R/sys
mount -t cgroup2 cgroup2 $R/sys/fs/cgroup
mount -t bpf bpf $R/sys/fs/bpf
mount --rbind /dev $R/dev
mount --bind /dev/null $R/dev/kmsg
mount -t tmpfs -o mode=755 tmpfs $R/run
mount -t tmpfs tmpfs $R/tmp
mount --bind $R/proc/sys $R/proc/sys
mount --bind $R/proc/sys/net $R/proc/sys/net
mount -o remount,bind,ro $R/proc/sys
for dir in docker containerd; do
    mkdir -p /srv/host/$dir $R/var/lib/$dir
    mount --bind /srv/host/$dir $R/var/lib/$dir
done
mkdir -p $R/usr/lib/cni
mount --bind /usr/lib/cni $R/usr/lib/cni
mount --bind /usr/local/bin $R/usr/local/bin
cd $R
mount --move . /
exec chroot . setpriv --bounding-set -sys_module env -i container=host \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=host.target
' </dev/null >/srv/host/console 2>&1 &
i=0
until pid=$(pgrep -P $!) && [ "$(cat /proc/$pid/comm)" = systemd ]; do
    sleep 0.05
    i=$((i + 1))
    [ $i -lt 400 ]
done
echo $pid >/run/host.pid
