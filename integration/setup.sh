#!/bin/bash
# Installs the Debian or Ubuntu packages that building needs, and says which; where it cannot, it prints what is missing
# and how to get it, and exits 1. What the tests need beside it, `setup` of this directory installs.
set -euo pipefail

packages=(gcc g++ make binutils libc6-dev libseccomp-dev)
cargo_floor=1.91
lacks=()

at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n1)" = "$1" ]; }

version=$(cargo --version 2>/dev/null | cut -d' ' -f2) || version=none
if [ "$version" = none ] || ! at_least "$cargo_floor" "$version"; then
    lacks+=("cargo $cargo_floor or newer (here: $version): install rustup, then 'rustup toolchain install stable'")
fi

if type -P dpkg-query >/dev/null; then
    missing=()
    for package in "${packages[@]}"; do
        dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
    done
    if [ ${#missing[@]} -gt 0 ] && [ "$(id -u)" -eq 0 ]; then
        echo "setup: installing on this machine: ${missing[*]}"
        export DEBIAN_FRONTEND=noninteractive
        { apt-get update -qq && apt-get install -qq -y --no-install-recommends "${missing[@]}"; } </dev/null >/dev/null ||
            lacks+=("${missing[*]}: apt-get could not install them; is there a network?")
    elif [ ${#missing[@]} -gt 0 ]; then
        lacks+=("${missing[*]}: as root, apt-get install ${missing[*]}")
    fi
else
    # Another distribution: what is not there, by what it is for.
    for tool in gcc g++ readelf; do
        type -P "$tool" >/dev/null || lacks+=("$tool")
    done
    compgen -G '/usr/lib*/libseccomp.a' >/dev/null || compgen -G '/usr/lib/*/libseccomp.a' >/dev/null ||
        lacks+=("libseccomp.a, the static library of libseccomp (package libseccomp-static)")
fi

if [ ${#lacks[@]} -gt 0 ]; then
    echo "setup: to build, this machine lacks" >&2
    printf '  %s\n' "${lacks[@]}" >&2
    exit 1
fi
