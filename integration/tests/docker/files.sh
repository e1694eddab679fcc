# Files between the host and a container: owners, kinds, and what a hostile container makes of it.
ours -d --name c1 $B sleep 1000 >/dev/null
t "the host has a view" bash -ec 'grep -q "fuse.sysbox-view" /proc/self/mountinfo'
t "the container has no device of it" bash -ec 'no docker exec c1 grep fuse.sysbox-view /proc/self/mountinfo'

echo from-host >f; chown 33:44 f; chmod 4751 f; mkdir -p d/sub; echo x >d/sub/x; ln -s sub/x d/link; ln d/sub/x d/hard; mkfifo d/fifo
docker cp c1:/bin/busybox capable; setcap cap_net_raw+ep capable
for state in running paused stopped; do
    [ $state = paused ] && docker pause c1 >/dev/null
    [ $state = stopped ] && docker kill c1 >/dev/null
    t "$state: copy in" bash -ec "docker cp -a f c1:/root/$state; docker cp -a d c1:/root/d-$state; docker cp capable c1:/root/busybox-$state"
    t "$state: copy out" bash -ec "rm -rf out; docker cp -a c1:/root out; same \$(stat -c %a out/$state) 4751; same \$(cat out/d-$state/link) x; same \$(stat -c %h out/d-$state/hard) 2; test -p out/d-$state/fifo"
    t "$state: archive" bash -ec "docker cp c1:/root - | tar tv --numeric-owner | grep -E '33/44 .* root/$state\$'"
    [ $state = paused ] && docker unpause c1 >/dev/null
done
docker start c1 >/dev/null
for state in running paused stopped; do
    t "$state: owners inside" bash -ec "same \$(inside c1 /root/$state) 33:44:4751; same \$(inside c1 /root/d-$state/sub/x) 0:0:644"
    t "$state: capabilities inside" bash -ec "docker exec c1 /root/busybox-$state true"
    t "$state: names of one file" bash -ec "same \$(docker exec c1 stat -c %h /root/d-$state/hard) 2"
done
t "what the container writes is seen at once" bash -ec 'for i in 1 2 3; do docker exec c1 sh -c "echo $i >/root/now"; same "$(docker cp c1:/root/now - | tar xO)" $i; done'
t "what the host writes is seen at once" bash -ec 'for i in 1 2 3; do echo $i >now; docker cp now c1:/root/now; same "$(docker exec c1 cat /root/now)" $i; done'
t "a removed file is gone" bash -ec 'docker exec c1 rm /root/now; no docker cp c1:/root/now -'
t "diff" bash -ec 'docker diff c1 | grep -x "A /root/running"'
# After an export dockerd 26 never lets go of the layer, under whichever runtime.
[[ $(docker version -f "{{.Server.Version}}") = 26.* ]] || t "export" bash -ec 'docker export c1 | tar tv --numeric-owner >list; grep -E "33/44 .* root/running$" list; no grep -E "^[^ ]+ [0-9]{7,}/" list'
t "on disk are the ids of the inside" bash -ec 'dir=$(layer c1); [ "$dir" = "<no value>" ] || same $(stat -c %u:%g "$dir/root/running") 33:44'
t "commit, and run it under runc" bash -ec 'docker commit c1 files >/dev/null; same "$(docker run --rm --runtime runc files stat -c %u:%g:%a /root/running)" 33:44:4751; docker run --rm --runtime runc files /root/busybox-running true'
t "commit, and run it under ours" bash -ec 'same "$(ours --rm files stat -c %u:%g:%a /root/running)" 33:44:4751; docker rmi files'
t "users by name" bash -ec 'same "$(docker exec -u nobody c1 id -un)" nobody; docker exec c1 sh -c "echo me:x:77:78::/:/bin/sh >>/etc/passwd"; same "$(docker exec -u me c1 id -u)" 77'
t "the workdir is made" bash -ec 'same "$(ours --rm -w /new/dir $B stat -c %u:%g .)" 0:0'

# Links lead nowhere, however long the way.
echo secret >/run/secret
docker exec c1 sh -c 'ln -s /run/secret /root/abs; ln -s ../../../../../../../../run/secret /root/rel; ln -s /run /root/dir; ln -s /proc/1/root/run/secret /root/magic; mkdir /root/loop; ln -s loop /root/loop/loop; mkfifo /root/pipe; d=/root/deep; for i in $(seq 60); do d=$d/dddddddddddddddddddddddd; done; mkdir -p $d; touch $d/f'
for path in abs rel dir/secret magic; do
    t "no link leads out: $path" bash -ec "! docker cp -L c1:/root/$path - | grep -a secret"
