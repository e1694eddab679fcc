//! `mounts[].type`, with the options that each file system takes.

use std::path::Path;

use oci_spec::runtime as oci;

use super::mounts::MountKind;
use super::options::{Options, attr};
use super::text;
use crate::error::{Error, Result, Warning};
use crate::kernel::fs::FsOption;

/// What a mount of the spec mounts.
pub(super) fn kind(
    i: usize,
    given: &oci::Mount,
    bundle: &Path,
    options: &Options,
    warnings: &mut Vec<Warning>,
) -> Result<MountKind> {
    let field = format!("mounts[{i}].type");
    let name = given.typ().as_deref().unwrap_or("");
    if options.copy_up && (name != "tmpfs" || options.bind.is_some()) {
        return Err(Error::invalid(
            format!("mounts[{i}].options"),
            "tmpcopyup",
            "remove it, or mount type tmpfs: nothing else can be filled from the image",
        ));
    }
    if options.bind.is_some() || name == "bind" {
        return bind(i, given, bundle, options, warnings);
    }
    let none = |kind: MountKind| no_data(i, name, options).map(|()| kind);
    match name {
        "tmpfs" => Ok(MountKind::Tmpfs {
            options: tmpfs(i, options)?,
            copy_up: options.copy_up,
        }),
        "proc" => none(MountKind::Proc),
        "sysfs" => none(MountKind::Sysfs),
        "cgroup" | "cgroup2" => none(MountKind::Cgroup),
        "mqueue" => none(MountKind::Mqueue),
        "devpts" => Ok(MountKind::Devpts {
            options: devpts(i, options)?,
        }),
        "" | "none" => Err(Error::invalid(
            field,
            if name.is_empty() { "none given" } else { name },
            "give a type, or the option bind or rbind",
        )),
        _ => {
            text::line(&field, name, 64)?;
            if let Some(why) = refused_type(name) {
                return Err(Error::invalid(field, name, why));
            }
            let source = given.source().as_deref().unwrap_or(Path::new("none"));
            let mut all: Vec<FsOption> = flags(options).collect();
            all.extend(options.data.iter().map(|(_, option)| option.clone()));
            Ok(MountKind::Other {
                fs_type: name.into(),
                source: text::path(&format!("mounts[{i}].source"), source)?.into(),
                options: all,
            })
        }
    }
}

/// File systems that are one for the whole host: mounted by host root they would hand the host to the container.
fn refused_type(name: &str) -> Option<&'static str> {
    match name {
        "debugfs" | "tracefs" | "securityfs" | "configfs" | "efivarfs" | "pstore" | "selinuxfs"
        | "smackfs" | "resctrl" | "rpc_pipefs" | "nfsd" | "devtmpfs" | "fusectl" => {
            Some("mount it on the host and bind what is needed: it is not the container's own")
        }
        "bpf" | "binfmt_misc" => {
            Some("mount it inside the container: it is an instance of its own there")
        }
        "fuse" | "fuseblk" | "virtiofs" | "9p" => {
            Some("mount it on the host and bind it: its server is not the container's")
        }
        _ if name.starts_with("fuse.") => {
            Some("mount it on the host and bind it: its server is not the container's")
        }
        _ => None,
    }
}

fn bind(
    i: usize,
    given: &oci::Mount,
    bundle: &Path,
    options: &Options,
    warnings: &mut Vec<Warning>,
) -> Result<MountKind> {
    let field = format!("mounts[{i}].source");
    let source = given
        .source()
        .as_deref()
        .filter(|source| !source.as_os_str().is_empty())
        .ok_or_else(|| Error::invalid(&field, "none", "name the host path to bind"))?;
    let source = text::absolute_from(&field, source, bundle)?;
    no_data(i, "bind", options)?;
    if !options.superblock.is_empty() {
        warnings.push(Warning::new(
            format!("mounts[{i}].options"),
            format!(
                "{} has no effect on a bind mount: set it where the file system is mounted",
                options.superblock.join(",")
            ),
        ));
    }
    Ok(MountKind::Bind {
        source,
        recursive: options.bind.unwrap_or(false),
    })
}

/// Superblock flags for fsconfig.
fn flags(options: &Options) -> impl Iterator<Item = FsOption> {
    let read_only = options.attr.set & attr::RDONLY != 0;
    read_only
        .then(|| "ro".to_string())
        .into_iter()
        .chain(options.superblock.iter().cloned())
        .map(|key| FsOption { key, value: None })
}

