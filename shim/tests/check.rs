//! `check` as a person and a program run it, on this host, whatever it has.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by it, and waits for its own children"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use serde_json::Value;

const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-sysbox-v2");

/// Findings of `check --json` by name, and the exit code.
fn findings(output: &Output) -> (Vec<Value>, Option<i32>) {
    let findings: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    (findings, output.status.code())
}

fn status<'a>(findings: &'a [Value], name: &str) -> &'a str {
    let finding = findings.iter().find(|f| f["name"] == name);
    finding.unwrap_or_else(|| panic!("no {name} in {findings:?}"))["status"]
        .as_str()
        .unwrap()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn every_finding_is_whole_and_the_exit_code_follows() {
    let output = Command::new(SHIM)
        .args(["check", "--json"])
        .output()
        .unwrap();
    let (findings, code) = findings(&output);
    assert!(findings.len() >= 15, "{findings:?}");
    for finding in &findings {
        let text = |key: &str| finding[key].as_str().unwrap();
        assert!(
            !text("name").is_empty() && !text("detail").is_empty(),
            "{finding}"
        );
        let lacking = text("status") != "ok";
        assert_eq!(!text("cost").is_empty(), lacking, "{finding}");
        assert_eq!(!text("remedy").is_empty(), lacking, "{finding}");
    }
    let missing = findings.iter().any(|f| f["status"] == "missing");
    assert_eq!(code, Some(i32::from(missing)));
}

#[test]
fn a_person_gets_the_same_findings() {
    let json = Command::new(SHIM)
        .args(["check", "--json"])
        .output()
        .unwrap();
    let text = Command::new(SHIM).arg("check").output().unwrap();
    let (findings, code) = findings(&json);
    let text_of = String::from_utf8(text.stdout).unwrap();
    for finding in findings {
        // An error that names the probe's cgroup names another one each time.
        let detail = finding["detail"].as_str().unwrap();
        assert!(
            text_of.contains(detail) || detail.contains("sysbox-check-"),
            "{detail}\n{text_of}"
        );
    }
    assert_eq!(text.status.code(), code);
}

#[test]
fn it_leaves_nothing() {
    let left = || -> Vec<String> {
        [
            "/sys/fs/cgroup",
            "/sys/fs/cgroup/unified",
            "/var/lib",
            "/var/lib/containerd",
        ]
        .iter()
        .filter_map(|dir| fs::read_dir(dir).ok())
        .flatten()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("sysbox-check-"))
        .collect()
    };
    let mut child = Command::new(SHIM)
        .args(["check", "--json"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let own = format!("sysbox-check-{}", child.id());
    child.wait().unwrap();
    let left = left();
    assert!(!left.iter().any(|name| name.ends_with(&own)), "{left:?}");
}

#[test]
fn without_root_it_says_so_and_what_it_could_not_see() {
    let scratch = tempfile::tempdir().unwrap();
    let shim = scratch.path().join("shim");
    fs::copy(SHIM, &shim).unwrap();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(&shim);
    command.args(["check", "--json"]);
    if is_root() {
        command.uid(65534).gid(65534);
    }
    let (findings, code) = findings(&command.output().unwrap());
    assert_eq!(code, Some(1));
    assert_eq!(status(&findings, "root"), "missing");
    for name in ["capabilities", "overlay", "proc-pidns"] {
        assert_eq!(status(&findings, name), "unknown", "{name}");
    }
}

#[test]
fn a_configuration_that_does_not_hold_is_missing() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("config.toml");
    fs::write(&file, "colour = 'red'\n").unwrap();
    let output = Command::new(SHIM)
        .arg("-config")
        .arg(&file)
        .args(["check", "--json"])
        .output()
        .unwrap();
    let (findings, code) = findings(&output);
    assert_eq!(
        (status(&findings, "configuration"), code),
        ("missing", Some(1))
    );
    let detail = findings
        .iter()
        .find(|f| f["name"] == "configuration")
        .unwrap()["detail"]
        .as_str();
    // Not root's, where we are not root: that comes first.
    let expected = if is_root() {
        "colour: \"red\": no such key"
    } else {
        "must belong to root"
    };
    assert!(detail.unwrap().contains(expected), "{detail:?}");
}

#[test]
fn an_unknown_word_is_refused() {
    let output = Command::new(SHIM)
        .args(["check", "--yaml"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("check --yaml: it takes --json or nothing"),
        "{error}"
    );
}
