//! What nothing in a container may call, whatever filter its spec gives: by 64-bit programs and by i386 ones, in the first
//! process and in exec'd ones. That hooks inside are under it is a case of `tests/api`.

use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use integration::bed::{cri, ctr, docker};
use integration::calls::{self, Abi, Call, DATA};
use integration::image::Image;
use integration::node::{LINGER, Node};
use nix::libc;
use serde_json::json;

use crate::case::Case;

const NONE: &str = "it has no filter of its own";

pub(crate) const CASES: &[Case] = &[
    Case::ctr("where_the_spec_has_none", by_ctr).differs(NONE),
    Case::docker("unconfined", unconfined).differs(NONE),
    Case::docker("under_the_default_profile", default)
        .differs("that profile lets i386 programs make any socket"),
    Case::pod("of_a_pod_without_a_profile", unconfined_pod).differs(NONE),
    Case::pod("of_a_pod_with_the_default", default_pod)
        .differs("that profile lets i386 programs make any socket"),
    Case::ctr("let_through_by_the_operator", let_through).ours("the configuration is ours"),
];

/// A call and the error that it must fail with, by each ABI.
type Row = (&'static str, Call, i32);

const AF_VSOCK: u32 = 40;
const AF_ALG: u32 = 38;
const STREAM: u32 = 1;
const SEQUENCE: u32 = 5;
/// Words that socketcall finds: a socket of AF_VSOCK, and one of AF_UNIX.
const WORDS: [u32; 6] = [AF_VSOCK, STREAM, 0, 1, STREAM, 0];
const UNIX_WORDS: u32 = DATA + 12;

const fn call(number: u32, arguments: &[u32]) -> Call {
    let mut all = [0; 6];
    let mut i = 0;
    while i < arguments.len() {
        all[i] = arguments[i];
        i += 1;
    }
    Call(number, all)
}

/// `AT_FDCWD` as the kernel takes it.
const HERE: u32 = 0xffff_ff9c;

const NATIVE: &[Row] = &[
    (
        "socket(AF_VSOCK)",
        call(41, &[AF_VSOCK, STREAM]),
        libc::EAFNOSUPPORT,
    ),
    (
        "socketpair(AF_VSOCK)",
        call(53, &[AF_VSOCK, STREAM, 0, DATA]),
        libc::EAFNOSUPPORT,
    ),
    (
        "socket(AF_ALG)",
        call(41, &[AF_ALG, SEQUENCE]),
        libc::EAFNOSUPPORT,
    ),
    ("ioctl(TIOCSTI)", call(16, &[0, 0x5412, DATA]), libc::EIO),
    (
        "ioctl(TIOCLINUX)",
        call(16, &[0, 0x541c, DATA]),
        libc::EPERM,
    ),
    ("io_uring_setup", call(425, &[1, DATA + 512]), libc::ENOSYS),
    (
        "move_mount(MOVE_MOUNT_BENEATH)",
        call(429, &[HERE, DATA, HERE, DATA, 0x204]),
        libc::EINVAL,
    ),
    (
        "open_tree(OPEN_TREE_NAMESPACE)",
        call(428, &[HERE, DATA, 0x2]),
        libc::EINVAL,
    ),
    ("userfaultfd(0)", call(323, &[0]), libc::EPERM),
    ("bpf", call(321, &[0, DATA, 0]), libc::EPERM),
    (
        "open_by_handle_at",
        call(304, &[HERE, DATA, 0]),
        libc::EPERM,
    ),
    ("kexec_load", call(246, &[0, 0, 0, 0]), libc::EPERM),
];
const I386: &[Row] = &[
    (
        "i386 socket(AF_VSOCK)",
        call(359, &[AF_VSOCK, STREAM]),
        libc::EAFNOSUPPORT,
    ),
    (
        "i386 socketcall(socket, AF_VSOCK)",
        call(102, &[1, DATA]),
        libc::ENOSYS,
    ),
    (
        "i386 socketcall(socket, AF_UNIX)",
        call(102, &[1, UNIX_WORDS]),
        libc::ENOSYS,
    ),
    (
        "i386 ioctl(TIOCSTI)",
        call(54, &[0, 0x5412, DATA]),
        libc::EIO,
    ),
    (
        "i386 io_uring_setup",
        call(425, &[1, DATA + 512]),
        libc::ENOSYS,
    ),
    ("i386 userfaultfd(0)", call(374, &[0]), libc::EPERM),
    ("i386 bpf", call(357, &[0, DATA, 0]), libc::EPERM),
];
/// What must work: a socket of AF_UNIX, the program's own terminal asked for its size (it has none), a fault of user mode.
const NATIVE_ALLOWED: &[Row] = &[
    ("socket(AF_UNIX)", call(41, &[1, STREAM]), 0),
    (
        "ioctl(TIOCGWINSZ)",
        call(16, &[0, 0x5413, DATA]),
        libc::ENOTTY,
    ),
];
const I386_ALLOWED: &[Row] = &[("i386 socket(AF_UNIX)", call(359, &[1, STREAM]), 0)];

/// Puts the programs into a directory of the node's, for a volume.
fn programs(node: &Node) -> Result<()> {
    node.shell("mkdir -p /srv/calls")?.ok()?;
    for (name, abi, refused, allowed) in [
        ("native", Abi::X86_64, NATIVE, NATIVE_ALLOWED),
        ("i386", Abi::I386, I386, I386_ALLOWED),
    ] {
        let calls: Vec<Call> = refused.iter().chain(allowed).map(|row| row.1).collect();
        let path = node.path("/srv/calls").join(name);
        std::fs::write(&path, calls::program(abi, &calls, &WORDS))
            .with_context(|| format!("write {}", path.display()))?;
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).context("chmod")?;
    }
    Ok(())
}

