# systemd and dockerd inside: images stay over stop, start and commit.
ours -d --name s1 localhost/dind-systemd >/dev/null
up() { i=0; until docker exec "$1" docker info >/dev/null 2>&1; do sleep 0.2; i=$((i+1)); [ $i -lt 200 ] || return 1; done; }
export -f up
t "systemd comes up" bash -ec 'i=0; until same "$(docker exec s1 systemctl is-system-running)" running >/dev/null; do sleep 0.2; i=$((i+1)); [ $i -lt 200 ]; done'
t "dockerd comes up" bash -ec 'up s1'
t "inner images" bash -ec 'docker exec s1 sh -ec "docker import -c \"CMD [\\\"sh\\\"]\" /root/bb.tar bb; docker run --rm bb echo inner; docker build -q -t built /root/ctx; docker run --rm built cat /built"'
# As reboot(2) in a pid namespace reports that its init powered off: by SIGINT.
t "stop is clean" bash -ec 'docker stop -t 60 s1; same $(docker inspect -f "{{.State.ExitCode}}" s1) 130'
t "the layer has the inner data while it is stopped" bash -ec 'docker diff s1 | grep /var/lib/docker/'
t "start again, the images are there" bash -ec 'docker start s1; up s1; docker exec s1 docker run --rm built cat /built'
case $(docker info -f '{{.DriverStatus}}') in
*snapshotter*)
    # A file that an inner layer deletes is a whiteout to the outer overlay as well: listed, but not there. dockerd's own driver skips it.
    t "not yet: containerd's differ stumbles over whiteouts of inner layers" bash -ec 'no docker commit s1 withimages'
    t "and the container goes on" docker exec s1 docker run --rm bb true
    ;;
*)
    t "commit of a running one takes them along" bash -ec 'docker commit s1 withimages >/dev/null; docker exec s1 docker run --rm bb true'
    ours -d --name s2 withimages >/dev/null
    t "and they run there" bash -ec 'up s2; docker exec s2 docker run --rm bb echo inner | grep inner'
    t "nothing of the first is in the second" bash -ec 'docker exec s1 docker volume create only-here; no docker exec s2 docker volume inspect only-here'
    docker rm -f s2 >/dev/null
    docker rmi withimages >/dev/null
    ;;
esac
t "killed in the midst, started again" bash -ec 'docker kill s1; docker start s1; up s1; docker exec s1 docker run --rm built cat /built'
docker rm -f s1 >/dev/null
