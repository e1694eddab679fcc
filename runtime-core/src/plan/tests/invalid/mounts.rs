//! `mounts` and `linux.rootfsPropagation`.

use serde_json::json;

use super::{case, check, mappings};

#[test]
fn mounts() {
    let mount = |destination: &str, kind: &str, options: &[&str]| json!([{"destination": destination, "type": kind, "source": "/src", "options": options}]);
    let bind = |options: &[&str]| mount("/mnt", "bind", options);
    let tmpfs = |options: &[&str]| mount("/mnt", "tmpfs", options);
    check(&[
        case(
            "/mounts",
            mount("/mnt", "9p", &[]),
            ["mounts[0].type", "9p", "server"],
        ),
        case(
            "/mounts",
            json!([{"destination": "/mnt", "type": "bind", "source": ""}]),
            ["mounts[0].source", "none", "host path"],
        ),
        case(
            "/mounts",
            json!([{"destination": "/mnt", "type": "ext4", "source": "/dev/x\u{0}"}]),
            ["mounts[0].source", "/dev/x\\0", "NUL"],
        ),
        case(
            "/mounts",
            tmpfs(&["size=99999999999999999999"]),
            ["mounts[0].options[0]", "size=9999", "k, m, g"],
        ),
        case(
            "/mounts",
            tmpfs(&["uid=4294967295"]),
            ["mounts[0].options[0]", "uid=4294967295", "numeric"],
        ),
        case(
            "/mounts",
            mount("/mnt", "ext4", &["=x"]),
            ["mounts[0].options[0]", "=x", "one option"],
        ),
        case(
            "/mounts",
            mount("/mnt", "ext4", &["a,b"]),
            ["mounts[0].options[0]", "a,b", "one option"],
        ),
        case(
            "/mounts",
            mount("/sys", "bind", &["rbind"]),
            ["mounts[0]", "bind of /src on /sys", "type sysfs"],
        ),
        case(
            "/mounts",
            mount("/proc/meminfo", "tmpfs", &[]),
            ["mounts[0]", "tmpfs on /proc/meminfo", "by a bind"],
        ),
        case(
            "/mounts",
            mount("/dev/shm", "ext4", &[]),
            ["mounts[0]", "ext4 on /dev/shm", "tmpfs or bind"],
        ),
        case(
            "/mounts",
            mount("/dev/mqueue", "tmpfs", &[]),
            ["mounts[0]", "tmpfs on /dev/mqueue", "type mqueue"],
        ),
        case(
            "/mounts",
            mount("mnt", "bind", &["bind"]),
            ["mounts[0].destination", "mnt", "absolute"],
        ),
        case(
            "/mounts",
            mount("/a/../b", "bind", &["bind"]),
            ["mounts[0].destination", "/a/../b", "`..`"],
        ),
        case(
            "/mounts",
            mount("/a\u{0}", "bind", &["bind"]),
            ["mounts[0].destination", "/a\\0", "NUL"],
        ),
        case(
            "/mounts",
            mount("/", "bind", &["bind"]),
            ["mounts[0]", "bind of /src on /", "root.path"],
        ),
        case(
            "/mounts",
            mount("/proc", "bind", &["rbind"]),
            ["mounts[0]", "/src on /proc", "type proc"],
        ),
        case(
            "/mounts",
            mount("/proc/x", "tmpfs", &[]),
            ["mounts[0]", "tmpfs on /proc/x", "outside /proc"],
        ),
        case(
            "/mounts",
            mount("/sys", "tmpfs", &[]),
            ["mounts[0]", "tmpfs on /sys", "type sysfs"],
        ),
        case(
            "/mounts",
            mount("/dev", "bind", &["rbind"]),
            ["mounts[0]", "/src on /dev", "linux.devices"],
        ),
        case(
            "/mounts",
            mount("/dev/pts", "bind", &["bind"]),
            ["mounts[0]", "on /dev/pts", "type devpts"],
        ),
        case(
            "/mounts",
            mount("/mnt", "", &["ro"]),
            ["mounts[0].type", "none given", "bind or rbind"],
        ),
        case(
            "/mounts",
            mount("/mnt", "debugfs", &[]),
            ["mounts[0].type", "debugfs", "on the host"],
        ),
        case(
            "/mounts",
            mount("/mnt", "fuse.sshfs", &[]),
            ["mounts[0].type", "fuse.sshfs", "server"],
        ),
        case(
            "/mounts",
            mount("/mnt", "bpf", &[]),
            ["mounts[0].type", "bpf", "inside the container"],
        ),
        case(
            "/mounts",
            mount("/mnt", "proc", &["hidepid=2"]),
            ["mounts[0].options[0]", "hidepid=2", "no such option"],
        ),
        case(
            "/mounts",
            json!([{"destination": "/mnt", "type": "bind"}]),
            ["mounts[0].source", "none", "host path"],
        ),
        case(
            "/mounts",
            bind(&["rbind", "roo"]),
            ["mounts[0].options[1]", "roo", "no such option"],
        ),
        case(
            "/mounts",
            bind(&["bind", "remount"]),
            ["mounts[0].options[1]", "remount", "new one"],
        ),
        case(
            "/mounts",
            bind(&["bind", ""]),
            ["mounts[0].options[1]", "empty", "remove it"],
        ),
        case(
            "/mounts",
            bind(&["bind", "tmpcopyup"]),
            ["mounts[0].options", "tmpcopyup", "type tmpfs"],
        ),
        case(
            "/mounts",
            tmpfs(&["size=lots"]),
            ["mounts[0].options[0]", "size=lots", "k, m, g"],
        ),
        case(
            "/mounts",
            tmpfs(&["ro", "mode=0888"]),
            ["mounts[0].options[1]", "mode=0888", "octal"],
        ),
        case(
            "/mounts",
            tmpfs(&["uid=root"]),
            ["mounts[0].options[0]", "uid=root", "numeric"],
        ),
        case(
            "/mounts",
            tmpfs(&["sze=1m"]),
            ["mounts[0].options[0]", "sze=1m", "no such option"],
        ),
        case(
            "/mounts",
            tmpfs(&["size=1m,mode=0"]),
            ["mounts[0].options[0]", "size=1m,mode=0", "k, m, g"],
        ),
        case(
            "/mounts",
            tmpfs(&["idmap"]),
            ["mounts[0]", "ids mapped on type tmpfs", "only a bind"],
        ),
        case(
            "/mounts",
            mount("/mnt", "devpts", &["mode=9"]),
            ["mounts[0].options[0]", "mode=9", "octal"],
        ),
        case(
            "/mounts",
            json!([{"destination": "/m", "source": "/s", "options": ["bind"], "uidMappings": mappings(&[[0, 1, 1]])}]),
            ["mounts[0].gidMappings", "none", "uidMappings is given"],
        ),
        case(
            "/mounts",
            json!([{"destination": "/m", "source": "/s", "options": ["bind"],
                "uidMappings": mappings(&[[0, 1, 2], [1, 9, 1]]), "gidMappings": mappings(&[[0, 1, 1]])}]),
            ["mounts[0].uidMappings[1].containerID", "1:9:1", "overlap"],
        ),
        case(
            "/linux/rootfsPropagation",
            json!("public"),
            ["linux.rootfsPropagation", "public", "shared, slave"],
        ),
    ]);
}
