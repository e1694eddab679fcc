# What an administrator of the outer engine meets: its builds, and its accounts of disk space.
in_use() { docker inspect -s -f "{{.SizeRw}}" "$1"; }
more() { [ "$1" -gt "$2" ] || { echo "$1 is not more than $2"; return 1; }; }
export -f in_use more
# RUN says whose ids it has; the image is looked at under runc, which changes none.
printf 'FROM %s\nRUN cat /proc/self/uid_map >/map\n' $B >Dockerfile
map() { docker run --rm --runtime runc "$1" awk '{print $1, $2, $3}' /map; }
export -f map
t "BuildKit runs RUN by runc whatever the default runtime is" bash -ec 'DOCKER_BUILDKIT=1 docker build -q -t kit .; same "$(map kit)" "0 0 4294967295"'
t "the classic builder runs it by ours" bash -ec 'DOCKER_BUILDKIT=0 docker build -q -t classic . 2>/dev/null; map classic | grep -E "^0 [0-9]{7,} [0-9]+$"'
docker rmi kit classic >/dev/null
docker builder prune -af >/dev/null
# What its runc keeps.
rmdir /sys/fs/cgroup/docker/buildkit /run/runc

ours -d --name s1 $B sleep 1000 >/dev/null
t "what is in the layer counts" bash -ec 'docker exec s1 dd if=/dev/zero of=/root/f bs=1M count=8 2>/dev/null; more $(in_use s1) 8000000; docker exec s1 rm /root/f; more 1000000 $(in_use s1)'
t "what is in a data root does not while it runs" bash -ec 'docker exec s1 dd if=/dev/zero of=/var/lib/docker/f bs=1M count=8 2>/dev/null; more 1000000 $(in_use s1)'
t "and does when it is stopped" bash -ec 'docker stop -t 0 s1; more $(in_use s1) 8000000'
docker rm -f s1 >/dev/null
ours -d --name s2 -v inner:/var/lib/docker $B sleep 1000 >/dev/null
t "a volume there counts as one" bash -ec 'docker exec s2 dd if=/dev/zero of=/var/lib/docker/f bs=1M count=8 2>/dev/null; docker system df -v --format "{{json .Volumes}}" | grep -E "\"Name\":\"inner\".*\"Size\":\"8\.[0-9]+MB\""'
docker rm -f s2 >/dev/null
docker volume rm inner >/dev/null
