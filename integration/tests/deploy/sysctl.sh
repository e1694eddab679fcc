# Nothing below may write the machine's values: each key there is shows a file of ours, or the script ends here.
set -eu
exec unshare --mount --propagation private sh -eu -c '
mkdir -p /root/sysctl
keys=$(sed -n "s/^\([a-z][^ ]*\) = .*/\1/p" /root/deploy/sysctl.conf)
for key in $keys; do
    file=/proc/sys/$(echo $key | tr . /)
    [ -e $file ] || continue
    echo 0 >/root/sysctl/$key
    mount --bind /root/sysctl/$key $file
    [ "$(stat -f -c %T $file)" != proc ]
done
echo 2147483642 >/root/sysctl/vm.max_map_count
named() { containerd-shim-sysbox-v2 check | sed -n "s/.*install --sysctl, or sysctl -w \(.*\)=.*/\1/p"; }
named | grep -x kernel.pty.max
[ -z "$(named | grep -x vm.max_map_count)" ]
cd /root/deploy
PREFIX=/root/prefix ./install.sh install --binary /bin/true --sysctl
[ "$(cat /root/sysctl/kernel.pty.max)" = 65536 ]
[ "$(cat /root/sysctl/fs.inotify.max_user_watches)" = 1048576 ]
[ "$(cat /root/sysctl/vm.max_map_count)" = 2147483642 ]
[ -z "$(named)" ]
PREFIX=/root/prefix ./install.sh uninstall
[ ! -e /etc/sysctl.d/60-containerd-shim-sysbox.conf ]
echo done'
