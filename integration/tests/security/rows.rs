//! Classes of known holes in runtimes like this one, the rule that each left, and what shows that it holds here. Not the holes
//! themselves count but what each teaches: one line may stand for many.

/// How a rule is shown.
#[derive(Debug)]
pub(crate) enum Shown {
    /// By cases: `KIND::CASE` here, `SUITE/CASE` of another suite.
    By(&'static [&'static str]),
    /// It has no place here: why.
    Not(&'static str),
}

/// A line of the table.
#[derive(Debug)]
pub(crate) struct Row {
    /// What was known by which names.
    pub(crate) holes: &'static str,
    /// What went wrong there.
    pub(crate) cause: &'static str,
    /// What we do.
    pub(crate) rule: &'static str,
    /// What shows it.
    pub(crate) shown: Shown,
}

const fn row(holes: &'static str, cause: &'static str, rule: &'static str, shown: Shown) -> Row {
    Row {
        holes,
        cause,
        rule,
        shown,
    }
}

use Shown::{By, Not};

/// Runtimes: runc, crun, youki.
pub(crate) const RUNTIMES: &[Row] = &[
    row(
        "2016-9962",
        "a process of the container traces the runtime that joins it",
        "stages are not dumpable before they join, and every descriptor of theirs is close-on-exec",
        By(&[
            "stages::of_exec",
            "stages::of_another_container_of_the_pod",
            "descriptors::by_ctr",
        ]),
    ),
    row(
        "2019-5736",
        "the runtime's program is written through /proc/self/exe",
        "it belongs to nobody inside, who may not open it for writing, whatever name leads there",
        By(&["program::is_not_written"]),
    ),
    row(
        "2019-16884, 2023-28642, LXC 2015-1334",
        "a /proc that the container made takes what the runtime writes",
        "nothing but the kernel's procfs may be on /proc; the runtime writes through the host's",
        By(&["proc::on_a_volume", "proc::made_inside"]),
    ),
    row(
        "2019-19921, 2023-27561, crun 2019-18837, youki 2025-54867",
        "a link of the image takes a mount elsewhere",
        "every path inside is resolved with RESOLVE_IN_ROOT once and used as a descriptor from then on",
        By(&[
            "image_links::of_what_is_mounted",
            "image_links::of_files_that_engines_write",
            "races::on_the_root_file_system",
        ]),
    ),
    row(
        "2021-30465",
        "a mount's target is renamed between check and mount",
        "a mount is attached to the descriptor that was checked (move_mount)",
        By(&[
            "races::on_a_shared_volume",
            "races::on_the_root_file_system",
        ]),
    ),
    row(
        "2021-43784",
        "a length of 16 bits overflows",
        "lengths are checked before anything is made; messages to stages are framed by the kernel",
        By(&["hostile_spec::of_any_size"]),
    ),
    row(
        "2022-29162, crun 2022-27650, youki 2025-27612",
        "programs begin with inheritable capabilities",
        "the inheritable set is empty",
        By(&[
            "capabilities::inheritable_by_ctr",
            "capabilities::inheritable_by_docker",
            "capabilities::inheritable_by_cri",
        ]),
    ),
    row(
        "2023-25809",
        "the host's cgroups are writable inside",
        "a cgroup namespace always; the root's limits belong to the host",
        By(&["cgroup::nothing_above_its_own"]),
    ),
    row(
        "2024-21626",
        "a working directory by a descriptor that was left open",
        "after chdir(2) the kernel says where we are, and a place outside is refused",
        By(&[
            "working_directory::of_the_first_process",
            "working_directory::of_exec",
            "descriptors::by_docker",
            "descriptors::by_cri",
        ]),
    ),
    row(
        "2024-45310",
        "directories are made on the host in a race",
        "what is missing is made below a descriptor of the directory above, never by a path",
        By(&[
            "races::on_the_root_file_system",
            "image_links::through_every_path_of_docker",
        ]),
    ),
    row(
        "2025-31133, 2025-52565, crun 2026-84042, 88264, 88265, youki 2025-62161",
        "/dev/null or /dev/console is the image's link",
        "/dev is a tmpfs of ours, covers are the host's /dev/null with its numbers checked, a terminal comes from its master (TIOCGPTPEER)",
        By(&[
            "image_links::of_device_nodes_with_a_terminal",
            "races::on_the_root_file_system",
        ]),
    ),
    row(
        "2025-52881, youki 2025-62596",
        "writes of labels and sysctls are redirected",
        "labels are not written at all, sysctls through the host's procfs",
        By(&["sysctl::by_docker", "sysctl::by_cri", "proc::on_a_volume"]),
    ),
    row(
        "2026-41579, crun 2026-47766",
        "/dev itself is a link",
        "as every path inside",
        By(&["image_links::of_what_is_mounted"]),
    ),
    row(
        "2026-119101, crun 2026-115520, CRIU 2026-119614",
        "names of external mounts in a checkpoint",
        "checkpoint and restore are refused",
        Not("there is no checkpoint"),
    ),
    row(
        "crun 2025-24965",
        "a handler writes its configuration through a path of the container",
        "nothing is written to the host by a path of the container",
        Not("there are no handlers"),
    ),
    row(
        "crun 2026-30892",
        "`exec -u 1000abc` is root",
        "users are numbers of the spec, all of it or an error",
        By(&[
            "user::forms_by_docker",
            "user::forms_by_ctr",
            "hostile_spec::of_any_size",
        ]),
    ),
    row(
        "crun 2026-115521",
        "a read-only remount goes through the container's /proc/self/fd",
        "mount_setattr(2) on our own descriptor, before the mount is attached",
        By(&[
            "races::on_a_shared_volume",
            "containers/mounts_stay_as_restricted",
        ]),
    ),
];

