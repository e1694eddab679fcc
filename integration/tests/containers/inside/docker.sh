# An inner dockerd that runs already: what its users do with it.
docker import -c 'CMD ["sh"]' /root/bb.tar bb >/dev/null
t "overlay2 on a native file system" sh -c 'docker info -f "{{.Driver}} {{.DriverStatus}}" | grep -E "^(overlay2|overlayfs) "'
t "docker load" docker load -qi /root/busybox.tar
t "run" docker run --rm bb echo hi
t "run --network none" docker run --rm --network none bb true
t "run --network host" docker run --rm --network host bb sh -c 'ip a | grep inet'
docker run -d --name web -p 8080:80 bb sh -c 'mkdir /www; echo webok >/www/i; httpd -f -p 80 -h /www' >/dev/null
i=0
until curl -sS -m 2 http://127.0.0.1:8080/i >/dev/null 2>&1 || [ $i -ge 50 ]; do sleep 0.1; i=$((i + 1)); done
t "published port by loopback" sh -c 'curl -sS -m 5 http://127.0.0.1:8080/i | grep webok'
t "published port by the bridge's address" sh -c 'curl -sS -m 5 http://$(ip -4 -o a show docker0 | awk "{print \$4}" | cut -d/ -f1):8080/i | grep webok'
t "inner container over the bridge" sh -c 'curl -sS -m 5 http://$(docker inspect -f "{{.NetworkSettings.IPAddress}}" web)/i | grep webok'
t "container to container over the bridge" sh -c 'docker run --rm bb wget -qO- http://$(docker inspect -f "{{.NetworkSettings.IPAddress}}" web)/i | grep webok'
t "exec" docker exec web sh -c 'id; cat /proc/self/cgroup'
docker network create n1 >/dev/null
docker run -d --name s1 --network n1 bb sleep 100 >/dev/null
t "user-defined network: ping by name" docker run --rm --network n1 bb ping -c1 -W3 s1
t "classic build" env DOCKER_BUILDKIT=0 docker build -t b1 /root/ctx
t "buildkit build" env DOCKER_BUILDKIT=1 docker build -t b2 /root/ctx
for image in b1 b2; do
    t "run what was built: $image" docker run --rm $image sh -ec '[ $(cat /built) = built ]; [ $(stat -c %u:%g /d) = 1000:1000 ]; ! test -e /etc/passwd; grep hello /hello'
done
t "run --privileged" docker run --rm --privileged bb sh -ec 'mkdir -p /mnt; mount -t tmpfs x /mnt'
t "run --privileged has /dev/kmsg" docker run --rm --privileged bb sh -ec 'test -c /dev/kmsg; echo x >/dev/kmsg; timeout 0.2 cat /dev/kmsg || [ $? = 143 ]'
t "run --device /dev/kmsg" docker run --rm --device /dev/kmsg bb sh -ec 'test -c /dev/kmsg; echo x >/dev/kmsg'
t "run --volume /dev/kmsg" docker run --rm -v /dev/kmsg:/dev/kmsg bb sh -ec 'test -c /dev/kmsg; ls -l /dev/kmsg'
t "run --cgroup-parent" docker run --rm --cgroup-parent my.slice bb cat /proc/self/cgroup
t "run --memory" docker run --rm --memory 64m bb true
t "run --cpus" docker run --rm --cpus 1 bb true
t "run --pids-limit" docker run --rm --pids-limit 50 bb true
t "run --read-only" docker run --rm --read-only bb sh -c '! touch /x'
t "run in the host's namespaces" docker run --rm --pid=host --ipc=host --uts=host --userns=host --cgroupns=host bb ps
t "volume by name" docker run --rm -v v1:/v bb sh -ec 'touch /v/a; chown 5:6 /v/a; [ $(stat -c %u:%g /v/a) = 5:6 ]'
t "volume by path" docker run --rm -v /etc:/v:ro bb grep localhost /v/hosts
t "slave bind of /" docker run --rm -v /:/host:rslave bb ls /host/var/lib/docker
t "bind of /proc" docker run --rm -v /proc:/hp bb head -1 /hp/meminfo
t "bind of /sys" docker run --rm -v /sys:/hs bb ls /hs/class/net
t "bind of the docker socket" docker run --rm -v /var/run/docker.sock:/s bb test -S /s
t "run --user" docker run --rm --user 1000:1000 bb sh -c '[ $(id -u) = 1000 ]'
t "run --device" docker run --rm --cap-add ALL --device /dev/fuse --device /dev/net/tun bb sh -c ': <>/dev/fuse && : <>/dev/net/tun'
t "run --sysctl" docker run --rm --sysctl net.ipv4.conf.all.forwarding=1 bb cat /proc/sys/net/ipv4/conf/all/forwarding
t "run --tmpfs --shm-size --init" docker run --rm --tmpfs /t:size=1m --shm-size 8m --init bb mount
t "run --ulimit" docker run --rm --ulimit nofile=1000:1000 bb sh -c '[ $(ulimit -n) = 1000 ]'
t "run unconfined" docker run --rm --security-opt seccomp=unconfined --security-opt systempaths=unconfined bb true
t "commit, save, load" sh -ec 'docker commit web c1; docker save c1 -o /tmp/c1.tar; docker rmi c1; docker load -i /tmp/c1.tar; docker run --rm c1 cat /www/i | grep webok'
t "cp in and out, diff" sh -ec 'echo x >/tmp/x; docker cp /tmp/x web:/x; docker cp web:/www/i /tmp/i; grep webok /tmp/i; docker diff web | grep "A /x"'
t "pause, unpause" sh -ec 'docker pause web; docker unpause web'
t "restart" docker restart -t 1 web
t "stats, top" sh -ec 'docker stats --no-stream web; docker top web'
t "logs" sh -ec 'docker run --name logs bb echo logged; docker logs logs | grep logged; docker rm logs'
t "whiteouts of an inner layer" sh -ec 'printf "FROM bb\nRUN rm -r /layers && mkdir /layers\n" | docker build -t w -; docker run --rm w sh -c "[ -z \"\$(ls /layers)\" ]"'
t "clean up" sh -ec 'docker rm -f web s1; docker network rm n1; docker system prune -af --volumes'
echo done
