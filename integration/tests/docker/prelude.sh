# $B is the image, ours a run with our runtime.
B=localhost/busybox
ours() { docker run --runtime sysbox "$@"; }
# The owner and mode of what a container has at a path.
inside() { docker exec "$1" stat -c %u:%g:%a "$2"; }
same() { [ "$1" = "$2" ] || { echo "got '$1', wanted '$2'"; return 1; }; }
# For what must fail: `! x` in the midst of a script counts for nothing.
no() { if "$@"; then echo "it passed: $*"; return 1; fi; }
layer() { docker inspect -f '{{.GraphDriver.Data.UpperDir}}' "$1"; }
export B
export -f ours inside same no layer
work=$(mktemp -d)
cd "$work"
trap 'rm -rf "$work"' EXIT
