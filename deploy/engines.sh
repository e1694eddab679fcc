# shellcheck shell=bash
# Sourced by install.sh: our runtime in the configuration of containerd's CRI plugin and of dockerd. What a file has stays:
# ours is added to it and taken out of it again. What a file is to become is read by its engine before anything on this host
# is changed, and takes the old one's place whole.

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

# Makes standard input, which may come of the file itself, the content of `$1`, whose user and mode stay.
replace() {
    install -d -m 0755 "$(dirname "$1")"
    if [ -e "$1" ]; then cp -p "$1" "$1.new"; else install -m 0644 /dev/null "$1.new"; fi
    cat >"$1.new"
    mv -f "$1.new" "$1"
}

# Whether the engine is here and looks at this root, so that it can be asked.
can_ask() { [ -z "${DESTDIR-}" ] && type -P "$1" >/dev/null; }

# Has a command of the engine's read standard input as a file beside `$1`, to which its imports may be relative. What it
# complains of is shown where it fails.
ask() { # file, words before the name of the file that is read, words after it
    local dir scratch status=0
    dir=$(dirname "$1")
    [ -d "$dir" ] || dir=${TMPDIR:-/tmp}
    scratch=$(mktemp "$dir/.$name.XXXXXX")
    cat >"$scratch"
    # shellcheck disable=SC2086 # words
    $2 "$scratch" ${3-} 2>"$scratch.said" || status=$?
    if [ $status -ne 0 ]; then cat "$scratch.said" >&2; fi
    rm -f "$scratch" "$scratch.said"
    return $status
}

# The file without what we put into it: our block of version 2, our lines and our import of version 3.
containerd_without() {
    [ -s "$containerd_config" ] || return 0
    # shellcheck disable=SC1003 # sed's: a newline at the end
    sed -e "/^$mark: begin\$/,/^$mark: end\$/d" -e "/ $mark\$/d" -e "s|\"$(seen "$drop_in")\", *||" -e '$a\' "$containerd_config"
}

# Whether there is nothing in the file but what is ours.
is_bare() { [ -z "$(containerd_without)" ]; }

# Whether the rest has a line like `$1`. Not by a pipe, which breaks, and is a failure then, where grep has seen enough.
says() { grep -q "$1" <<<"$(containerd_without)"; }

# The file with it, for configuration version $1, the drop-in of version 3 being at $2.
containerd_with() {
    local first='^\['
    if [ "$1" = 2 ]; then
        # containerd 1.7 replaces a plugin's section by an imported one, so a drop-in would lose what the file says. And it
        # has its own table of handlers, which is runc, only where the file has none.
        if is_bare; then echo "version = 2 $mark"; fi
        containerd_without
        if says '^[^#]*\<runtimes\>'; then first='runtimes\.sysbox\]$'; fi
        echo "$mark: begin"
        sed -n "/$first/,\$p" "$here/containerd/sysbox-v2.toml"
        echo "$mark: end"
    elif is_bare; then
        printf 'version = 3 %s\nimports = ["%s"] %s\n' "$mark" "$2" "$mark"
    elif says '^ *imports *= *\['; then
        containerd_without | sed "0,/^ *imports *= *\[/s|^ *imports *= *\[|&\"$2\", |"
    else
        containerd_without | sed "0,/^ *version *=.*/s|^ *version *=.*|&\nimports = [\"$2\"] $mark|"
    fi
}

# What containerd makes of standard input as its file.
dump() { ask "$containerd_config" "containerd -c" "config dump"; }

# Names and types of the CRI plugin's handlers in such a dump, a line each.
handlers() {
    sed -n -e "s/^ *\[plugins\..*\.containerd\.runtimes\.\([^].]*\|\"[^\"]*\"\|'[^']*'\)\]\$/table \1/p" \
        -e 's/^ *runtime_type = /type /p' -e 's/^ *\[.*/table/p' |
        tr -d "\"'" | awk '$1 == "table" { name = $2 } $1 == "type" && name != "" { print name, $2 }' | sort
}
default_handler() { sed -n "s/^ *default_runtime_name = ['\"]\(.*\)['\"]\$/\1/p"; }

