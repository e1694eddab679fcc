//! What a process has taken over from whoever started it, as far as it can tell of itself.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};
use linux_keyutils::{KeyRing, KeyRingIdentifier};
use rustix::process::{
    dumpable_behavior, getpgrp, getpid, getsid, machine_check_memory_corruption_kill_policy,
    parent_process_death_signal,
};
use rustix::thread::{
    capabilities_secure_bits, current_timer_slack, no_new_privs,
    transparent_huge_pages_are_disabled,
};
use serde_json::{Value, json};

/// The description of the key that a test gives the engine.
const KEY: &str = "of-the-engine";

/// One object: attribute → value. Must be asked before anything else changes them.
pub(crate) fn all() -> Result<Value> {
    let status = read("/proc/self/status")?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map_or("", |rest| rest.trim_start_matches(':').trim())
            .to_owned()
    };
    let stat = read("/proc/self/stat")?;
    // Beyond the name, which may have blanks: the third field of proc_pid_stat(5) is the first.
    let stat: Vec<&str> = stat
        .rsplit_once(") ")
        .map_or("", |(_, rest)| rest)
        .split_whitespace()
        .collect();
    let stat = |number: usize| *stat.get(number - 3).unwrap_or(&"");
    let limits: Vec<_> = read("/proc/self/limits")?
        .lines()
        .map(str::to_owned)
        .collect();
    let limit = |name: &str| {
        let line = limits.iter().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default()
            .split_whitespace()
            .take(2)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let environment: BTreeMap<_, _> = std::env::vars().collect();
    Ok(json!({
        "key": key()?,
        "keyring": keyring(),
        "timer slack": current_timer_slack().context("timer slack")?,
        "policy": stat(41),
        "real-time priority": stat(40),
        "nice": stat(19),
        "cpus": field("Cpus_allowed"),
        "memory policy": memory_policy()?,
        "huge pages": if transparent_huge_pages_are_disabled().context("huge pages")? { "off" } else { "on" },
        "merged pages": merged(),
        "machine checks": format!("{:?}", machine_check_memory_corruption_kill_policy().context("machine checks")?),
        "personality": read("/proc/self/personality")?.trim(),
        "core dump filter": read("/proc/self/coredump_filter")?.trim(),
        "login": read("/proc/self/loginuid").unwrap_or_default(),
        "oom score": read("/proc/self/oom_score_adj")?.trim(),
        "dumpable": format!("{:?}", dumpable_behavior().context("dumpable")?),
        "death signal": format!("{:?}", parent_process_death_signal().context("death signal")?),
        "securebits": capabilities_secure_bits().context("securebits")?.bits(),
        "inheritable": field("CapInh"),
        "ambient": field("CapAmb"),
        "ignored signals": field("SigIgn"),
        "blocked signals": field("SigBlk"),
        "umask": field("Umask"),
        "variable": environment.get("OF_THE_ENGINE"),
        "directory": std::env::current_dir().context("find the working directory")?,
        "session": getsid(None).is_ok_and(|session| session == getpid() || session == getpgrp()),
        "terminal": stat(7),
        "descriptors": descriptors()?,
        "no_new_privs": no_new_privs().context("no_new_privs")?,
        "open files": limit("Max open files"),
        "message queues": limit("Max msgqueue size"),
    }))
}

/// Whether the key of the engine can be read, by possession of a keyring that leads to it.
fn key() -> Result<String> {
    let session = KeyRing::from_special_id(KeyRingIdentifier::Session, false)
        .map_err(|error| anyhow::anyhow!("session keyring: {error:?}"))?;
    Ok(match session.search(KEY).map(|key| key.read_to_vec()) {
        Ok(Ok(secret)) => String::from_utf8_lossy(&secret).into_owned(),
        Ok(Err(error)) | Err(error) => format!("{error:?}"),
    })
}

/// Name and owner of the session keyring.
fn keyring() -> String {
    KeyRing::from_special_id(KeyRingIdentifier::Session, false)
        .and_then(|session| session.metadata())
        .map_or_else(
            |error| format!("{error:?}"),
            |of| format!("{} of {}", of.get_description(), of.get_uid()),
        )
}

/// The policy of the program's own text; of an anonymous mapping it would be the same.
fn memory_policy() -> Result<String> {
    let maps = read("/proc/self/numa_maps")?;
    let policy = maps.lines().next().and_then(|line| line.split(' ').nth(1));
    Ok(policy.unwrap_or_default().to_owned())
}

/// Whether equal pages are merged; kernels before 6.4 do not say.
fn merged() -> String {
    let text = fs::read_to_string("/proc/self/ksm_stat").unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("ksm_merge_any:"));
    line.unwrap_or("no").trim().to_owned()
}

/// Descriptors beyond the standard streams, but for the one that reads the list.
fn descriptors() -> Result<Vec<String>> {
    let mut open = Vec::new();
    for entry in fs::read_dir("/proc/self/fd").context("list descriptors")? {
        let path = entry?.path();
        let target = fs::read_link(&path).unwrap_or_default();
        let number: u32 = path
            .file_name()
            .and_then(|name| name.to_str()?.parse().ok())
            .unwrap_or(0);
        if number > 2 && !target.ends_with("fd") {
            open.push(target.to_string_lossy().into_owned());
        }
    }
    Ok(open)
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {path}"))
}
