//! `containerd-shim-sysbox-v2 check [--json]`: what this host has, what each lack costs, and the remedy.
//!
//! Probes try the thing itself and leave nothing behind. They run one after the other in a process with one thread,
//! which is no shim: no reaper runs in it, and its standard output is a person's or a program's.

mod bounds;
mod cgroup;
mod command;
mod container;
mod finding;
mod host;
mod kernel;
mod privilege;

use std::io;
use std::path::Path;
use std::process::ExitCode;

use runtime_core::Hierarchy;
use runtime_core::OsContext;
use runtime_core::{Config, DEFAULT_PATH};

use crate::error::{Error, Result};
use crate::flags::Flags;
use finding::Finding;

/// Runs every probe under the configuration that `flags` name and prints what they found. The code is 1 where containers
/// cannot run here.
pub(crate) fn run(flags: &Flags) -> Result<ExitCode> {
    let write = match flags.rest.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => finding::write_text,
        ["--json" | "-json"] => finding::write_json,
        _ => {
            return Err(Error::InvalidArgument(format!(
                "check {}: it takes --json or nothing",
                flags.rest.join(" ")
            )));
        }
    };
    let findings = probe(flags.config.as_deref().unwrap_or(Path::new(DEFAULT_PATH)));
    write(&findings, &mut io::stdout().lock()).os("write", "stdout")?;
    Ok(if finding::runs(&findings) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn probe(config_path: &Path) -> Vec<Finding> {
    let loaded = Config::load(config_path);
    let configuration = host::configuration(config_path, &loaded);
    let config = loaded.unwrap_or_default();
    let hierarchy = Hierarchy::find();
    let mut findings = vec![
        kernel::release(),
        privilege::root(),
        privilege::capabilities(),
        kernel::namespaces(),
        kernel::pidfd(),
        kernel::seccomp(),
        kernel::overlay(),
    ];
    findings.extend(kernel::features(&config.pretend_missing));
    findings.extend([kernel::fuse(), cgroup::hierarchy(&hierarchy)]);
    if let Ok(hierarchy) = &hierarchy {
        findings.push(cgroup::controllers(hierarchy));
        findings.push(cgroup::container(hierarchy));
    }
    findings.extend([
        configuration,
        kernel::state_dir(&config.state_dir),
        host::id_pool(&config),
        host::security_modules(),
        host::nested_user_namespaces(),
        host::containerd(),
        host::installed(),
    ]);
    findings.extend(bounds::all(Path::new("/proc/sys")));
    findings.extend(container::whole(&config));
    findings
}