# Fails unless containerd takes the file with ours, and has every handler then that it has without, the default one above all:
# where that lacks its table the CRI plugin does not load, and every pod of the node is down.
approve_containerd() { # version
    local before after lost default
    before=$(containerd_without | dump) || fail "$containerd_config: containerd does not read it: mend it first"
    default=$(default_handler <<<"$before")
    [ -n "$default" ] ||
        fail "$containerd_config: its CRI plugin is switched off (disabled_plugins): switch it on, or do without --containerd"
    after=$(containerd_with "$1" "$here/containerd/sysbox-v3.toml" | dump) ||
        fail "$containerd_config: containerd does not take it with our handler: nothing is changed"
    after=$(handlers <<<"$after")
    lost=$(comm -23 <(handlers <<<"$before") - <<<"$after" | sed 's/ .*//' | paste -sd ' ')
    if [ -n "$lost" ]; then
        fail "$containerd_config: with our handler it would lose $lost: nothing is changed: give its CRI plugin a table containerd.runtimes of its own"
    fi
    grep -q '^sysbox ' <<<"$after" ||
        fail "$containerd_config: our handler would have no effect, as a file that it imports has the last word: nothing is changed"
    grep -q "^$default " <<<"$after" ||
        fail "$containerd_config: its default_runtime_name is $default, for which it has no handler: mend it first"
}

check_containerd() {
    local version
    version=$(containerd_version)
    case $version in
        2 | 3 | 4) ;;
        *) fail "$containerd_config: version ${version:-none}: need 2 (containerd 1.7), 3 or 4 (2.x): see \`containerd config migrate\`" ;;
    esac
    if says 'runtimes\.sysbox\]'; then
        fail "$containerd_config: it has a handler sysbox that is not ours: remove it or do without --containerd"
    fi
    if can_ask containerd; then approve_containerd "$version"; fi
}

add_containerd() {
    local version import
    version=$(containerd_version)
    import=$(seen "$drop_in")
    if [ "$version" != 2 ]; then
        if cmp -s "$here/containerd/sysbox-v3.toml" "$drop_in"; then
            echo "unchanged $drop_in"
        else
            act "install $drop_in" put "$here/containerd/sysbox-v3.toml" "$drop_in" 0644
        fi
    fi
    if [ -e "$containerd_config" ] && containerd_with "$version" "$import" | cmp -s - "$containerd_config"; then
        echo "unchanged $containerd_config"
    else
        act "change $containerd_config: restart containerd to use the handler sysbox" change_containerd "$version" "$import"
    fi
}

change_containerd() { # version, path of the drop-in
    containerd_with "$@" | replace "$containerd_config"
}

remove_containerd() {
    if [ -s "$containerd_config" ] && is_bare; then
        act "remove $containerd_config" rm -f "$containerd_config"
    elif [ -e "$containerd_config" ] && grep -qF -e "$mark" -e "$(seen "$drop_in")" "$containerd_config"; then
        act "change $containerd_config: restart containerd" take_from_containerd
    fi
    if [ -e "$drop_in" ]; then act "remove $drop_in" rm -f "$drop_in"; fi
}

take_from_containerd() {
    containerd_without | replace "$containerd_config"
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
    if can_ask dockerd && ! docker_json with <"$docker_config" | ask "$docker_config" "dockerd --validate --config-file" >/dev/null; then
        fail "$docker_config: dockerd does not take it with our runtimes: nothing is changed"
    fi
}

add_docker() {
    local hint="reload dockerd to use the runtimes sysbox and sysbox-runc"
    if ! [ -s "$docker_config" ]; then
        act "install $docker_config: $hint" put "$here/daemon.json" "$docker_config" 0644
    elif cmp -s <(docker_json with <"$docker_config") <(docker_json same <"$docker_config"); then
        echo "unchanged $docker_config"
    else
        act "change $docker_config: $hint" change_docker with
    fi
}

change_docker() { # with or without
    # shellcheck disable=SC2094 # what is written is another file
    docker_json "$1" <"$docker_config" | replace "$docker_config"
}

remove_docker() {
    [ -s "$docker_config" ] || return 0
    if cmp -s "$here/daemon.json" "$docker_config"; then
        act "remove $docker_config" rm -f "$docker_config"
    elif ! cmp -s <(docker_json without <"$docker_config") <(docker_json same <"$docker_config"); then
        act "change $docker_config: reload dockerd" change_docker without
    fi
}
