# $B is the image, $R the runtime under test.
B=localhost/busybox
same() { [ "$1" = "$2" ] || { echo "got '$1', wanted '$2'"; return 1; }; }
no() { if "$@"; then echo "it passed: $*"; return 1; fi; }
run() { docker run -d --runtime $R --network none "$@"; }
# The unit of a docker container, a property of a unit, and its directory.
unit() { docker inspect -f 'docker-{{.Id}}.scope' "$1"; }
value() { systemctl show -P "$2" "$1"; }
dir() { echo /sys/fs/cgroup$(value "$1" ControlGroup); }
procs() { cat $(find $(dir $1) -name cgroup.procs); }
# One failure is one.
tidy() { docker rm -f c1 >/dev/null 2>&1 || true; }
soon() { i=0; until "$@" >/dev/null 2>&1; do sleep 0.05; i=$((i + 1)); [ $i -lt 200 ] || { "$@"; return 1; }; done; }
none() { [ -z "$(systemctl list-units --all --plain --no-legend "$1")" ] && [ -z "$(find /sys/fs/cgroup -name "$1")" ]; }
# Nothing of a unit is left, neither in systemd nor of its directory.
gone() { soon none "$1"; }
export B R
export -f same no run unit value dir procs tidy soon none gone
cd $(mktemp -d)
