//! Killing what does not die (design D14).
//!
//! A process that waits in a FUSE file system for an answer cannot be killed, and root inside can see to it that the
//! answer never comes. Nothing else that a user namespace offers can keep a process alive: so a kill that is not obeyed at
//! once aborts the FUSE connections that are the container's.
//!
//! Whose connection it is tells its owner, who has an id of the container's user namespace: never the host's, or another
//! pod's. Containers of one pod have the same ids, as have those that joined another's user namespace. So at first those go
//! that a process of the container sees mounted; if that was not it, those that nobody sees, for a file system may be
//! unmounted and still be waited in (umount(2), MNT_DETACH). What only processes outside the container see stays.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::cgroup::is_member;
use crate::error::{Error, OsContext, Result};
use crate::kernel::features::{Feature, Features};
use crate::kernel::fuse_control::Control;
use crate::kernel::idmap::IdMap;

/// How long a kill may take until it is not obeyed, and between two abortions.
const MOMENT: Duration = Duration::from_secs(1);

/// What is to die.
#[derive(Debug, Clone)]
pub(super) struct Victim {
    /// Its cgroup, relative to the root of the hierarchy.
    pub(super) cgroup: String,
    /// Its ids.
    pub(super) ids: IdMap,
    /// What the kernel has.
    pub(super) features: Features,
}

/// While it lives, whatever keeps a victim from dying for longer than a moment is ended.
#[derive(Debug)]
pub(super) struct Watchdog {
    done: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Looks after the death of `victim`, from a thread of its own: the killer may be what waits.
    pub(super) fn start(victim: Victim) -> Watchdog {
        let (done, ended) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("kill-watch".into())
            .spawn(move || {
                let mut unseen = false;
                while ended.recv_timeout(MOMENT) == Err(RecvTimeoutError::Timeout) {
                    if let Err(error) = victim.free(unseen) {
                        tracing::warn!(
                            cgroup = victim.cgroup,
                            error = error.chain(),
                            "FUSE connections of a container that does not die"
                        );
                    }
                    unseen = true;
                }
            });
        if let Err(error) = &thread {
            tracing::warn!(%error, "nobody looks after a kill");
        }
        Watchdog {
            done: Some(done),
            thread: thread.ok(),
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.done.take());
        if let Some(thread) = self.thread.take() {
            // It reports what fails.
            let _ = thread.join();
        }
    }
}

impl Victim {
    /// Aborts the FUSE connections that are its own: those that it sees, and if `unseen` those that nobody does.
    fn free(&self, unseen: bool) -> Result<()> {
        if !self.features.has(Feature::FuseControl) {
            return Err(Error::Unsupported {
                feature: "aborting them".into(),
                needs: "the kernel's fusectl".into(),
            });
        }
        let control = Control::open()?;
        let owned: Vec<_> = control
            .connections()?
            .into_iter()
            .filter(|connection| self.has(connection.owner))
            .collect();
        if owned.is_empty() {
            return Ok(());
        }
        let seen = self.seen()?;
        for connection in owned {
            let device = &connection.device;
            if seen.inside.contains(device) || unseen && !seen.outside.contains(device) {
                tracing::warn!(
                    cgroup = self.cgroup,
                    connection = connection.device,
                    "a kill is not obeyed: FUSE connection aborted"
                );
                control.abort(connection.device)?;
            }
        }
        Ok(())
    }

    /// Whether host id `uid` is one of its own. The host's root is nobody's.
    fn has(&self, uid: u32) -> bool {
        uid != 0 && self.ids.container_uid(uid).is_some()
    }

    /// What processes with its ids see, and the host.
    fn seen(&self) -> Result<Seen> {
        let (mut inside, mut outside) = (Namespaces::default(), Namespaces::default());
        outside.add(Path::new("/proc/self"));
        for entry in std::fs::read_dir("/proc").os("read directory", "/proc")? {
            // Processes end meanwhile.
            let Ok(entry) = entry else { continue };
            let is_process = entry
                .file_name()
                .as_encoded_bytes()
                .iter()
                .all(u8::is_ascii_digit);
            let of_ids = || entry.metadata().is_ok_and(|meta| self.has(meta.uid()));
            if !is_process || !of_ids() {
                continue;
            }
            let process = entry.path();
            if is_member(&process, &self.cgroup) {
                // The first thread may have ended, and have no namespaces any more.
                for thread in std::fs::read_dir(process.join("task"))
                    .into_iter()
                    .flatten()
                {
                    thread
                        .into_iter()
                        .for_each(|thread| inside.add(&thread.path()));
                }
            } else {
                outside.add(&process);
            }
        }
        Ok(Seen {
            inside: inside.fuse,
            outside: outside.fuse,
        })
    }
}

/// Devices of mounted FUSE file systems, by who sees them.
#[derive(Debug)]
struct Seen {
    inside: BTreeSet<u32>,
    outside: BTreeSet<u32>,
}

/// Mount namespaces, and the devices of FUSE file systems in them.
#[derive(Debug, Default)]
struct Namespaces {
    known: BTreeSet<PathBuf>,
    fuse: BTreeSet<u32>,
}

impl Namespaces {
    /// Adds the one of a process or thread, given its directory of /proc; one that has ended has none.
    fn add(&mut self, proc: &Path) {
        let Ok(ns) = std::fs::read_link(proc.join("ns/mnt")) else {
            return;
        };
        if !self.known.insert(ns) {
            return;
        }
        let Ok(table) = File::open(proc.join("mountinfo")) else {
            return;
        };
        // Line by line: the container decides how many there are.
        let lines = BufReader::new(table)
            .split(b'\n')
            .map_while(std::result::Result::ok);
        self.fuse
            .extend(lines.filter_map(|line| fuse_device(&String::from_utf8_lossy(&line))));
    }
}

/// Minor number of the device of a FUSE mount, a line of mountinfo (proc_pid_mountinfo(5)).
fn fuse_device(line: &str) -> Option<u32> {
    let (before, after) = line.split_once(" - ")?;
    if !after.starts_with("fuse") {
        return None;
    }
    before.split(' ').nth(2)?.strip_prefix("0:")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuse_mounts_are_told_by_their_type() {
        let line =
            |kind| format!("711 32 0:77 / /mnt/0:1 rw shared:4 - {kind} hostile rw,user_id=0");
        assert_eq!(fuse_device(&line("fuse")), Some(77));
        assert_eq!(fuse_device(&line("fuse.sshfs")), Some(77));
        assert_eq!(fuse_device(&line("overlay")), None);
    }

    #[test]
    fn the_hosts_root_owns_nothing_that_is_a_containers() {
        let victim = |host| Victim {
            cgroup: "c".into(),
            ids: IdMap::single(host, 65536),
            features: Features::default(),
        };
        assert!(victim(100_000).has(100_000));
        assert!(!victim(100_000).has(0));
        assert!(!victim(100_000).has(165_536));
        assert!(!victim(0).has(0));
    }
}
