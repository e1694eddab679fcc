#!/bin/bash
# Installs the shim and its configuration, or removes them. Running it again changes nothing that is as it should be.
#   install.sh install [--binary FILE] [--containerd] [--docker] [--sysctl] [--dry-run] [--force]
#   install.sh upgrade [--binary FILE] [--dry-run] [--force]
#   install.sh uninstall [--dry-run] [--force]
# --containerd adds the handler `sysbox` for Kubernetes to containerd's configuration, --docker the runtimes `sysbox` and
# `sysbox-runc` to dockerd's; what is there stays, and uninstall takes ours out again. ctr, nerdctl and
# `docker run --runtime io.containerd.sysbox.v2` need neither, and no restart. --sysctl raises those of the kernel's bounds
# that all containers share (sysctl.conf), now and at each boot, and lowers none.
# Nothing is changed where containers cannot run, nor where an engine does not take what its file is to become. --force
# installs where containers cannot run yet, and uninstalls under containers that do.
# Environment: DESTDIR, a root to install below (packages, images); PREFIX, /usr/local; CONTAINERD_CONFIG,
# /etc/containerd/config.toml; DOCKER_CONFIG, /etc/docker/daemon.json.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
name=containerd-shim-sysbox-v2
binary=
bin=${DESTDIR-}${PREFIX:-/usr/local}/bin
etc=${DESTDIR-}/etc/containerd-shim-sysbox
dry=
force=
sysctl=
engines=()

usage() {
    sed -n '2,13s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
}

fail() {
    echo "install.sh: $1" >&2
    exit 1
}

# Says what is done, and does it unless this is a dry run.
act() {
    echo "$1"
    shift
    if [ -z "$dry" ]; then "$@"; fi
}

# A file appears whole or not at all, also under a shim that runs the old one.
put() { # source, target, mode
    install -d -m 0755 "$(dirname "$2")"
    install -m "$3" "$1" "$2.new"
    mv -f "$2.new" "$2"
}

# shellcheck source=deploy/engines.sh
. "$here/engines.sh"
# shellcheck source=deploy/sysctl.sh
. "$here/sysctl.sh"

# Fails where no container of ours can run.
approve_host() {
    local said status=0
    said=$("$binary" check 2>&1) || status=$?
    case $status in
        0) ;;
        126 | 127) fail "$binary: it cannot be run to check this host: $said" ;;
        *)
            printf '%s\n' "$said" >&2
            fail "containers cannot run on this host, so nothing is changed: see above, or use --force"
            ;;
    esac
}

install_all() {
    # Without a file to install, what is installed stays.
    if [ -z "$binary" ]; then
        binary=$here/$name
        if [ ! -e "$binary" ] && [ -e "$bin/$name" ]; then binary=$bin/$name; fi
    fi
    [ -f "$binary" ] || fail "$binary: no such file: build it with \`make build\` and name it with --binary"
    if [ -z "${DESTDIR-}" ] && [ "$(id -u)" -ne 0 ]; then fail "must be root, or set DESTDIR"; fi
    # What cannot be done is said before anything is.
    if [ -z "${DESTDIR-}$force" ]; then approve_host; fi
    for engine in "${engines[@]}"; do "check_$engine"; done
    if cmp -s "$binary" "$bin/$name" && [ -x "$bin/$name" ]; then
        echo "unchanged $bin/$name"
    else
        act "install $bin/$name" put "$binary" "$bin/$name" 0755
    fi
    if [ ! -e "$etc/config.toml" ]; then
        act "install $etc/config.toml" put "$here/config.toml" "$etc/config.toml" 0644
    elif cmp -s "$here/config.toml" "$etc/config.toml"; then
        echo "unchanged $etc/config.toml"
    else
        echo "kept $etc/config.toml, which differs from $here/config.toml"
    fi
    for engine in "${engines[@]}"; do "add_$engine"; done
    if [ -n "$sysctl" ]; then add_sysctl; fi
    if [ -z "${DESTDIR-}$dry" ]; then "$bin/$name" check || [ -n "$force" ]; fi
}

upgrade_all() {
    [ -e "$bin/$name" ] || fail "$bin/$name: not there to upgrade: use install"
    install_all
}

# containerd calls the binary to clean up after a shim, so it must outlive all of them.
running() {
    local exe
    for exe in /proc/[0-9]*/exe; do
        exe=$(readlink "$exe" 2>/dev/null) || continue
        if [ "${exe% (deleted)}" = "$bin/$name" ]; then return 0; fi
    done
    return 1
}

uninstall_all() {
    if [ -z "${DESTDIR-}" ] && [ "$(id -u)" -ne 0 ]; then fail "must be root, or set DESTDIR"; fi
    if [ -z "$force" ] && running; then
        fail "containers still run under $bin/$name: delete them first, or use --force"
    fi
    remove_containerd
    remove_docker
    remove_sysctl
    if [ -e "$bin/$name" ]; then act "remove $bin/$name" rm -f "$bin/$name"; fi
    if cmp -s "$here/config.toml" "$etc/config.toml"; then
        act "remove $etc/config.toml" rm -f "$etc/config.toml"
        if [ -z "$dry" ]; then rmdir --ignore-fail-on-non-empty "$etc"; fi
    elif [ -e "$etc/config.toml" ]; then
        echo "kept $etc/config.toml, which is not as it was shipped"
    fi
}

verb=${1-}
[ $# -eq 0 ] || shift
while [ $# -gt 0 ]; do
    case $1 in
        --binary) [ $# -ge 2 ] || usage; binary=$2; shift ;;
        --containerd | --docker) engines+=("${1#--}") ;;
        --sysctl) sysctl=1 ;;
        --dry-run) dry=1 ;;
        --force) force=1 ;;
        *) usage ;;
    esac
    shift
done
case $verb in
    install) install_all ;;
    upgrade) upgrade_all ;;
    uninstall) uninstall_all ;;
    *) usage ;;
esac
