//! What is mounted over something stays there, also with what newer kernels offer: a mount beneath a cover, and a new mount
//! namespace made of a copy (the kernel's CVEs of October 2026). A cover is no boundary of ours: `docs/security.md`.

use anyhow::{Result, ensure};
use integration::bed::ctr::Bed;
use integration::image::Image;

use crate::case::Case;

pub(crate) const CASES: &[Case] = &[
    Case::ctr("stay", stay),
    Case::ctr("are_not_passed_by_another_namespace", namespaces)
        .ours("its root has no user namespace there and may not mount at all"),
];

/// System calls by their numbers, alike on all architectures (asm-generic/unistd.h): open_tree, move_mount.
const PRELUDE: &str = r#"
    use constant { OPEN_TREE => 428, MOVE_MOUNT => 429, AT_FDCWD => -100 };
    sub said { my ($what, $got) = @_; print "$what: ", ($got >= 0 ? "ok" : "no"), " $!\n"; $got }
    sub look { for my $p (@_) { my @s = stat($p); printf "%s %o %d\n", $p, $s[2], $s[6] } }
"#;

/// A mount beneath a locked cover, then the cover away.
fn stay(bed: &Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Systemd, &["/bin/sleep", "1000"])?;
    let script = format!(
        r#"{PRELUDE}
        look("/proc/keys", "/proc/timer_list");
        system("echo cover >/tmp/file");
        for my $name ("/proc/keys", "/proc/timer_list") {{
            my ($target, $none) = ($name, "");
            my $from = "/tmp/file";
            # OPEN_TREE_CLONE; MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_BENEATH
            my $fd = said("clone", syscall(OPEN_TREE, AT_FDCWD, $from, 1));
            said("beneath $target", syscall(MOVE_MOUNT, $fd, $none, AT_FDCWD, $target, 0x204));
            system("umount $target 2>/dev/null; umount -l $target 2>/dev/null");
        }}
        look("/proc/keys", "/proc/timer_list");
        "#
    );
    let seen = container.exec(&["/usr/bin/perl", "-e", &script])?.ok()?;
    let looks: Vec<_> = seen
        .stdout
        .lines()
        .filter(|line| line.starts_with("/proc/"))
        .collect();
    ensure!(looks.len() == 4, "{seen:?}");
    // Character device 1:3 before and after.
    ensure!(
        looks.iter().all(|look| look.contains(" 20666 259")),
        "a cover is gone: {}",
        seen.stdout
    );
    container.remove()
}

/// By unshare(2), and by OPEN_TREE_NAMESPACE where the kernel has it: a copy has the covers, locked.
fn namespaces(bed: &Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Systemd, &["/bin/sleep", "1000"])?;
    let script = format!(
        r#"{PRELUDE}
        # OPEN_TREE_NAMESPACE, alone and with AT_RECURSIVE
        my $path = "/proc";
        for my $flags (2, 2 | 0x8000) {{ said("namespace", syscall(OPEN_TREE, AT_FDCWD, $path, $flags + 0)) }}
        "#
    );
    let seen = container.exec(&["/usr/bin/perl", "-e", &script])?.ok()?;
    ensure!(
        seen.stdout.matches("namespace: no").count() == 2,
        "{seen:?}"
    );
    let inner = container.shell(
        "unshare -m sh -c 'umount /proc/keys || umount -l /proc/keys; stat -c %t:%T /proc/keys' 2>/dev/null
         unshare -Urm sh -c 'umount -l /proc/keys; stat -c %t:%T /proc/keys' 2>/dev/null || true",
    )?;
    ensure!(
        inner.lines().filter(|line| *line == "1:3").count() >= 1
            && inner.lines().all(|line| line == "1:3"),
        "{inner}"
    );
    container.remove()
}
