//! The device policy as the kernel enforces it.

use crate::Error;
use crate::cgroup::limits::DeviceRule;
use crate::cgroup::{Cgroup, LEAF};

use super::sandbox::{Process, Sandbox};

/// `+` allows, `-` denies; then type, `major:minor`, access, as in devices.allow of cgroup v1.
fn rule(text: &str) -> DeviceRule {
    let words: Vec<_> = text.split(' ').collect();
    let (major, minor) = words[2].split_once(':').unwrap();
    DeviceRule {
        allow: words[0] == "+",
        kind: words[1].chars().next().unwrap(),
        major: major.parse().ok(),
        minor: minor.parse().ok(),
        access: words[3].into(),
    }
}

/// Which of all accesses to null (1:3), zero (1:5) and full (1:7), and which nodes, a process in the container gets.
fn allowed(cgroup: &Cgroup) -> String {
    let scratch = tempfile::tempdir_in("/dev/shm").unwrap();
    let script = format!(
        "exec 2>&-; cd {}
         for d in null zero full; do
             (: </dev/$d) && echo $d:r; (: >/dev/$d) && echo $d:w; (: <>/dev/$d) && echo $d:rw
         done
         mknod null c 1 3 && echo null:m; mknod zero c 1 5 && echo zero:m; mknod loop b 1 3 && echo block:m; true",
        scratch.path().display()
    );
    let leaf = cgroup.dir().join(LEAF);
    Process::start(&leaf, None, &script)
        .finish()
        .0
        .replace('\n', " ")
}

#[test]
fn the_last_rule_that_speaks_of_an_access_decides_it() {
    let Some(sandbox) = Sandbox::enter("devices") else {
        return;
    };
    let cgroup = sandbox.create("c");
    const ALL: &str =
        "null:r null:w null:rw zero:r zero:w zero:rw full:r full:w full:rw null:m zero:m block:m ";
    // The policy that it was made with: what every container has.
    assert_eq!(allowed(&cgroup), ALL);
    for (rules, expected) in [
        (vec![], ""),
        (vec!["+ a *:* rwm"], ALL),
        (
            vec!["- a *:* rwm", "+ c 1:3 rwm"],
            "null:r null:w null:rw null:m ",
        ),
        (vec!["+ b 1:3 rwm"], "block:m "),
        (vec!["+ c 1:5 r"], "zero:r "),
        (
            vec!["+ c 1:5 r", "+ c 1:* w", "- c *:7 w"],
            "null:w zero:r zero:w zero:rw ",
        ),
        // Reading and writing at once is refused where one of them is.
        (
            vec!["+ a *:* rwm", "- c 1:5 w"],
            "null:r null:w null:rw zero:r full:r full:w full:rw null:m zero:m block:m ",
        ),
        (vec!["- c 1:5 rwm", "+ a *:* rwm"], ALL),
        (vec!["+ a *:* rwm", "- a *:* m", "- c 1:* rw"], ""),
        (vec!["+ c 4294967295:3 rwm", "+ c 1:3 r"], "null:r "),
    ] {
        let policy: Vec<_> = rules.iter().map(|text| rule(text)).collect();
        cgroup.set_devices(&policy).unwrap();
        assert_eq!(allowed(&cgroup), expected, "{rules:?}");
    }
}

#[test]
fn long_policies_load_and_malformed_ones_are_named() {
    let Some(sandbox) = Sandbox::enter("devices-long") else {
        return;
    };
    let cgroup = sandbox.create("c");
    let mut rules: Vec<_> = (0..2000)
        .map(|i| rule(&format!("+ c 200:{i} rw")))
        .collect();
    rules.insert(0, rule("+ c 1:3 rw"));
    cgroup.set_devices(&rules).unwrap();
    assert_eq!(allowed(&cgroup), "null:r null:w null:rw ");

    let refused = |rules: &[DeviceRule]| match cgroup.set_devices(rules).unwrap_err() {
        Error::Invalid { field, .. } => field,
        error => panic!("{}", error.chain()),
    };
    let (good, bad) = (rule("+ c 1:3 rwm"), |text| rule(text));
    assert_eq!(
        refused(&[good.clone(), bad("+ x 1:3 r")]),
        "linux.resources.devices[1].type"
    );
    assert_eq!(
        refused(&[bad("+ c 1:3 rq"), good.clone()]),
        "linux.resources.devices[0].access"
    );
    let many: Vec<_> = (0..100_000)
        .map(|i| rule(&format!("+ c 200:{i} rw")))
        .collect();
    assert_eq!(refused(&many), "linux.resources.devices");
    // A refused policy leaves the one before in force.
    assert_eq!(allowed(&cgroup), "null:r null:w null:rw ");
}
