# Docker's systemd cgroup driver: what holds under runc holds under ours.
for R in runc sysbox; do
export R
t "$R: a delegated scope" bash -ec 'trap tidy EXIT; run --name c1 $B sleep 1000; u=$(unit c1)
    same "$(value $u SubState) $(value $u Delegate) $(value $u Slice) $(value $u Transient)" "running yes system.slice yes"
    same "$(value $u ControlGroup)" "/system.slice/$u"; same "$(value $u DevicePolicy)" strict
    value $u DeviceAllow | grep "^/dev/char/1:3 rwm"; value $u DeviceAllow | grep -E "^char-(136|pts) rwm"
    docker exec c1 sh -ec "echo x >/dev/null; head -c1 /dev/zero >/dev/null"
    docker rm -f c1; gone $u'
t "$R: the slice that is asked for" bash -ec 'trap tidy EXIT; run --name c1 --cgroup-parent ci-a.slice $B sleep 1000; u=$(unit c1)
    same "$(value $u ControlGroup)" "/ci.slice/ci-a.slice/$u"; same $(value ci-a.slice ActiveState) active; docker rm -f c1; gone $u'
t "$R: it ends with its container, and starts again" bash -ec 'trap tidy EXIT; run --name c1 $B sh -c "sleep 0.2"; u=$(unit c1); docker wait c1; gone $u
    docker start c1; docker wait c1; gone $u; docker rm c1'
t "$R: what else systemd does leaves it alone" bash -ec 'trap tidy EXIT; run --name c1 --cgroup-parent ci-a.slice $B sleep 1000; u=$(unit c1)
    before=$(systemctl show $u | grep -vE "^(CPU|IO|IP|Memory|Tasks|Effective|Memory).*=" | sort); pids=$(procs $u)
    systemd-run --quiet --slice=ci-a.slice --unit=other sleep 1000
    systemctl set-property --runtime other.service CPUWeight=50; systemctl set-property --runtime ci.slice TasksMax=5000
    systemctl daemon-reload; systemctl daemon-reexec; systemctl stop other.service; systemctl daemon-reload
    same "$(systemctl show $u | grep -vE "^(CPU|IO|IP|Memory|Tasks|Effective|Memory).*=" | sort)" "$before"
    same "$(procs $u)" "$pids"; docker exec c1 true; docker rm -f c1; gone $u'
t "$R: a stop of the scope ends the container" bash -ec 'trap tidy EXIT; run --name c1 $B sh -c "trap \"exit 3\" TERM; echo ready; while :; do sleep 0.1; done"
    u=$(unit c1); soon eval "docker logs c1 | grep ready"; systemctl stop $u; same $(timeout 20 docker wait c1) 3; gone $u; docker rm c1'
t "$R: a kill of the scope, too" bash -ec 'trap tidy EXIT; run --name c1 $B sleep 1000; u=$(unit c1); systemctl kill --signal=KILL $u; same $(timeout 20 docker wait c1) 137; gone $u; docker rm c1'
t "$R: a shim that is killed leaves no unit" bash -ec 'trap tidy EXIT; run --name c1 $B sleep 1000; u=$(unit c1); pkill -KILL -f "containerd-shim.* -id $(docker inspect -f "{{.Id}}" c1)"
    timeout 20 docker wait c1; gone $u; docker rm -f c1'
t "$R: one of the name that has failed is no obstacle" bash -ec 'trap tidy EXIT; c=$(docker create --runtime $R --network none --name c1 $B sleep 1000)
    systemd-run --quiet --scope --unit=docker-$c --property=RuntimeMaxSec=1 sleep 100 & i=0
    soon eval "[ \$(systemctl show -P ActiveState docker-$c.scope) = failed ]"; docker start c1; same $(value docker-$c.scope SubState) running; docker rm -f c1; gone docker-$c.scope'
done
R=sysbox
# runc refuses it as well, but stops it when it cleans up.
t "a unit of the name that runs is let alone" bash -ec 'trap tidy EXIT; c=$(docker create --runtime $R --network none --cgroup-parent ci.slice --name c1 $B sleep 1000)
    systemd-run --quiet --scope --unit=docker-$c sleep 100 & soon eval "[ \$(value docker-$c.scope SubState) = running ]"
    no docker start c1; same $(value docker-$c.scope SubState) running; docker rm -f c1; same $(value docker-$c.scope SubState) running
    systemctl stop docker-$c.scope; gone docker-$c.scope'
t "starts while systemd executes itself anew" bash -ec 'trap tidy EXIT; for i in 1 2 3 4 5; do run --name r$i $B sleep 1000 & systemctl daemon-reexec; wait $!; done
    for i in 1 2 3 4 5; do same $(value $(unit r$i) SubState) running; u="$u $(unit r$i)"; done; docker rm -f r1 r2 r3 r4 r5; for one in $u; do gone $one; done'
t "root inside makes cgroups, the limits stay out of reach" bash -ec 'trap tidy EXIT; run --name c1 $B sleep 1000
    docker exec c1 sh -ec "mkdir /sys/fs/cgroup/a; echo 0 >/sys/fs/cgroup/a/cgroup.procs; ! echo 5 >/sys/fs/cgroup/cgroup.max.descendants"; u=$(unit c1); docker rm -f c1; gone $u'
t "its devices and no others" bash -ec 'trap tidy EXIT; run --name c1 --device /dev/loop-control $B sleep 1000; value $(unit c1) DeviceAllow | grep "^/dev/char/10:237 rwm"
    docker exec c1 sh -c ": </dev/loop-control"; u=$(unit c1); docker rm -f c1; gone $u'
t "check tries one" bash -ec 'containerd-shim-sysbox-v2 check | grep "made, run and removed on .*, in a scope of systemd"; gone "sysbox-check*"'
t "-info says so" bash -ec 'trap tidy EXIT; containerd-shim-sysbox-v2 -info </dev/null | grep -a "\"systemd\":true"'
