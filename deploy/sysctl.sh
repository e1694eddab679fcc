# shellcheck shell=bash
# Sourced by install.sh: bounds of the kernel's that all containers share, in a file of ours for sysctl(8). What is higher
# already stays so, and 0 is no bound for fs.fuse.max_request_timeout, of which less is more.

: "${here:?the directory of install.sh}"
sysctl_file=${DESTDIR-}/etc/sysctl.d/60-containerd-shim-sysbox.conf
proc_sys=${DESTDIR-}/proc/sys

# Whether the value of a key that the kernel has now is better than ours.
stays() { # key, value now, our value
    case $1 in
        fs.fuse.max_request_timeout) [ "$2" -ne 0 ] && [ "$2" -ne "$3" ] ;;
        *) [ "$2" -gt "$3" ] ;;
    esac
}

# sysctl.conf for this host: a key whose value there is higher already becomes a comment.
sysctl_lines() {
    local line key value now
    while IFS= read -r line; do
        if [[ $line =~ ^([a-z0-9._-]+)\ =\ ([0-9]+)$ ]]; then
            key=${BASH_REMATCH[1]} value=${BASH_REMATCH[2]}
            now=$(cat "$proc_sys/${key//.//}" 2>/dev/null || true)
            if stays "$key" "${now:-0}" "$value"; then line="# $key: already $now"; fi
        fi
        printf '%s\n' "$line"
    done <"$here/sysctl.conf"
}

add_sysctl() {
    local key
    if sysctl_lines | cmp -s - "$sysctl_file"; then
        echo "unchanged $sysctl_file"
    else
        act "install $sysctl_file" put <(sysctl_lines) "$sysctl_file" 0644
    fi
    # Below another root there is no kernel to be asked, but for one that a test shows.
    if [ -d "$proc_sys" ]; then
        while read -r key; do
            [ -e "$proc_sys/${key//.//}" ] || echo "skipped $key: this kernel has it not, or not before a module is loaded"
        done < <(sed -n 's/^\([a-z][^ ]*\) = .*/\1/p' "$here/sysctl.conf")
    fi
    if [ -z "${DESTDIR-}" ]; then act "apply $sysctl_file" apply_sysctl; fi
}

apply_sysctl() {
    if ! type -P sysctl >/dev/null; then
        echo "not applied before the next boot: there is no program sysctl"
    elif ! sysctl -q -e -p "$sysctl_file"; then
        echo "not all applied: see above"
    fi
}

remove_sysctl() {
    if [ -e "$sysctl_file" ]; then act "remove $sysctl_file: its values hold until the next boot" rm -f "$sysctl_file"; fi
}