/// Shims, containerd, CRI and its implementations.
pub(crate) const ENGINES: &[Row] = &[
    row(
        "containerd 2020-15257",
        "an abstract socket is open to containers of the host's network",
        "sockets have paths, mode 0600, in root's directories; nothing listens on a network",
        By(&["sockets::have_paths_of_roots"]),
    ),
    row(
        "containerd 2021-41103, 2024-25621",
        "bundles and state can be entered by any user of the host",
        "what we make is closed to all but root",
        By(&["sockets::directories_are_closed"]),
    ),
    row(
        "containerd 2021-43816",
        "a host's file gets the container's label",
        "no file is relabelled: SELinux labels are refused",
        By(&["image_links::of_files_that_engines_write"]),
    ),
    row(
        "containerd 2022-23471, 2025-64329",
        "an aborted exec leaves something each time",
        "an exec owns its streams and its record, and all go with it",
        By(&["aborted::by_ctr", "aborted::by_docker"]),
    ),
    row(
        "containerd 2025-47291",
        "pods with user namespaces are outside their cgroup",
        "exactly the spec's cgroup, born there (CLONE_INTO_CGROUP)",
        By(&[
            "cgroup::where_ctr_says",
            "cgroup::where_docker_says",
            "cgroup::where_the_kubelet_says",
        ]),
    ),
    row(
        "containerd 2026-53488",
        "an image's label starts a program of the host",
        "labels are never read",
        By(&["labels::of_images_by_ctr", "labels::of_images_by_docker"]),
    ),
    row(
        "containerd 2026-53492, CRI-O 2024-3154, Kata 2026-44210, 2026-50540",
        "an annotation configures the runtime",
        "an annotation of ours holds only where the configuration lists it, and is an error elsewhere; others' mean nothing",
        By(&[
            "labels::annotations_of_ours_are_refused",
            "labels::annotations_of_others",
            "labels::annotations_of_pods",
        ]),
    ),
    row(
        "containerd 2026-50195, 2026-47262",
        "files of users without bound",
        "at most one MiB of /etc/passwd is read, with root inside's rights",
        By(&["user::huge_files"]),
    ),
    row(
        "containerd GO-2026-5378",
        "the user is parsed twice, differently",
        "users are numbers of the spec",
        Not("names are resolved by the engine; the spec that we get has numbers only"),
    ),
    row(
        "CRI-O 2022-0811",
        "a sysctl's value has a second setting",
        "a value is one line for one key, written to that key's file; only keys of the container's namespaces",
        By(&["sysctl::by_docker", "sysctl::by_cri"]),
    ),
    row(
        "CRI-O 2026-76061",
        "a configured prefix of bind mounts is a link",
        "as every path inside",
        Not("there is no such prefix: sources are the host's paths as the engine names them"),
    ),
    row(
        "Kata 2026-47243, 2020-2023, 2020-2025, 2020-2026, 2026-24054, 24834, 41326",
        "a helper with root's rights follows the container's links on a file system that both have",
        "nothing of ours resolves a path of the container with root's rights",
        By(&["image_links::through_every_path_of_docker"]),
    ),
];

