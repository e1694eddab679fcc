//! Using up what the kernel counts for each user.

use anyhow::{Result, anyhow};
use linux_keyutils::{Key, KeyRing, KeyRingIdentifier, KeySerialId};
use rustix::fs::inotify;

use crate::stream;

/// Opens inotify instances until the kernel refuses one, prints their number, and keeps them.
pub(crate) fn instances() -> Result<()> {
    let mut kept = Vec::new();
    let refused = loop {
        match inotify::init(inotify::CreateFlags::CLOEXEC) {
            Ok(instance) => kept.push(instance),
            Err(error) => break error,
        }
    };
    println!("{} {refused:?}", kept.len());
    stream::sleep()
}

/// KEY_SPEC_SESSION_KEYRING of keyctl(2).
const SESSION: KeySerialId = KeySerialId(-3);

/// Revokes the session keyring, so that nobody joins it any more, adds keys to another until the quota is used up, prints how
/// many, and keeps them.
pub(crate) fn keys() -> Result<()> {
    Key::from_id(SESSION)
        .revoke()
        .map_err(|error| anyhow!("revoke: {error:?}"))?;
    let process = KeyRing::from_special_id(KeyRingIdentifier::Process, true)
        .map_err(|error| anyhow!("process keyring: {error:?}"))?;
    let mut number = 0;
    let refused = loop {
        match process.add_key(&format!("key-{number}"), b"x") {
            Ok(_) => number += 1,
            Err(error) => break error,
        }
    };
    println!("{number} {refused:?}");
    stream::sleep()
}
