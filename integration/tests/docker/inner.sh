# systemd and dockerd inside: images stay over stop, start and commit.
ours -d --name s1 localhost/dind-systemd >/dev/null
up() { i=0; until docker exec "$1" docker info >/dev/null 2>&1; do sleep 0.2; i=$((i+1)); [ $i -lt 200 ] || return 1; done; }
export -f up
t "systemd comes up" bash -ec 'i=0; until same "$(docker exec s1 systemctl is-system-running)" running >/dev/null; do sleep 0.2; i=$((i+1)); [ $i -lt 200 ]; done'
t "dockerd comes up" bash -ec 'up s1'
t "inner images" bash -ec 'docker exec s1 sh -ec "docker import -c \"CMD [\\\"sh\\\"]\" /root/bb.tar bb; docker run --rm bb echo inner; docker build -q -t built /root/ctx; docker run --rm built cat /built"'
# Layers that delete: whiteouts and an opaque directory, which outer engines would take for their own.
t "an inner image whose layers delete" bash -ec 'docker exec s1 sh -ec "printf \"FROM bb\\nRUN mkdir /dir && touch /gone /dir/old /one /two /three\\nRUN rm /gone && rm -r /dir && mkdir /dir && touch /dir/new\\n\" | docker build -q -t less -"'
less() { same "$(docker exec "$1" docker run --rm less sh -c "ls -d /gone /dir/* 2>/dev/null")" /dir/new; }
# What is there of the five in the layer of container `deletes`.
left() { same "$(docker exec s1 docker exec deletes sh -c "ls -d /dir/* /one /two /three 2>/dev/null" | tr "\n" " ")" "$1"; }
export -f less left
t "which are gone" bash -ec "less s1"
# As reboot(2) in a pid namespace reports that its init powered off: by SIGINT.
t "stop is clean" bash -ec 'docker stop -t 60 s1; same $(docker inspect -f "{{.State.ExitCode}}" s1) 130'
t "the layer has the inner data while it is stopped" bash -ec 'docker diff s1 | grep /var/lib/docker/'
t "start again, the images are there" bash -ec 'docker start s1; up s1; docker exec s1 docker run --rm built cat /built; less s1'
t "an inner container that deletes" bash -ec 'docker exec s1 docker run -d --name deletes less sleep 1000; docker exec s1 docker exec deletes rm /one; left "/dir/new /three /two "'
t "commit of a running one" bash -ec 'docker commit s1 running >/dev/null; less s1; left "/dir/new /three /two "'
t "the inner container goes on deleting" bash -ec 'docker exec s1 docker exec deletes sh -c "rm /two; rm -r /dir; mkdir /dir; touch /one"; left "/one /three "'
t "pause and resume" bash -ec 'docker pause s1; docker unpause s1; docker exec s1 docker exec deletes sh -c "rm /one"; left "/three "; less s1'
ours -d --name s2 running >/dev/null
t "what was committed runs: the deleted is gone" bash -ec 'up s2; less s2; docker exec s2 docker start deletes; same "$(docker exec s2 docker exec deletes sh -c "ls -d /one /two 2>/dev/null")" /two'
t "nothing of the first is in the second" bash -ec 'docker exec s1 docker volume create only-here; no docker exec s2 docker volume inspect only-here'
t "and nothing of the capture" bash -ec 'for c in s1 s2; do docker exec $c sh -c "! ls -A /var/lib/docker | grep sysbox"; done'
docker rm -f s2 >/dev/null
docker rmi running >/dev/null
t "its shim killed in the midst, started again" bash -ec 'kill -9 $(pgrep -f "^/usr/local/bin/containerd-shim-sysbox-v2 "); i=0; until [ -z "$(docker ps -q)" ]; do sleep 0.1; i=$((i+1)); [ $i -lt 100 ]; done; docker start s1; up s1; less s1; docker exec s1 docker run --rm built cat /built'
docker rm -f s1 >/dev/null
