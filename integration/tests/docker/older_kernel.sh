# The engine's root file system taken over, shown to the host and put back, by the ways that an older kernel has.
mkdir volume
ours -dt --name k1 -v "$work/volume:/volume" --tmpfs /scratch $B sleep 1000 >/dev/null
t "the layers are named by way of descriptors" bash -ec 'docker exec k1 grep " / / .*lowerdir=/proc/self/fd/" /proc/self/mountinfo'
echo from-host >f
t "copy in and out" bash -ec 'docker cp f k1:/root/f; same "$(docker exec k1 cat /root/f)" from-host; docker cp k1:/root/f - | tar tO >/dev/null'
t "volume and tmpfs" bash -ec 'docker exec k1 sh -c "echo x >/volume/x; echo x >/scratch/x; echo x >/dev/kmsg"; same "$(stat -c %u volume/x)" 0'
t "a terminal" docker exec k1 sh -c "test -c /dev/console; test -t 1 </dev/console >/dev/console; echo x >/dev/console"
t "a data root" bash -ec 'docker exec k1 sh -c "mkdir -p /var/lib/docker; echo inner >/var/lib/docker/x"'
t "restart, the overlay being put back between" bash -ec 'docker restart -t 0 k1; same "$(docker exec k1 cat /root/f /var/lib/docker/x | tr "\\n" " ")" "from-host inner "'
t "stop: what is put back has the engine's paths" bash -ec 'docker kill k1; docker cp k1:/root/f - | tar xO | grep -x from-host; docker diff k1 | grep -x "A /root/f"'
t "commit, and run it under runc" bash -ec 'docker commit k1 older >/dev/null; same "$(docker run --rm --runtime runc older cat /root/f)" from-host; docker rmi older'
docker rm -f k1 >/dev/null
# A dead shim is cleaned up after in the same way.
ours -d --name k2 $B sleep 1000 >/dev/null
t "a shim that was killed" bash -ec 'kill -9 $(pgrep -f "containerd-shim-sysbox-v2.*$(docker inspect -f "{{.Id}}" k2)"); for i in $(seq 100); do [ "$(docker inspect -f "{{.State.Running}}" k2)" = false ] && break; sleep 0.1; done; no grep -E "sysbox-view" /proc/self/mountinfo; docker start k2; docker exec k2 true'
docker rm -f k2 >/dev/null