/// System containers: LXC, Incus, Docker Desktop, Sysbox.
pub(crate) const SYSTEM: &[Row] = &[
    row(
        "LXC 2016-8649",
        "a descriptor of the host's /proc is inherited by an exec",
        "as 2016-9962",
        By(&[
            "descriptors::by_ctr",
            "descriptors::by_docker",
            "descriptors::by_cri",
        ]),
    ),
    row(
        "LXC 2016-10124",
        "a program types on the terminal of who started it",
        "a session and a terminal of the container's own; TIOCSTI and TIOCLINUX are filtered",
        By(&[
            "terminal::is_of_the_container",
            "terminal::takes_no_input_from_inside",
        ]),
    ),
    row(
        "LXC 2018-6556, 2022-47952",
        "a setuid helper tells what only root may know",
        "one binary, not setuid",
        Not("there is no setuid program"),
    ),
    row(
        "Incus 2026-23954, 33897, 48749, 48750, 48752, 48769, 63125, 63343, 115378",
        "a link or a template in an image leads an operation of the host's root elsewhere",
        "every operation on a container's files is below a descriptor of its root, as its root",
        By(&[
            "image_links::of_what_is_mounted",
            "image_links::of_files_that_engines_write",
            "image_links::through_every_path_of_docker",
        ]),
    ),
    row(
        "Incus 45439e0b23",
        "an emulated mknod(2) cuts the path off",
        "a path that was not read whole is none",
        Not("no system call is emulated yet"),
    ),
    row(
        "Docker 2023-0629, 2025-9074",
        "another door to the engine",
        "the engine's socket is nobody's business but its operator's",
        Not("the runtime cannot know what the operator mounts: see above"),
    ),
    row(
        "Docker 2026-112917",
        "AF_VSOCK is reached by i386's socketcall",
        "a filter of ours for all architectures that it lets in, under whatever the spec gives",
        By(&[
            "base_filter::where_the_spec_has_none",
            "base_filter::under_the_default_profile",
            "base_filter::of_a_pod_without_a_profile",
        ]),
    ),
    row(
        "Linux 2026-98976, 98977, 98978, 98986 to 98989, 98992, 98993",
        "a cover is passed by MOVE_MOUNT_BENEATH or OPEN_TREE_NAMESPACE",
        "no secret lies under a cover, and the base filter refuses both",
        By(&[
            "covers::stay",
            "covers::are_not_passed_by_another_namespace",
        ]),
    ),
    row(
        "Sysbox, by design",
        "one daemon with root's rights for all containers; inheritable capabilities",
        "one shim for a pod, no daemon; the inheritable set is empty",
        By(&[
            "capabilities::inheritable_by_docker",
            "identity::root_is_nobody_outside",
        ]),
    ),
];
