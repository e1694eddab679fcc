//! What the processes of a container take over from containerd's service: nothing, but for what is listed.

use anyhow::{Context, Result, ensure};
use integration::bed::ctr::{Bed, Runtime};
use integration::debian::Release;
use integration::image::Image;
use integration::node::{LINGER, Node};
use serde_json::{Map, Value};

use crate::case::Case;

pub(crate) const CASES: &[Case] = &[
    Case::ctr("engines_service", engines_service).ours(
        "it runs containers under both runtimes, on an engine whose service is odd in every way",
    ),
    Case::ctr("keyring_without_quota", keyring_without_quota)
        .ours("runc refuses such an exec; under its root the quota is the machine's"),
];

/// What starts the odd containerd.
const ODD: [&str; 3] = ["/usr/bin/python3", "-c", include_str!("odd.py")];

/// What becomes of an attribute.
enum Row {
    /// Neither runtime hands it on.
    Gone,
    /// runc hands it on, to init or to an exec'd process; why ours does not.
    RuncHandsOn(&'static str),
    /// Both hand it on.
    Kept,
}
use Row::{Gone, Kept, RuncHandsOn};

/// Every attribute that the probe tells of.
const ROWS: &[(&str, Row)] = &[
    ("key", Gone),
    (
        "timer slack",
        RuncHandsOn("it would be the default of everything inside"),
    ),
    ("policy", RuncHandsOn("meant for the engine")),
    ("real-time priority", Gone),
    ("nice", RuncHandsOn("meant for the engine")),
    ("I/O priority", RuncHandsOn("meant for the engine")),
    ("cpus", Gone),
    ("memory policy", RuncHandsOn("meant for the engine")),
    ("huge pages", RuncHandsOn("meant for the engine's memory")),
    (
        "merged pages",
        RuncHandsOn("merging across pods tells what others have"),
    ),
    ("machine checks", RuncHandsOn("meant for the engine")),
    (
        "personality",
        RuncHandsOn("the container would have no random addresses"),
    ),
    ("core dump filter", RuncHandsOn("the container's choice")),
    (
        "login",
        RuncHandsOn("nobody could log in inside, and audit would name who started the engine"),
    ),
    ("oom score", RuncHandsOn("engines protect themselves")),
    ("dumpable", Gone),
    ("death signal", Gone),
    ("securebits", RuncHandsOn("a user namespace begins without")),
    ("inheritable", Gone),
    ("ambient", Gone),
    (
        "ignored signals",
        RuncHandsOn("programs expect none at exec"),
    ),
    ("blocked signals", Gone),
    ("umask", RuncHandsOn("exec'd processes have init's")),
    ("variable", Gone),
    ("directory", Gone),
    ("session", Gone),
    ("terminal", Gone),
    ("descriptors", Gone),
    ("no_new_privs", Gone),
    ("open files", Kept),
    ("message queues", Kept),
];

fn engines_service(bed: &Bed<'_>) -> Result<()> {
    let node = Node::builder(Release::Sid).launcher(&ODD).start()?;
    node.import(Image::Busybox)?;
    let normal = facts(bed.node, Runtime::Sysbox)?;
    let ours = facts(&node, Runtime::Sysbox)?;
    let runc = facts(&node, Runtime::Runc)?;
    let mut wrong = Vec::new();
    for name in ours[0].1.keys().filter(|name| *name != "keyring") {
        let row = ROWS.iter().find(|(known, _)| known == name);
        let (_, row) = row.with_context(|| format!("{name} is in no row"))?;
        let seen = |facts: &[(&str, Map<String, Value>)]| {
            [facts[0].1[name].clone(), facts[1].1[name].clone()]
        };
        let (normal, ours, runc) = (seen(&normal), seen(&ours), seen(&runc));
        let (right, reason) = match row {
            Gone => (ours == normal && runc == normal, "nobody does"),
            RuncHandsOn(reason) => (ours == normal && runc != normal, *reason),
            Kept => (ours == runc, "as runc"),
        };
        if !right {
            wrong.push(format!(
                "{name} ({reason}): normally {normal:?}, ours {ours:?}, runc {runc:?}"
            ));
        }
    }
    for (process, ours) in &ours {
        let keyring = ours["keyring"].as_str().unwrap_or_default();
        ensure!(
            keyring.starts_with("_ses.") && keyring.ends_with(" of 0"),
            "{process}: the session keyring is {keyring}"
        );
    }
    ensure!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

/// What init and an exec'd process see, by their names.
fn facts(node: &Node, runtime: Runtime) -> Result<Vec<(&'static str, Map<String, Value>)>> {
    let bed = Bed::new(node, runtime);
    let script = format!("ionice -p $$; /probe inherited; {LINGER}");
    let init = bed.run(&[], &["/bin/sh", "-c", &script])?.ok()?;
    let container = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    let exec = container.exec(&["/bin/sh", "-c", &script])?.ok()?;
    container.remove()?;
    let parse = |output: &str| -> Result<Map<String, Value>> {
        let (priority, rest) = output.split_once('\n').context("nothing but one line")?;
        let mut facts: Map<_, _> =
            serde_json::from_str(rest).with_context(|| format!("not JSON: {output}"))?;
        facts.insert("I/O priority".into(), priority.into());
        Ok(facts)
    };
    Ok(vec![
        ("init", parse(&init.stdout)?),
        ("exec", parse(&exec.stdout)?),
    ])
}

/// A container that has as many keys as its user may have, and no keyring to join, still has its exec'd processes, and they
/// none of the engine's keys.
fn keyring_without_quota(bed: &Bed<'_>) -> Result<()> {
    let hungry = ["/bin/sh", "-c", "exec /probe keys >/taken"];
    let container = bed.detached(&[], Image::Busybox, &hungry)?;
    let taken =
        container.shell("until grep -q ready /taken; do sleep 0.02; done; head -n 1 /taken")?;
    ensure!(taken.ends_with("QuotaExceeded"), "{taken}");
    let facts: Value = serde_json::from_str(&container.shell("/probe inherited")?)?;
    ensure!(facts["keyring"] == "_ses of 65534", "{}", facts["keyring"]);
    ensure!(facts["key"] == "KeyDoesNotExist", "{}", facts["key"]);
    container.remove()
}
