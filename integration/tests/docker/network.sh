# Networks that dockerd sets up, and those of other containers.
ours -d --name w1 -p 8081:80 $B sh -c 'mkdir /w; echo page >/w/index.html; exec httpd -f -p 80 -h /w' >/dev/null
address=$(docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' w1)
export address
get() { timeout 5 bash -c 'exec 3<>/dev/tcp/$0/$1; printf "GET / HTTP/1.0\r\n\r\n" >&3; cat <&3' "$@"; }
export -f get
sleep 0.3
t "from the host" bash -ec 'get $address 80 | grep page'
t "published port" bash -ec 'get 127.0.0.1 8081 | grep page'
t "between ours and runc" bash -ec 'same "$(docker run --rm --runtime runc $B wget -qO- http://$address/)" page'
t "between ours" bash -ec 'same "$(ours --rm $B wget -qO- http://$address/)" page'
docker rm -f w1 >/dev/null
docker network create n1 >/dev/null
ours -d --name w1 --network n1 $B sh -c 'mkdir /w; echo page >/w/index.html; exec httpd -f -p 80 -h /w' >/dev/null
t "a network of one's own, by name" bash -ec 'same "$(ours --rm --network n1 $B wget -qO- http://w1/)" page'
t "connect and disconnect a running one" bash -ec 'docker network connect bridge w1; docker exec w1 ip a show eth1 | grep inet; docker network disconnect bridge w1; no docker exec w1 ip link show eth1'
t "container: of ours has its network and its power over it" bash -ec 'ours --rm --network container:w1 $B sh -ec "wget -qO- http://127.0.0.1/; ip link add br0 type bridge; ip link del br0" | grep page'
t "container: shares the user namespace" bash -ec 'same "$(ours --rm --network container:w1 $B readlink -f /proc/self/ns/user)" "$(docker exec w1 readlink -f /proc/self/ns/user)"'
t "container: under runc joins ours" bash -ec 'docker run --rm --runtime runc --network container:w1 $B wget -qO- http://127.0.0.1/ | grep page'
t "pid of another" bash -ec 'ours --rm --pid container:w1 $B ps | grep httpd'
ours -d --name w2 --network container:w1 $B sleep 1000 >/dev/null
t "a guest outlives its host, and keeps its range" bash -ec 'docker rm -f w1; docker exec w2 id; range=$(docker exec w2 awk "{print \$2}" /proc/self/uid_map); test -e /run/containerd-shim-sysbox/ranges/$range; docker rm -f w2; no test -e /run/containerd-shim-sysbox/ranges/$range'
docker network rm n1 >/dev/null
docker run -d --runtime runc --name r1 $B sleep 1000 >/dev/null
refused() { wanted=$1; shift; no ours --rm "$@" $B true 2>err || { echo "not refused"; return 1; }; grep -qE "$wanted" err || { cat err; return 1; }; }
export -f refused
t "refused: the network of a container of runc" bash -ec 'refused "network path.*host.s user namespace" --network container:r1'
docker rm -f r1 >/dev/null
for kind in network pid ipc uts; do
    t "refused: the host's $kind" bash -ec "refused 'does not share the host.s $kind namespace' --$kind host"
done
t "privileged is root inside only" bash -ec 'ours --rm --privileged $B sh -ec "[ \$(awk \"{print \\\$2}\" /proc/self/uid_map) != 0 ]; mknod /x b 8 0 && exit 1; true"'
t "no network" bash -ec 'ours --rm --network none $B sh -c "! ip link show eth0"'
t "the runtime by its type" bash -ec 'docker run --rm --runtime io.containerd.sysbox.v2 $B sh -c "[ \$(awk \"{print \\\$2}\" /proc/self/uid_map) != 0 ]"'
t "the runtime by Sysbox's name" bash -ec 'docker run --rm --runtime sysbox-runc $B sh -c "[ \$(awk \"{print \\\$2}\" /proc/self/uid_map) != 0 ]"'