fn remove(node: &Node) -> Result<()> {
    node.shell("rm -r /srv/calls")?.ok()?;
    Ok(())
}

/// Both, in a shell, with a standard input that is no terminal.
fn script() -> String {
    format!(
        "for p in native i386; do /calls/$p </dev/zero | {}; done; {LINGER}",
        calls::SHOW
    )
}

/// Whether the numbers that the programs wrote are those of the rows. Where the spec has a filter its error may be another.
fn judge(written: &str, exact: bool) -> Result<()> {
    let rows: Vec<&Row> = [NATIVE, NATIVE_ALLOWED, I386, I386_ALLOWED]
        .into_iter()
        .flatten()
        .collect();
    let numbers: Vec<i32> = written
        .lines()
        .map(|line| line.trim().parse().with_context(|| format!("{line:?}")))
        .collect::<Result<_>>()?;
    ensure!(
        numbers.len() == rows.len(),
        "{} of {} answers: {written}",
        numbers.len(),
        rows.len()
    );
    let wrong: Vec<String> = rows
        .iter()
        .zip(&numbers)
        .filter(|((_, _, errno), number)| match errno {
            0 => **number < 0,
            errno if exact => **number != -errno,
            _ => **number >= 0,
        })
        .map(|((name, ..), number)| format!("{name}: {number}"))
        .collect();
    ensure!(wrong.is_empty(), "{wrong:?}");
    Ok(())
}

const VOLUME: &str = "type=bind,src=/srv/calls,dst=/calls,options=rbind:ro";

fn by_ctr(bed: &ctr::Bed<'_>) -> Result<()> {
    programs(bed.node)?;
    let script = script();
    let words = ["/bin/sh", "-c", &script];
    let first = bed.run(&["--mount", VOLUME], &words)?.ok()?;
    judge(&first.stdout, true).context("the first process")?;
    let container = bed.detached(&["--mount", VOLUME], Image::Busybox, &["/probe", "sleep"])?;
    judge(&container.shell(&script)?, true).context("exec")?;
    container.remove()?;
    remove(bed.node)
}

