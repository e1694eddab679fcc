//! The shim's socket: one for each group of containers, at a path that follows from the group's name (containerd
//! `pkg/shim/util_unix.go`).

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use runtime_core::OsContext;
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Where containerd's own shims put their sockets.
const DEFAULT_DIR: &str = "/run/containerd/s";
/// containerd refuses longer paths (`sun_path` has 108 bytes).
const MAX_PATH: usize = 106;
/// Beside `config.json`; containerd 1.7 reads it, and `delete` after a crash.
pub(crate) const ADDRESS_FILE: &str = "address";

/// What `bind` found.
#[derive(Debug)]
pub(crate) enum Bound {
    /// A new socket, listening; nobody serves it yet.
    New(UnixListener),
    /// A shim serves the group already.
    Served,
}

/// Path of the socket of a group of containers.
pub(crate) fn path(
    dir: Option<&str>,
    grpc_address: &str,
    namespace: &str,
    group: &str,
) -> Result<PathBuf> {
    let digest = Sha256::digest(format!("{grpc_address}/{namespace}/{group}"));
    let name: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let path = Path::new(dir.unwrap_or(DEFAULT_DIR)).join(name);
    if path.as_os_str().len() > MAX_PATH {
        return Err(Error::InvalidArgument(format!(
            "socket path {}: longer than {MAX_PATH} bytes; use a shorter socket directory",
            path.display()
        )));
    }
    Ok(path)
}

/// The address as containerd takes it.
pub(crate) fn address(path: &Path) -> String {
    format!("unix://{}", path.display())
}

/// Binds the socket, mode 0600, unless a shim already serves it. A socket that nobody serves is replaced.
///
/// The directory is locked meanwhile: between bind(2) and listen(2) a socket looks dead to another `start`.
pub(crate) fn bind(path: &Path) -> Result<Bound> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(dir)
        .os("mkdir", dir.display())?;
    let lock = File::open(dir).os("open", dir.display())?;
    flock(&lock, FlockOperation::LockExclusive).os("flock", dir.display())?;
    match bind_private(path) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
        result => return Ok(Bound::New(result.os("bind", path.display())?)),
    }
    if is_served(path) {
        return Ok(Bound::Served);
    }
    remove(path)?;
    Ok(Bound::New(bind_private(path).os("bind", path.display())?))
}

/// Whether somebody accepts connections at `path`.
pub(crate) fn is_served(path: &Path) -> bool {
    UnixStream::connect(path).is_ok()
}

/// Whether the shim at `path` lives. One that is being killed may still have its socket open, but what is connected to
/// it is closed in a moment; one that lives says nothing unasked.
pub(crate) fn is_alive(path: &Path) -> bool {
    const MOMENT: Duration = Duration::from_secs(1);
    let Ok(mut stream) = UnixStream::connect(path) else {
        return false;
    };
    if stream.set_read_timeout(Some(MOMENT)).is_err() {
        return true;
    }
    loop {
        match stream.read(&mut [0]) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            read => return matches!(read, Err(e) if e.kind() == io::ErrorKind::WouldBlock),
        }
    }
}

/// The socket that this process serves, until it is released.
#[derive(Debug)]
pub(crate) struct Served(Mutex<Option<PathBuf>>);

impl Served {
    /// The socket at `path`; none where the shim was started by hand.
    pub(crate) fn new(path: Option<PathBuf>) -> Served {
        Served(Mutex::new(path))
    }

    /// Removes the socket, once: the next one of that name is another shim's.
    pub(crate) fn release(&self) -> Result<()> {
        let path = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        path.map_or(Ok(()), |path| remove(&path))
    }
}

/// Removes the socket; one that is gone already is fine.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => Ok(result.os("unlink", path.display())?),
    }
}

/// Binds with a umask, so that the socket is never open to others; `start` has one thread.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let old = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(old);
    listener
}

/// Notes the address in the bundle.
pub(crate) fn write_address(bundle: &Path, address: &str) -> Result<()> {
    let file = bundle.join(ADDRESS_FILE);
    Ok(fs::write(&file, address).os("write", file.display())?)
}

/// The socket noted in the bundle, if there is one.
pub(crate) fn read_address(bundle: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(bundle.join(ADDRESS_FILE)).ok()?;
    text.trim().strip_prefix("unix://").map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn path_is_what_containerd_computes() {
        // sha256("/run/containerd/containerd.sock/default/c1"), as Go's CreateSocketAddress gives it.
        assert_eq!(
            path(None, "/run/containerd/containerd.sock", "default", "c1").unwrap(),
            Path::new(
                "/run/containerd/s/d25aa4ef11a84e954e74a5bcff06557d0b6ea8d0c00243896f29826694bbd888"
            )
        );
        assert!(path(Some(&"x".repeat(60)), "a", "b", "c").is_err());
    }

    #[test]
    fn bind_reuses_what_is_served_and_replaces_what_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s/sock");
        let Bound::New(listener) = bind(&path).unwrap() else {
            panic!("nothing was there")
        };
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(bind(&path).unwrap(), Bound::Served));
        drop(listener);
        assert!(path.exists(), "a dead shim leaves its socket");
        // A child of another test has the listener, too, until its exec.
        for _ in 0..1000 {
            if !is_served(&path) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert!(matches!(bind(&path).unwrap(), Bound::New(_)));
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_dying_shim_is_not_alive() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        assert!(!is_alive(&path));
        let dies_when_closed = || {
            remove(&path).unwrap();
            let listener = UnixListener::bind(&path).unwrap();
            assert!(is_alive(&path), "it only does not answer");
            std::thread::scope(|scope| {
                let asking = scope.spawn(|| is_alive(&path));
                std::thread::sleep(Duration::from_millis(100));
                drop(listener);
                !asking.join().unwrap()
            })
        };
        // A child of another test has the listener, too, until its exec: one time of several that does not happen.
        assert!((0..5).any(|_| dies_when_closed()));
    }

    #[test]
    fn address_file_round_trips() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read_address(dir.path()), None);
        write_address(dir.path(), &address(Path::new("/run/s/x"))).unwrap();
        assert_eq!(read_address(dir.path()), Some("/run/s/x".into()));
    }
}
