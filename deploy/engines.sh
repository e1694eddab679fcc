# shellcheck shell=bash
# Sourced by install.sh: our runtime in the configuration of containerd's CRI plugin and of dockerd. What a file has stays:
# ours is added to it and taken out of it again. A new file is whole, and the engine has read it, before it takes the old
# one's place.

: "${here:?the directory of install.sh}"
containerd_config=${DESTDIR-}${CONTAINERD_CONFIG:-/etc/containerd/config.toml}
drop_in=$(dirname "$containerd_config")/conf.d/containerd-shim-sysbox.toml
docker_config=${DESTDIR-}${DOCKER_CONFIG:-/etc/docker/daemon.json}
mark="# containerd-shim-sysbox-v2"

# The path as the engine sees it, without DESTDIR.
seen() { echo "${1#"${DESTDIR-}"}"; }

# The configuration version of containerd's file; of the installed containerd where there is no file.
containerd_version() {
    if [ -s "$containerd_config" ]; then
        sed -n 's/^ *version *= *\([0-9]\+\).*/\1/p' "$containerd_config" | head -n1
        return
    fi
    case $(containerd --version 2>/dev/null | grep -o ' v\?[0-9]\+\.[0-9]\+' | head -n1) in
        *1.*) echo 2 ;;
        *2.*) echo 3 ;;
    esac
}

# Writes what is to become `$1`, from standard input, beside it, as its user and mode.
stage() {
    install -d -m 0755 "$(dirname "$1")"
    if [ -e "$1" ]; then cp -p "$1" "$1.new"; else install -m 0644 /dev/null "$1.new"; fi
    cat >"$1.new"
}

# Puts what was staged for `$1` in its place if `$2…`, given the new file, approves of it.
commit() {
    local file=$1
    shift
    if [ $# -gt 0 ] && ! "$@" "$file.new" >/dev/null; then
        rm -f "$file.new"
        fail "$file is as it was: the engine does not take it with our runtime"
    fi
    mv -f "$file.new" "$file"
}

# Commands that check a file, where the engine is here and looks at this root.
containerd_reads() { containerd -c "$1" config dump; }
dockerd_reads() { dockerd --validate --config-file "$1"; }
checker() { # engine, function
    if [ -z "${DESTDIR-}" ] && type -P "$1" >/dev/null; then echo "$2"; fi
}

# The file without what we put into it: our block of version 2, our lines and our import of version 3.
containerd_without() {
    [ -s "$containerd_config" ] || return 0
    # shellcheck disable=SC1003 # sed's: a newline at the end
    sed -e "/^$mark: begin\$/,/^$mark: end\$/d" -e "/ $mark\$/d" -e "s|\"$(seen "$drop_in")\", *||" -e '$a\' "$containerd_config"
}

# The file with it, for configuration version $1.
containerd_with() {
    if [ "$1" = 2 ]; then
        # containerd 1.7 replaces a plugin's section by an imported one, so a drop-in would lose what the file says.
        [ -s "$containerd_config" ] || echo "version = 2 $mark"
        containerd_without
        echo "$mark: begin"
        sed -n '/^\[/,$p' "$here/containerd/sysbox-v2.toml"
        echo "$mark: end"
    elif ! [ -s "$containerd_config" ]; then
        printf 'version = 3 %s\nimports = ["%s"] %s\n' "$mark" "$(seen "$drop_in")" "$mark"
    elif containerd_without | grep -q '^ *imports *= *\['; then
        containerd_without | sed "0,/^ *imports *= *\[/s|^ *imports *= *\[|&\"$(seen "$drop_in")\", |"
    else
        containerd_without | sed "0,/^ *version *=.*/s|^ *version *=.*|&\nimports = [\"$(seen "$drop_in")\"] $mark|"
    fi
}

check_containerd() {
    local version
    version=$(containerd_version)
    case $version in
        2 | 3) ;;
        *) fail "$containerd_config: version ${version:-none}: need 2 (containerd 1.7) or 3 (2.x): see \`containerd config migrate\`" ;;
    esac
    if containerd_without | grep -q 'runtimes\.sysbox\]'; then
        fail "$containerd_config: it has a handler sysbox that is not ours: remove it or do without --containerd"
    fi
}