fn by_docker(bed: &docker::Bed<'_>, options: &[&str], exact: bool) -> Result<()> {
    programs(bed.node)?;
    let options = [&["-v", "/srv/calls:/calls:ro"], options].concat();
    let script = script();
    let first = bed.run(&options, &["/bin/sh", "-c", &script])?.ok()?;
    judge(&first.stdout, exact).context("the first process")?;
    let container = bed.detached(&options, &["/probe", "sleep"])?;
    judge(&container.shell(&script)?, exact).context("exec")?;
    container.remove()?;
    remove(bed.node)
}

fn unconfined(bed: &docker::Bed<'_>) -> Result<()> {
    by_docker(bed, &["--security-opt", "seccomp=unconfined"], true)
}

fn default(bed: &docker::Bed<'_>) -> Result<()> {
    by_docker(bed, &[], false)
}

/// 0 is the runtime's default profile, 1 none (CRI's SecurityProfile.ProfileType).
fn by_pod(bed: &cri::Bed<'_>, profile: u32, exact: bool) -> Result<()> {
    programs(bed.node)?;
    let pod = bed.pod(json!({}))?;
    let container = pod.run(json!({
        "command": ["/probe", "sleep"],
        "mounts": [pod.volume("/srv/calls", "/calls")],
        "linux": {"security_context": {"seccomp": {"profile_type": profile}}},
    }))?;
    judge(&container.shell(&script())?, exact)?;
    pod.remove()?;
    remove(bed.node)
}

fn unconfined_pod(bed: &cri::Bed<'_>) -> Result<()> {
    by_pod(bed, 1, true)
}

fn default_pod(bed: &cri::Bed<'_>) -> Result<()> {
    by_pod(bed, 0, false)?;
    // What libseccomp made of the profile is kept for the next container.
    bed.node
        .shell("rm -rf /run/containerd-shim-sysbox/seccomp")?
        .ok()?;
    Ok(())
}

/// `seccomp.allow`, and the annotation where the operator lists it.
fn let_through(bed: &ctr::Bed<'_>) -> Result<()> {
    programs(bed.node)?;
    let configure = |text: &str| {
        let file = cri::CONFIG;
        bed.node
            .shell(&format!(
                "mkdir -p $(dirname {file}); printf '{text}' >{file}"
            ))?
            .ok()
    };
    let script = script();
    let ask = |options: &[&str]| -> Result<Vec<i32>> {
        let options = [&["--mount", VOLUME], options].concat();
        let output = bed.run(&options, &["/bin/sh", "-c", &script])?.ok()?;
        output
            .stdout
            .lines()
            .map(|line| line.trim().parse().context("no number"))
            .collect()
    };
    let (uring, vsock) = (5, 0);
    configure("[seccomp]\\nallow = [\"io-uring\"]\\n")?;
    let answers = ask(&[])?;
    ensure!(
        answers[uring] != -libc::ENOSYS && answers[vsock] == -libc::EAFNOSUPPORT,
        "{answers:?}"
    );
    configure("annotations = [\"io.containerd.sysbox.seccomp.allow\"]\\n")?;
    let allow = [
        "--annotation",
        "io.containerd.sysbox.seccomp.allow=vsock,rare-sockets",
    ];
    let answers = ask(&allow)?;
    ensure!(
        answers[uring] == -libc::ENOSYS && answers[vsock] >= 0,
        "{answers:?}"
    );
    judge(
        &ask(&[])?
            .iter()
            .map(|n| format!("{n}\n"))
            .collect::<String>(),
        true,
    )?;
    configure("[seccomp]\\nallow = [\"io_uring\"]\\n")?;
    let refused = ask(&[])
        .err()
        .context("a name that does not exist is taken")?;
    ensure!(
        format!("{refused:#}").contains("expected one of `terminal-input`"),
        "{refused:#}"
    );
    bed.node
        .shell(&format!("rm {0}; rmdir $(dirname {0})", cri::CONFIG))?
        .ok()?;
    remove(bed.node)
}
