# The bridge, which nerdctl's hooks createRuntime and poststop set up and take down.
addresses() { ls -A /var/lib/cni/networks/bridge 2>/dev/null | grep -c '^10\.' || true; }
served() { timeout 2 bash -c "exec 3<>/dev/tcp/$1/$2; cat <&3"; }
export -f addresses served
serve='while :; do echo served | nc -l -p 80; done'
export serve
t "an address, a route, a name" bash -ec 'ours --rm --hostname h1 $B sh -ec "ip -4 addr show eth0 | grep 10.4.0; ip route | grep default; grep h1 /etc/hosts; test -s /etc/resolv.conf"'
# nerdctl deletes the task, and so runs poststop, when the container starts again or goes.
t "addresses are given back" bash -ec 'same $(addresses) 0; ours -d --name w1 $B sleep 1000; same $(addresses) 1; n restart -t 0 w1; same $(addresses) 1; n stop -t 0 w1; n rm w1; same $(addresses) 0; ours --rm $B true; same $(addresses) 0'
t "a published port, gone with the container" bash -ec 'ours -d --name w1 -p 8081:80 $B sh -c "$serve"; until_same 10 served served 127.0.0.1 8081; n port w1 | grep 8081; iptables-save -t nat | grep 8081; n rm -f w1; until_same 5 "" bash -c "iptables-save -t nat | grep 8081"'
t "a port after stop and start" bash -ec 'ours -d --name w1 -p 8081:80 $B sh -c "$serve"; n stop -t 0 w1; n start w1; until_same 10 served served 127.0.0.1 8081; n rm -f w1'
t "containers reach each other" bash -ec 'ours -d --name w1 $B sh -c "$serve"; a=$(n inspect -f "{{.NetworkSettings.IPAddress}}" w1); until_same 10 served ours --rm $B nc $a 80; n rm -f w1'
t "a network with names" bash -ec 'n network create net1; ours -d --name w1 --net net1 $B sh -c "$serve"; until_same 10 served ours --rm --net net1 $B nc w1 80; n rm -f w1; n network rm net1'
t "no network" bash -ec 'same "$(ours --rm --net none $B ls /sys/class/net)" lo'
t "the node cannot be had" bash -ec 'no ours --rm --net host $B true 2>err; grep "linux.namespaces" err; grep network err'
