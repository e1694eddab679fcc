//! Installing a seccomp filter (seccomp(2)).

use std::io;

/// Installs `filter`, an array of `struct sock_filter` in bytes, with SECCOMP_FILTER_FLAG_*
/// `flags`, on this thread.
pub(crate) fn install(filter: &[u8], flags: u32) -> io::Result<()> {
    let (instructions, rest) = filter.as_chunks::<8>();
    let length = u16::try_from(instructions.len())
        .ok()
        .filter(|n| *n > 0 && rest.is_empty());
    let Some(length) = length else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    // sock_filter needs an alignment of 4, which bytes do not promise.
    let program: Vec<u64> = instructions
        .iter()
        .map(|i| u64::from_ne_bytes(*i))
        .collect();
    let fprog = libc::sock_fprog {
        len: length,
        filter: program.as_ptr().cast_mut().cast(),
    };
    // SAFETY: `fprog` describes `program`, which outlives the call; the kernel copies and verifies
    // it. No kept crate installs a ready program with flags.
    let r = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const fprog,
        )
    };
    if r == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
