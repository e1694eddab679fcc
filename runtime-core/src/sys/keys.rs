//! The session keyring of a process (keyrings(7)). The crates for it cannot join one by name.

use std::ffi::CStr;
use std::io;

/// Key number, as keyctl(2) takes it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Serial(i64);

/// Leaves the session keyring for the one of this name in the user namespace that this process may search, or for a new one;
/// without a name always for a new one (KEYCTL_JOIN_SESSION_KEYRING).
///
/// # Errors
/// ENOSYS from a kernel without keys, EDQUOT where the user has as many as it may.
pub(crate) fn join_session(name: Option<&CStr>) -> io::Result<Serial> {
    let name = name.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: the name is null or a C string that outlives the call.
    let r = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, name) };
    if r < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(Serial(r))
    }
}

/// What the kernel says of a key: `type;uid;gid;permissions;name`, ids as this user namespace has them (KEYCTL_DESCRIBE).
pub(crate) fn describe(key: Serial) -> io::Result<String> {
    let mut text = vec![0_u8; 4096];
    // SAFETY: the length is that of `text`, beyond which the kernel does not write.
    let r = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            libc::KEYCTL_DESCRIBE,
            key.0,
            text.as_mut_ptr(),
            text.len(),
        )
    };
    if r < 0 {
        return Err(io::Error::last_os_error());
    }
    let text = CStr::from_bytes_until_nul(&text).map_err(io::Error::other)?;
    Ok(text.to_string_lossy().into_owned())
}

/// Sets the permissions of a key of one's own (KEYCTL_SETPERM; a byte each for possessor, user, group and others).
pub(crate) fn set_permissions(key: Serial, permissions: u32) -> io::Result<()> {
    // SAFETY: integers only.
    let r = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_SETPERM, key.0, permissions) };
    if r < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
