# $B is the image, n is nerdctl, ours a run with our runtime.
B=localhost/busybox:latest
same() { [ "$1" = "$2" ] || { echo "got '$1', wanted '$2'"; return 1; }; }
# For what must fail: `! x` in the midst of a script counts for nothing.
no() { if "$@"; then echo "it passed: $*"; return 1; fi; }
# until_same SECONDS WANTED COMMAND…
until_same() {
    end=$((SECONDS + $1)) wanted=$2
    shift 2
    until [ "$("$@" 2>/dev/null)" = "$wanted" ]; do
        [ $SECONDS -lt $end ] || { same "$("$@" 2>&1)" "$wanted"; return; }
        sleep 0.2
    done
}
state() { n inspect -f "{{.State.Status}} {{.State.ExitCode}}" "$1"; }
export B
export -f n ours same no until_same state
work=$(mktemp -d)
cd "$work"
trap 'rm -rf "$work"' EXIT