fn no_data(i: usize, kind: &str, options: &Options) -> Result<()> {
    // What engines pass to pseudo file systems by habit and the kernel ignores or has as its default.
    let idle = |key: &str| match kind {
        "cgroup" | "cgroup2" => matches!(
            key,
            "nsdelegate" | "memory_recursiveprot" | "memory_localevents" | "none" | "xattr"
        ),
        _ => false,
    };
    match options.data.iter().find(|(_, option)| !idle(&option.key)) {
        None => Ok(()),
        Some((at, option)) => Err(unknown(i, *at, kind, option)),
    }
}

fn unknown(i: usize, at: usize, kind: &str, option: &FsOption) -> Error {
    Error::invalid(
        format!("mounts[{i}].options[{at}]"),
        show(option),
        format!("correct or remove it: a mount of type {kind} has no such option"),
    )
}

fn show(option: &FsOption) -> String {
    match &option.value {
        Some(value) => format!("{}={value}", option.key),
        None => option.key.clone(),
    }
}

/// Options of tmpfs(5).
fn tmpfs(i: usize, options: &Options) -> Result<Vec<FsOption>> {
    let mut out: Vec<FsOption> = options
        .superblock
        .iter()
        .map(|key| FsOption {
            key: key.clone(),
            value: None,
        })
        .collect();
    for (at, option) in &options.data {
        let value = option.value.as_deref();
        let remedy = match (option.key.as_str(), value) {
            ("size", Some(v)) if is_size(v) => None,
            ("size", _) => Some("give bytes, or a number with k, m, g, t or %"),
            ("nr_blocks" | "nr_inodes", Some(v)) if is_size(v) && !v.ends_with('%') => None,
            ("nr_blocks" | "nr_inodes", _) => Some("give a number, or one with k, m, g or t"),
            ("mode", Some(v)) if is_mode(v) => None,
            ("mode", _) => Some("give octal permission bits, at most 7777"),
            ("uid" | "gid", Some(v)) if is_id(v) => None,
            ("uid" | "gid", _) => Some("give a numeric id"),
            ("huge", Some("never" | "always" | "within_size" | "advise")) => None,
            ("huge", _) => Some("give never, always, within_size or advise"),
            ("mpol", Some(_)) => None,
            ("inode32" | "inode64" | "noswap" | "nr_inodes64", None) => None,
            _ => return Err(unknown(i, *at, "tmpfs", option)),
        };
        if let Some(remedy) = remedy {
            return Err(Error::invalid(
                format!("mounts[{i}].options[{at}]"),
                show(option),
                remedy,
            ));
        }
        out.push(option.clone());
    }
    Ok(out)
}

/// Options of devpts (Documentation/filesystems/devpts.rst).
fn devpts(i: usize, options: &Options) -> Result<Vec<FsOption>> {
    let mut out = Vec::new();
    for (at, option) in &options.data {
        let ok = match (option.key.as_str(), option.value.as_deref()) {
            // Every instance is new since Linux 4.7; fsconfig still takes the word.
            ("newinstance", None) => continue,
            ("mode" | "ptmxmode", Some(v)) => is_mode(v),
            ("uid" | "gid", Some(v)) => is_id(v),
            ("max", Some(v)) => is_id(v),
            _ => return Err(unknown(i, *at, "devpts", option)),
        };
        if !ok {
            return Err(Error::invalid(
                format!("mounts[{i}].options[{at}]"),
                show(option),
                "give octal permission bits for a mode, a number for the others",
            ));
        }
        out.push(option.clone());
    }
    Ok(out)
}

/// A number that memparse() of the kernel takes whole, or a percentage.
fn is_size(value: &str) -> bool {
    let digits = value
        .strip_suffix(['k', 'K', 'm', 'M', 'g', 'G', 't', 'T', '%'])
        .unwrap_or(value);
    !digits.is_empty() && digits.len() <= 19 && digits.bytes().all(|b| b.is_ascii_digit())
}

fn is_mode(value: &str) -> bool {
    !value.is_empty()
        && value.bytes().all(|b| b.is_ascii_digit())
        && u32::from_str_radix(value, 8).is_ok_and(|mode| mode <= 0o7777)
}

fn is_id(value: &str) -> bool {
    value.bytes().all(|b| b.is_ascii_digit()) && value.parse::<u32>().is_ok_and(|id| id != u32::MAX)
}
