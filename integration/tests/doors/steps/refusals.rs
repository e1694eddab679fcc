//! What a system container cannot be: one error that says what to do instead, and nothing left.

use anyhow::{Result, ensure};

use super::life;
use crate::door::{Bed, Run, Wish};

/// More privileges stay inside the user namespace.
pub(crate) fn privileged(bed: &Bed<'_>) -> Result<()> {
    let container = bed.detach(&Run {
        words: &["/probe", "sleep"],
        wish: Some(Wish::Privileged),
        ..Run::default()
    })?;
    life::walls(&container)?;
    container.remove()
}

pub(crate) fn host_network(bed: &Bed<'_>) -> Result<()> {
    refused(bed, Wish::HostNetwork, "network")
}

pub(crate) fn host_pid(bed: &Bed<'_>) -> Result<()> {
    refused(bed, Wish::HostPid, "pid")
}

pub(crate) fn host_ipc(bed: &Bed<'_>) -> Result<()> {
    refused(bed, Wish::HostIpc, "ipc")
}

pub(crate) fn host_users(bed: &Bed<'_>) -> Result<()> {
    refused(bed, Wish::HostUsers, "user")
}

/// The error names the field of the specification and a remedy; the client hands it on.
fn refused(bed: &Bed<'_>, wish: Wish, kind: &str) -> Result<()> {
    let run = Run {
        words: &["/bin/true"],
        wish: Some(wish),
        ..Run::default()
    };
    let output = bed.run(&run, b"")?;
    let said = format!("{}{}", output.stdout, output.stderr);
    ensure!(
        output.code != 0 && said.contains("linux.namespaces") && said.contains(kind),
        "exit code {}, {said}",
        output.code
    );
    Ok(())
}
