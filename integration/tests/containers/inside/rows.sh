# One line a check: `ok NAME` or `not ok NAME: what was printed`. Read by rows.rs; comes before the other scripts here.
export HOME=/root LC_ALL=C
t() {
    name=$1
    shift
    # Not the script's own input, which this one is still being read from.
    if output=$(timeout 60 "$@" 2>&1 </dev/null); then
        echo "ok $name"
    else
        echo "not ok $name: exit $?: $(printf %s "$output" | tail -n 5 | tr '\n' ' ' | cut -c1-700)"
    fi
}
