//! `docs/dependencies.md` has a row for each crate that the binary's manifests name, and no other, and how many there are in all.
#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file)).unwrap()
}

#[test]
fn the_table_of_crates_is_that_of_the_manifests() {
    let mut named = BTreeSet::new();
    for manifest in ["shim/Cargo.toml", "runtime-core/Cargo.toml"] {
        let manifest: toml::Table = read(manifest).parse().unwrap();
        let dependencies = manifest["dependencies"].as_table().unwrap();
        named.extend(dependencies.keys().cloned());
    }
    let text = read("docs/dependencies.md");
    let table = text.split("\n## ").next().unwrap();
    let mut explained = BTreeSet::new();
    for row in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [name, what, why] = cells[..] else {
            panic!("{row}: a name, what for, why this one")
        };
        assert!(
            what.len() > 10 && why.trim_end_matches('|').len() > 3,
            "{row}"
        );
        explained.insert(name.trim_matches('`').to_owned());
    }
    assert_eq!(explained, named);
}

#[test]
fn the_number_of_crates_is_that_of_the_lock_file() {
    #[expect(
        clippy::disallowed_methods,
        reason = "the reaper is the shim's; this is a test's own child"
    )]
    let tree = Command::new(env!("CARGO"))
        .args("tree --locked --offline --edges normal --prefix none --no-dedupe".split(' '))
        .args(["--target", "x86_64-unknown-linux-gnu"])
        .args([
            "--manifest-path",
            concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
        ])
        .output()
        .unwrap();
    assert!(tree.status.success(), "{tree:?}");
    let tree = String::from_utf8(tree.stdout).unwrap();
    // Ours have a path.
    let crates: BTreeSet<_> = tree.lines().filter(|line| !line.contains('/')).collect();
    let said = format!("({} in\nall now)", crates.len());
    assert!(
        read("docs/dependencies.md").contains(&said),
        "{said}: {crates:#?}"
    );
}
