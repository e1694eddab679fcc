#!/bin/bash
# Installs the Debian or Ubuntu packages that building and testing need, and says which; where it cannot, it prints what is
# missing and how to get it, and exits 1.
#   setup.sh           what the integration tests, the demo and the benchmarks need
#   setup.sh --build   what building and the unit tests need
set -euo pipefail

build=(gcc g++ make binutils libc6-dev libseccomp-dev)
tests=(mmdebstrap iproute2 ca-certificates)
cargo_floor=1.91

packages=("${build[@]}")
[ "${1-}" = --build ] || packages+=("${tests[@]}")
lacks=()

at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n1)" = "$1" ]; }

if ! version=$(cargo --version 2>/dev/null | cut -d' ' -f2) || ! at_least "$cargo_floor" "$version"; then
    lacks+=("cargo $cargo_floor or newer (here: ${version:-none}): install rustup, then 'rustup toolchain install stable'")
fi

if type -P dpkg-query >/dev/null; then
    missing=()
    for package in "${packages[@]}"; do
        dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
    done
    if [ ${#missing[@]} -gt 0 ]; then
        if [ "$(id -u)" -eq 0 ]; then
            echo "setup: installing ${missing[*]}"
            export DEBIAN_FRONTEND=noninteractive
            { apt-get install -qq -y --no-install-recommends "${missing[@]}" ||
                { apt-get update -qq && apt-get install -qq -y --no-install-recommends "${missing[@]}"; }; } \
                </dev/null >/dev/null || lacks+=("packages ${missing[*]}: apt-get could not install them (no network?)")
        else
            lacks+=("packages ${missing[*]}: as root, apt-get install ${missing[*]}")
        fi
    fi
else
    # Another distribution: name what is not there, by what it is needed for.
    for tool in gcc g++ readelf; do
        type -P "$tool" >/dev/null || lacks+=("$tool")
    done
    compgen -G '/usr/lib*/libseccomp.a' >/dev/null || compgen -G '/usr/lib/*/libseccomp.a' >/dev/null ||
        lacks+=("libseccomp.a: the static library of libseccomp (libseccomp-static, libseccomp-dev)")
    [ "${1-}" = --build ] || type -P mmdebstrap >/dev/null || lacks+=("mmdebstrap: builds the nodes from Debian packages")
fi

if [ "${1-}" != --build ]; then
    [ "$(id -u)" -eq 0 ] || lacks+=("root: the tests start containerd and make mounts in namespaces of their own")
    release=$(uname -r)
    at_least 6.3 "$release" || lacks+=("Linux 6.3 or newer (here: $release)")
fi

if [ ${#lacks[@]} -gt 0 ]; then
    echo "setup: this machine lacks" >&2
    printf '  %s\n' "${lacks[@]}" >&2
    exit 1
fi