done
t "nor in" bash -ec 'echo evil >secret; docker cp secret c1:/root/dir/ || true; same "$(cat /run/secret)" secret'
t "a pipe is copied, not opened" bash -ec 'docker cp c1:/root/pipe - | tar tv | grep ^p'
t "a deep tree" bash -ec 'docker cp c1:/root/deep - | tar t | tail -1 | grep d/f'
t "no device comes in" bash -ec 'mkdir dev; mknod dev/null c 1 3; no docker cp dev c1:/root/dev; no docker exec c1 test -c /root/dev/null'
# Root of the host itself, at the path where dockerd has it.
view=$(grep fuse.sysbox-view /proc/self/mountinfo | cut -d' ' -f5)
export view
t "only the host's root may look" bash -ec 'no setpriv --reuid 1 --regid 1 --clear-groups ls "$view" 2>/dev/null; no setpriv --regid 1 --keep-groups ls "$view"'
t "files, links, renames" bash -ec 'cd "$view/tmp"; mkdir a; echo 1 >a/f; mv a b; ln b/f g; ln -s g h; same $(cat h) 1; truncate -s 5 b/f; same $(stat -c %s g) 5; touch -d @7 g; same $(stat -c %Y b/f) 7; chmod 600 g; chown 5:6 g; rm b/f; rmdir b; rm h; same "$(inside c1 /tmp/g)" 5:6:600; rm g'
t "attributes and access lists" bash -ec 'cd "$view/tmp"; echo 1 >f; setfacl -m u:33:r f; docker exec c1 true; getfacl -n f | grep user:33:r; no setfattr -n trusted.x -v y f 2>/dev/null; rm f'
t "a file that is open when it is removed" bash -ec 'cd "$view/tmp"; exec 5>f; rm f; echo gone >&5; stat -L -c %s /proc/self/fd/5; exec 5>&-'
t "statfs" bash -ec 'df "$view" | grep sysbox-view'
# As a dockerd that comes back to running containers does. On a busy machine the shim may be late, but not always.
cp "$(command -v stat)" dockerd-stat
t "an engine that asks for the type sees the overlay, and then there is the view" bash -ec 'for i in 1 2 3 4 5; do same "$(./dockerd-stat -f -c %T "$view")" overlayfs; sleep 0.2; if docker cp f c1:/root/seen; then break; fi; sleep 0.5; done; same "$(inside c1 /root/seen)" 33:44:4751; same "$(stat -f -c %T "$view")" fuse'
docker rm -f c1 >/dev/null
rm /run/secret
# Marks of inner overlays that an image brings: what a commit writes, and what an attacker would.
marks() { printf "sysbox-overlay-marks 1\\0$1" >var/lib/docker/.sysbox-overlay-marks; docker create --runtime runc --name m1 $B true; docker cp var m1:/; docker commit m1 marks; docker rm m1; }
export -f marks
mkdir -p var/lib/docker/layer
ln -s /etc var/lib/docker/out
t "marks of inner overlays in an image, some through a link" bash -ec 'marks "dlayer\0oy\0wgone\0dout\0wpasswd\0wnew\0"; same "$(ours --rm marks sh -ec "cat /etc/passwd >/dev/null; cd /var/lib/docker; test ! -e out/new; stat -c %t,%T:%u layer/gone; ls -A" | tr "\n" " ")" "0,0:0 layer out "; docker rmi marks'
t "forged ones" bash -ec 'marks "dlayer\0wgone\0d../../../etc\0wpasswd\0"; same "$(ours --rm marks sh -ec "cat /etc/passwd >/dev/null; ls -A /var/lib/docker/layer")" ""; docker rmi marks'
t "two containers of different ranges share a named volume" bash -ec 'ours --rm -v v1:/v $B sh -c "echo a >/v/f; chown 5:6 /v/f"; same "$(ours --rm -v v1:/v $B stat -c %u:%g /v/f)" 5:6; ours --rm -v v1:/v $B sh -c "echo b >>/v/f"; same "$(docker run --rm --runtime runc -v v1:/v $B stat -c %u:%g /v/f)" 5:6; docker volume rm v1'
t "and a directory of the host, at the same time" bash -ec 'mkdir shared; ours -d --name w1 -v $PWD/shared:/v $B sleep 100; ours -d --name w2 -v $PWD/shared:/v $B sleep 100; docker exec w1 sh -c "echo a >/v/f; chown 5:6 /v/f"; same "$(inside w2 /v/f)" 5:6:644; docker exec w2 rm /v/f; no docker exec w1 ls /v/f; a=$(docker exec w1 cat /proc/self/uid_map); [ "$a" != "$(docker exec w2 cat /proc/self/uid_map)" ]; docker rm -f w1 w2'
t "an anonymous volume goes with its container" bash -ec 'ours --rm -v /data $B sh -c "touch /data/x"; [ -z "$(docker volume ls -q)" ]'
t "read-only" bash -ec 'no ours --rm --read-only $B touch /x'
