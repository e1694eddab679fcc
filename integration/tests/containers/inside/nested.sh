# What runs in a host, run in the container.
cd /root
t "unshare -Urmpf --mount-proc" unshare -Urmpf --mount-proc sh -ec 'head -1 /proc/meminfo; cat /proc/uptime; [ $(ls -d /proc/[0-9]* | wc -l) -le 6 ]'
t "unshare -mpf --mount-proc" unshare -mpf --mount-proc sh -c 'head -1 /proc/meminfo'
t "unshare all, map root" unshare -Ur --map-root-user -m -p -f --mount-proc -i -u -n true
t "sysfs in a network namespace" unshare -mnpf --mount-proc sh -c 'mount -t sysfs s /mnt && ls /mnt/class/net/lo'
t "mount proc" sh -c 'mount -t proc p /mnt && umount /mnt'
t "mount sysfs" sh -c 'mount -t sysfs p /mnt && umount /mnt'
t "mount cgroup2" sh -c 'mount -t cgroup2 c /mnt && umount /mnt'
t "resize /dev/shm" sh -ec 'mount -o remount,size=3m /dev/shm; df -k /dev/shm | grep " 3072 "'
t "resize a tmpfs made inside" sh -ec 'mount -t tmpfs -o size=1m t /mnt; mount -o remount,size=2m /mnt; umount /mnt'
t "mount binfmt_misc" sh -c 'mount -t binfmt_misc b /mnt && umount /mnt'
t "overlay on tmpfs" sh -ec 'mkdir -p /tmp/o; mount -t tmpfs t /tmp/o; cd /tmp/o; mkdir l u w; mount -t overlay o -o lowerdir=l,upperdir=u,workdir=w /mnt; touch /mnt/a; umount /mnt; cd /; umount /tmp/o'
t "overlay in a data root" sh -ec 'cd /var/lib/containers; mkdir -p o/l o/u o/w; touch o/l/gone; mount -t overlay o -o userxattr,lowerdir=o/l,upperdir=o/u,workdir=o/w /mnt; rm /mnt/gone; umount /mnt; test -c o/u/gone; rm -r o'
t "fuse-overlayfs" sh -ec 'mkdir -p /root/o/l /root/o/u /root/o/w; fuse-overlayfs -o lowerdir=/root/o/l,upperdir=/root/o/u,workdir=/root/o/w /mnt; touch /mnt/a; umount /mnt'
t "tun device" sh -ec 'ip tuntap add dev t0 mode tun; ip link del t0'
t "links" sh -ec 'for k in veth bridge "vxlan id 5 dstport 4789"; do ip link add xx0 type $k; ip link del xx0; done'
t "iptables, both kinds" sh -ec 'iptables -t nat -L -n; iptables-legacy -L -n; nft list ruleset'
t "network sysctls" sysctl -w net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.core.somaxconn=1000 net.ipv4.ip_unprivileged_port_start=0
t "file capabilities" sh -ec 'cp /bin/true /root/caps; setcap cap_net_raw+ep /root/caps; getcap /root/caps | grep cap_net_raw; /root/caps'
t "acl" sh -ec 'touch /root/acl; setfacl -m u:1000:rw /root/acl; getfacl -n /root/acl | grep user:1000:rw'
t "trusted xattr stays the host's" sh -c '! setfattr -n trusted.x -v 1 /root'
t "mknod of a whiteout in a data root" sh -ec 'mknod /var/lib/containers/wo c 0 0; rm /var/lib/containers/wo'

C="ctr -n t1"
t "ctr import" $C i import /root/busybox.tar
B=docker.io/library/busybox:latest
t "ctr run, runc" $C run --rm --cpu-shares 0 $B c1 echo ok
t "ctr run, crun" $C run --rm --cpu-shares 0 --runc-binary crun $B c2 echo ok
t "ctr run --privileged" $C run --rm --cpu-shares 0 --privileged $B c3 echo ok
t "ctr run in a user namespace" $C run --rm --cpu-shares 0 --uidmap 0:1000:65536 --gidmap 0:1000:65536 $B c4 cat /proc/self/uid_map
t "ctr run --remap-labels" $C run --rm --cpu-shares 0 --snapshotter overlayfs --remap-labels --uidmap 0:1000:65536 --gidmap 0:1000:65536 $B c5 cat /proc/self/uid_map

t "podman load" podman load -i /root/busybox.tar
# This host may have no pids controller for it: its default limit would be refused.
P="podman run --rm --pids-limit 0"
t "podman run" $P busybox echo ok
t "podman run, runc" podman --runtime runc run --rm --pids-limit 0 busybox echo ok
t "podman run --uidmap" $P --uidmap 0:1000:65536 busybox cat /proc/self/uid_map
t "podman run --privileged" $P --privileged busybox true
t "podman run --systemd always" $P --systemd=always busybox true
t "podman published port" sh -c 'podman run -d --pids-limit 0 --name w -p 8081:80 busybox sh -c "mkdir /www; echo podweb >/www/i; httpd -f -p 80 -h /www"; curl -sS -m 4 --retry 10 --retry-delay 1 --retry-all-errors http://127.0.0.1:8081/i | grep podweb; r=$?; podman rm -f -t 0 w; exit $r'
printf 'FROM busybox\nRUN echo built >/built && chown 5:6 /built\nCMD stat -c %%u:%%g /built\n' >/root/Containerfile
t "podman build" podman build --network none -t pb -f /root/Containerfile /root/ctx
t "podman run of what was built" sh -c "[ \$($P pb) = 5:6 ]"
useradd -m u1 && cp /root/busybox.tar /home/u1/ && chown u1 /home/u1/busybox.tar
loginctl enable-linger u1
i=0
until [ -S /run/user/$(id -u u1)/bus ] || [ $i -ge 50 ]; do sleep 0.2; i=$((i + 1)); done
t "rootless podman" su - u1 -c 'export XDG_RUNTIME_DIR=/run/user/$(id -u); podman load -qi busybox.tar; podman run --rm --pids-limit 0 --network none busybox echo ok'
for u in u2 u3 u4 u5 u6 u7 u8 u9; do useradd -m $u; done
t "subordinate ids of the ninth user" su - u9 -c 'podman unshare sh -c "touch f && chown 65535 f"'

mkdir -p /var/lib/containers/b/rootfs && tar -C /var/lib/containers/b/rootfs -xf /root/bb.tar && cd /var/lib/containers/b && runc spec &&
    sed -i 's/"terminal": true/"terminal": false/; s/"sh"/"id"/' config.json
t "runc run" runc run r1
t "crun run" crun run r2
cd /root
docker import /root/bb.tar bb >/dev/null
t "dockerd in a privileged inner container" sh -ec '
    docker run -d --privileged --name inner --cgroupns private -v inner:/var/lib/docker -v /usr:/usr:ro -v /etc/alternatives:/etc/alternatives:ro -v /root:/images:ro bb /bin/sh -c "ln -s usr/lib /lib; ln -s usr/lib64 /lib64; export PATH=/usr/sbin:/usr/bin; exec /usr/sbin/dockerd"
    i=0; until docker exec inner /usr/bin/docker info >/dev/null 2>&1 || [ $i -ge 100 ]; do sleep 0.2; i=$((i + 1)); done
    docker exec inner /usr/bin/docker import /images/bb.tar bb; docker exec inner /usr/bin/docker run --rm bb echo innermost | grep innermost || { docker logs inner | tail -n 3; exit 1; }'
docker rm -fv inner >/dev/null
echo done
