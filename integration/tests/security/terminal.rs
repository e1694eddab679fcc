//! What a program can do to the terminal that it is given (LXC's CVE-2016-10124): it is one of the container's own, and
//! nothing can be typed on it for others.

use anyhow::{Result, ensure};
use integration::bed::ctr::Bed;
use integration::image::Image;
use integration::terminal::Session;

use crate::case::Case;

pub(crate) const CASES: &[Case] = &[
    Case::ctr("is_of_the_container", own),
    Case::ctr("takes_no_input_from_inside", injection)
        .differs("it leaves that to a filter that ctr does not give"),
];

fn own(bed: &Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    // Session, controlling terminal and device are the process's own; /dev/tty leads to it.
    let script = "tty; stat -c %t /dev/pts/* | sort -u; cut -d ' ' -f 5-7 /proc/$$/stat; [ $(cut -d ' ' -f 6 /proc/$$/stat) = $$ ] && echo leader; echo through >/dev/tty; readlink /proc/self/fd/0; ls /dev/pts | tr '\\n' ' '";
    let line = container.tty_words(&["/bin/sh", "-c", script]);
    let (_, shown) = Session::start(&mut bed.node.command(&line), 90, 20)?.finish()?;
    ensure!(
        shown.contains("/dev/pts/") && shown.contains("leader") && shown.contains("through"),
        "{shown}"
    );
    container.remove()
}

/// TIOCSTI types a character, TIOCLINUX pastes a selection (ioctl_tty(2), ioctl_console(2)); perl, for it can call.
fn injection(bed: &Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Systemd, &["/bin/sleep", "1000"])?;
    let script = r#"for my $c (0x5412, 0x541c) { my $b = "x"; print "$c ", (ioctl(STDIN, $c, $b) ? "ok" : "no: $!"), "\n" }"#;
    let line = container.tty_words(&["/usr/bin/perl", "-e", script]);
    let (code, shown) = Session::start(&mut bed.node.command(&line), 90, 20)?.finish()?;
    ensure!(code == 0 && shown.matches("no: ").count() == 2, "{shown}");
    ensure!(!shown.contains("ok"), "{shown}");
    container.remove()
}
