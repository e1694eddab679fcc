# Options of units that sandbox them: each needs namespaces, mounts or limits that the container must give.
u() {
    name=$1
    shift
    t "$name" systemd-run -q --wait --pipe "$@"
}
u PrivateTmp -p PrivateTmp=yes sh -c 'mountpoint /tmp || grep " /tmp " /proc/self/mountinfo'
u ProtectSystem=strict -p ProtectSystem=strict sh -c '! touch /usr/x && ! touch /etc/x'
u ProtectSystem=full -p ProtectSystem=full sh -c '! touch /usr/x'
u ProtectHome -p ProtectHome=yes sh -c '! ls /root/ctx'
u ProtectProc=invisible -p ProtectProc=invisible -p User=nobody sh -c 'head -1 /proc/meminfo; ! test -d /proc/1'
u ProcSubset=pid -p ProcSubset=pid sh -c '! test -e /proc/meminfo'
u PrivateDevices -p PrivateDevices=yes sh -c 'echo x >/dev/null'
u ProtectKernelTunables -p ProtectKernelTunables=yes sh -c '! sh -c "echo 1 >/proc/sys/net/ipv4/ip_forward"'
u ProtectKernelModules -p ProtectKernelModules=yes true
u ProtectKernelLogs -p ProtectKernelLogs=yes true
u ProtectControlGroups -p ProtectControlGroups=yes sh -c '! mkdir /sys/fs/cgroup/zz'
u ProtectClock -p ProtectClock=yes true
u ProtectHostname -p ProtectHostname=yes hostname
u PrivateUsers -p PrivateUsers=yes cat /proc/self/uid_map
u PrivateNetwork -p PrivateNetwork=yes true
u PrivateIPC -p PrivateIPC=yes true
u PrivateMounts -p PrivateMounts=yes true
u DynamicUser -p DynamicUser=yes sh -c '[ $(id -u) -ge 61184 ] && touch /tmp/a'
u DynamicUser+StateDirectory -p DynamicUser=yes -p StateDirectory=foo touch /var/lib/foo/a
u RestrictNamespaces -p RestrictNamespaces=yes sh -c '! unshare -n true'
u RestrictAddressFamilies -p RestrictAddressFamilies=AF_UNIX true
u SystemCallFilter -p SystemCallFilter=@system-service true
u MemoryDenyWriteExecute -p MemoryDenyWriteExecute=yes true
u LockPersonality -p LockPersonality=yes -p RestrictRealtime=yes -p RestrictSUIDSGID=yes true
u NoNewPrivileges -p NoNewPrivileges=yes grep 'NoNewPrivs:.1' /proc/self/status
u InaccessiblePaths -p InaccessiblePaths=/etc/shadow sh -c '! grep root /etc/shadow'
u ReadOnlyPaths=/ -p ReadOnlyPaths=/ sh -c '! touch /root/x'
u BindPaths -p BindPaths=/etc:/mnt test -e /mnt/hosts
u TemporaryFileSystem -p TemporaryFileSystem=/mnt:ro sh -c '! touch /mnt/x'
u DevicePolicy=closed -p DevicePolicy=closed sh -c 'echo x >/dev/null'
u DeviceAllow -p DeviceAllow=/dev/fuse sh -c ': <>/dev/fuse'
u IPAddressDeny -p IPAddressDeny=any true
u Delegate -p Delegate=yes sh -c 'mkdir /sys/fs/cgroup$(tail -1 /proc/self/cgroup | cut -d: -f3)/x'
u credentials -p SetCredential=a:b sh -c '[ $(cat $CREDENTIALS_DIRECTORY/a) = b ]'
u KeyringMode=private -p KeyringMode=private true
u PrivateUsers=full -p PrivateUsers=full true
u CPUSchedulingPolicy=rr -p CPUSchedulingPolicy=rr -p CPUSchedulingPriority=5 true
u IOSchedulingClass=realtime -p IOSchedulingClass=realtime true
t "hostnamectl" sh -ec 'hostnamectl hostname foo; [ $(hostname) = foo ]'
t "systemd-sysctl" systemctl restart systemd-sysctl
t "systemd-tmpfiles" systemd-tmpfiles --create
t "journal" sh -ec 'logger -t probe found; journalctl --sync; journalctl -t probe -o cat | grep found'
t "user manager" sh -ec 'loginctl enable-linger root; systemctl start user@0; systemctl is-active user@0'
t "timer" sh -ec 'systemd-run -q --on-active=0.1 touch /run/timed; until [ -e /run/timed ]; do sleep 0.1; done'
echo done
