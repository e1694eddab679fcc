//! Who a program is: forms of `exec -u` that a lax reader takes for root (CVE-2026-30892), and files of users that a reader
//! without bounds chokes on (CVE-2026-50195, 2026-47262).

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::bed::{ctr, docker};
use integration::image::Image;
use integration::node::DEADLINE;
use integration::process;
use serde_json::json;

use crate::case::Case;

pub(crate) const CASES: &[Case] = &[
    Case::docker("forms_by_docker", by_docker),
    Case::ctr("forms_by_ctr", by_ctr),
    Case::ctr("huge_files", huge)
        .ours("what is bounded is the shim's memory; runc is a process of its own"),
];

const FORMS: [&str; 12] = [
    "1000abc",
    "0x0",
    "00",
    "-1",
    "+0",
    "4294967295",
    "4294967296",
    "18446744073709551616",
    "1000:0abc",
    "1000 0",
    " 0",
    "nobody:nothing",
];

/// What ran as root was asked for as root.
fn not_root(form: &str, output: &process::Output) -> Result<()> {
    let zero = form.trim().trim_start_matches('+').parse() == Ok(0);
    ensure!(
        output.code != 0 || output.text() != "0" || zero,
        "{form:?} is root: {output:?}"
    );
    Ok(())
}

fn by_docker(bed: &docker::Bed<'_>) -> Result<()> {
    // Users whose names are numbers, one of them another's, and lines that are none.
    let image = bed.load("users", &json!({"User": "1000"}), |root| {
        fs::create_dir_all(root.join("etc")).context("create /etc")?;
        fs::write(
            root.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\n1000abc:x:1001:1001::/:/bin/sh\nodd:x:99999999999:1::/:/bin/sh\n:x:0:0::/:\n",
        )
        .context("write passwd")
    })?;
    let container = bed.detached_of(&image, &[], &["/probe", "sleep"])?;
    for form in FORMS.into_iter().chain(["odd"]) {
        let mut exec = container.exec(&["-u", form], &["id", "-u"]);
        not_root(form, &process::run(&mut exec, b"", DEADLINE)?)?;
    }
    container.remove()?;
    bed.docker(&["rmi", "-f", &image]).map(drop)
}

fn by_ctr(bed: &ctr::Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    for form in FORMS {
        let script = ["/bin/sh", "-c", "id -u; sleep 0.1"];
        let mut exec = container.exec_command(&["--user", form], &script);
        not_root(form, &process::run(&mut exec, b"", DEADLINE)?)?;
    }
    container.remove()
}

fn huge(bed: &ctr::Bed<'_>) -> Result<()> {
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    container.shell("for f in passwd group; do truncate -s 1G /etc/$f; done")?;
    let shim = crate::shim::Shim::of(bed.node, "default", &container.id)?;
    let before = shim.peak()?;
    for options in [&[] as &[&str], &["--user", "1000:1000"]] {
        let mut exec = container.exec_command(options, &["/bin/true"]);
        let output = process::run(&mut exec, b"", DEADLINE)?.ok()?;
        ensure!(output.elapsed < Duration::from_secs(20), "{output:?}");
    }
    let more = shim.peak()?.saturating_sub(before);
    ensure!(more < 4096, "the shim grew by {more} KiB");
    container.remove()?;
    // The same from the start, on a volume.
    bed.node.shell("truncate -s 1G /srv/huge")?.ok()?;
    let mount = |file: &str| format!("type=bind,src=/srv/huge,dst=/etc/{file},options=rbind:ro");
    let (passwd, group) = (mount("passwd"), mount("group"));
    bed.run(
        &["--mount", &passwd, "--mount", &group],
        &["/bin/sh", "-c", "exit 7"],
    )?
    .exits(7)?;
    bed.node.shell("rm /srv/huge")?.ok().map(drop)
}