add_containerd() {
    local version check
    version=$(containerd_version)
    check=$(checker containerd containerd_reads)
    if [ "$version" = 3 ]; then
        if cmp -s "$here/containerd/sysbox-v3.toml" "$drop_in"; then
            echo "unchanged $drop_in"
        else
            act "install $drop_in" put "$here/containerd/sysbox-v3.toml" "$drop_in" 0644
        fi
    fi
    if [ -e "$containerd_config" ] && containerd_with "$version" | cmp -s - "$containerd_config"; then
        echo "unchanged $containerd_config"
    else
        act "change $containerd_config: restart containerd to use the handler sysbox" change_containerd "$version" "$check"
    fi
}

change_containerd() { # version, checking function
    containerd_with "$1" | stage "$containerd_config"
    commit "$containerd_config" ${2:+"$2"}
}

remove_containerd() {
    if [ -s "$containerd_config" ] && [ -z "$(containerd_without)" ]; then
        act "remove $containerd_config" rm -f "$containerd_config"
    elif [ -e "$containerd_config" ] && grep -qF -e "$mark" -e "$(seen "$drop_in")" "$containerd_config"; then
        act "change $containerd_config: restart containerd" take_from_containerd
    fi
    if [ -e "$drop_in" ]; then act "remove $drop_in" rm -f "$drop_in"; fi
}

take_from_containerd() {
    containerd_without | stage "$containerd_config"
    commit "$containerd_config"
}

# Standard input, a daemon.json, as `$1` makes it: `with` our runtimes (one of the same name that it has is the user's),
# `without` those that are as we made them, `same` for comparison.
docker_json() {
    python3 -c '
import json, sys
ours = json.load(open(sys.argv[2]))["runtimes"]
config = json.load(sys.stdin)
runtimes = config.setdefault("runtimes", {})
if sys.argv[1] == "with":
    config["runtimes"] = {**runtimes, **{k: v for k, v in ours.items() if k not in runtimes}}
elif sys.argv[1] == "without":
    config["runtimes"] = {k: v for k, v in runtimes.items() if ours.get(k) != v}
if not config["runtimes"]:
    del config["runtimes"]
print(json.dumps(config, indent=2))' "$1" "$here/daemon.json"
}

check_docker() {
    [ -s "$docker_config" ] || return 0
    type -P python3 >/dev/null ||
        fail "$docker_config: merging needs python3: install it, or add what $here/daemon.json has by hand"
    docker_json same <"$docker_config" >/dev/null || fail "$docker_config: not JSON: mend it first"
}

add_docker() {
    local hint="reload dockerd to use the runtimes sysbox and sysbox-runc"
    if ! [ -s "$docker_config" ]; then
        act "install $docker_config: $hint" put "$here/daemon.json" "$docker_config" 0644
    elif cmp -s <(docker_json with <"$docker_config") <(docker_json same <"$docker_config"); then
        echo "unchanged $docker_config"
    else
        act "change $docker_config: $hint" change_docker with "$(checker dockerd dockerd_reads)"
    fi
}

change_docker() { # with or without, checking function
    # shellcheck disable=SC2094 # what is written is another file
    docker_json "$1" <"$docker_config" | stage "$docker_config"
    commit "$docker_config" ${2:+"$2"}
}

remove_docker() {
    [ -s "$docker_config" ] || return 0
    if cmp -s "$here/daemon.json" "$docker_config"; then
        act "remove $docker_config" rm -f "$docker_config"
    elif ! cmp -s <(docker_json without <"$docker_config") <(docker_json same <"$docker_config"); then
        act "change $docker_config: reload dockerd" change_docker without
    fi
}
