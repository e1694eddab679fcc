//! `delete`: containerd calls it when the shim is dead or nothing was created, and wants what is left gone.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::time::SystemTime;

use containerd_shim_protos::api::DeleteResponse;
use protobuf::{Message, MessageField};
use runtime_core::OsContext;

use crate::convert::timestamp;
use crate::error::Result;
use crate::flags::Flags;
use crate::{members, socket};

/// Beside `config.json`: host pid of init, for `delete` to report.
pub(crate) const PID_FILE: &str = "init.pid";

/// What containerd reports for a container that its shim left behind: killed.
const KILLED: u32 = 128 + 9;

/// Cleans up and prints a `DeleteResponse`. An error makes containerd keep the bundle and try again at its next start.
pub(crate) fn run(flags: &Flags) -> Result<()> {
    let bundle = match &flags.bundle {
        Some(bundle) => bundle.clone(),
        None => std::env::current_dir().os("getcwd", "")?,
    };
    let socket = socket::read_address(&bundle);
    // A shim that lives still has the other members.
    if !socket.as_deref().is_some_and(socket::is_alive) {
        for member in members::list(&bundle)? {
            runtime_core::cleanup(&member)?;
        }
        if let Some(socket) = &socket {
            socket::remove(socket)?;
        }
    }
    runtime_core::cleanup(&bundle)?;
    let response = DeleteResponse {
        pid: read_pid(&bundle),
        exit_status: KILLED,
        exited_at: MessageField::some(timestamp(SystemTime::now())),
        ..DeleteResponse::default()
    };
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(&response.write_to_bytes().unwrap_or_default())
        .and_then(|()| stdout.flush())
        .os("write", "stdout")?;
    Ok(())
}

/// The pid noted at create, 0 if there was none.
fn read_pid(bundle: &Path) -> u32 {
    fs::read_to_string(bundle.join(PID_FILE))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}
