//! Id ranges between processes, and after a crash.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::cgroup::LEAF;
use crate::cgroup::tests::sandbox::{Process, Sandbox, eventually};
use crate::config::Ids;
use crate::kernel::idmap::IdMap;
use crate::kernel::reap;
use crate::pod::ranges::{Guest, Owner, Pool, reclaim, reclaim_of};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

const POD: u32 = 65_536;

fn ids(slots: u32) -> Ids {
    Ids {
        first: 1 << 30,
        count: slots * POD,
        per_pod: POD,
    }
}

fn private_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o700)).unwrap();
    dir
}

fn files(dir: &Path) -> usize {
    std::fs::read_dir(dir.join("ranges")).unwrap().count()
}

/// A process that takes and gives back, prints the range that it has in the end, and keeps it until it is killed.
#[allow(clippy::print_stdout)] // its parent reads it
fn allocate_until_killed(dir: &Path) -> ! {
    let pool = Pool::new(&ids(64), dir).unwrap();
    for _ in 0..20 {
        drop(pool.allocate().unwrap());
    }
    let range = pool.allocate().unwrap();
    println!("range {}", range.first);
    loop {
        std::thread::park();
    }
}

fn start(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "pod::ranges::exclusive_tests::many_processes_get_disjoint_ranges",
            "--nocapture",
        ])
        .env("RANGES_ALLOCATOR", dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn kill(child: &Child) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    pidfd_send_signal(&pidfd, Signal::KILL).unwrap();
    reap::reap_blocking(&pidfd).unwrap();
}

#[test]
fn many_processes_get_disjoint_ranges() {
    if let Some(dir) = std::env::var_os("RANGES_ALLOCATOR") {
        allocate_until_killed(Path::new(&dir));
    }
    let dir = private_dir();
    let mut children: Vec<_> = (0..50).map(|_| start(dir.path())).collect();
    let firsts: BTreeSet<u32> = children
        .iter_mut()
        .map(|child| {
            let lines = BufReader::new(child.stdout.take().unwrap()).lines();
            lines
                .map(|line| line.unwrap())
                .find_map(|line| line.split_once("range ")?.1.parse().ok())
                .unwrap()
        })
        .collect();
    let held = files(dir.path());
    children.iter().for_each(kill);
    assert_eq!(firsts.len(), 50);
    assert_eq!(held, 50, "the ranges given back have no files");

    // All were killed: their ranges are free again.
    let pool = Pool::new(&ids(64), dir.path()).unwrap();
    let all: Vec<_> = (0..64).map(|_| pool.allocate().unwrap()).collect();
    drop(all);
    assert_eq!(files(dir.path()), 0);
}

#[test]
fn threads_get_disjoint_ranges() {
    let dir = private_dir();
    let pool = Pool::new(&ids(50), dir.path()).unwrap();
    let taken = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| taken.lock().unwrap().push(pool.allocate().unwrap()));
        }
    });
    let taken = taken.into_inner().unwrap();
    let firsts: BTreeSet<_> = taken.iter().map(|range| range.first).collect();
    assert_eq!(firsts.len(), 50);
}

/// An owner that removes its file while another has just opened it must not leave the other with a lock on nothing.
#[test]
fn taking_and_giving_back_at_once_stays_exclusive() {
    let dir = private_dir();
    let pool = Pool::new(&ids(1), dir.path()).unwrap();
    let taken = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let deadline = Instant::now() + Duration::from_millis(500);
                while Instant::now() < deadline {
                    let Ok(range) = pool.allocate() else { continue };
                    assert!(!taken.swap(true, Ordering::SeqCst), "two have it");
                    std::thread::yield_now();
                    taken.store(false, Ordering::SeqCst);
                    drop(range);
                }
            });
        }
    });
    assert_eq!(files(dir.path()), 0);
}

#[test]
fn a_range_whose_container_outlives_its_shim_is_not_handed_out() {
    let Some(sandbox) = Sandbox::enter("ranges") else {
        return;
    };
    let dir = private_dir();
    let pool = Pool::new(&ids(1), dir.path()).unwrap();
    let (sandbox_cgroup, cgroup) = (sandbox.create("pause"), sandbox.create("app"));
    let range = pool.allocate().unwrap();
    let first = range.first;
    let cgroups = [&sandbox_cgroup, &cgroup].map(|c| c.relative().to_owned());
    range
        .record(&Owner {
            pod: "pod".into(),
            cgroups: cgroups.into(),
        })
        .unwrap();
    let process = Process::start(&cgroup.dir().join(LEAF), None, "exec sleep 600");

    // Neither a shim that drops it too early nor one that dies gives it away.
    drop(range);
    assert_eq!(files(dir.path()), 1);
    assert!(pool.allocate().is_err());
    reclaim(dir.path(), &[first]).unwrap();
    assert_eq!(files(dir.path()), 1);

    cgroup.kill().unwrap();
    eventually("it is dead", || process.has_exited());
    sandbox_cgroup.remove().unwrap();
    // One of its cgroups is gone, the other empty.
    reclaim(dir.path(), &[first]).unwrap();
    assert_eq!(files(dir.path()), 0);
    // Meanwhile a child that another test forks may hold the lock until it comes to exec.
    eventually("it is free", || pool.allocate().is_ok());
}

#[test]
fn a_guest_keeps_the_range_of_an_owner_that_has_gone() {
    let dir = private_dir();
    let pool = Pool::new(&ids(1), dir.path()).unwrap();
    assert!(
        Guest::enter(dir.path(), &IdMap::single(1 << 30, POD), "/a")
            .unwrap()
            .is_none(),
        "no such range"
    );
    let range = pool.allocate().unwrap();
    let guest = Guest::enter(
        dir.path(),
        &IdMap::single(range.first, range.count),
        "/guest",
    )
    .unwrap();
    assert!(guest.is_some());
    drop(range);
    assert!(pool.allocate().is_err(), "handed out under a guest");
    drop(guest);
    assert_eq!(files(dir.path()), 0);
    drop(pool.allocate().unwrap());
}

#[test]
fn a_guest_whose_shim_was_killed_keeps_the_range_while_it_lives() {
    let Some(sandbox) = Sandbox::enter("guest") else {
        return;
    };
    let dir = private_dir();
    let pool = Pool::new(&ids(1), dir.path()).unwrap();
    let cgroup = sandbox.create("guest");
    let process = Process::start(&cgroup.dir().join(LEAF), None, "exec sleep 600");
    let range = pool.allocate().unwrap();
    let guest = Guest::enter(
        dir.path(),
        &IdMap::single(range.first, range.count),
        cgroup.relative(),
    )
    .unwrap();
    // What a killed shim leaves: the file, unlocked.
    let file = std::fs::read_dir(dir.path().join("ranges"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some())
        .unwrap();
    let text = std::fs::read(&file).unwrap();
    drop(guest);
    std::fs::write(&file, text).unwrap();
    drop(range);
    assert!(pool.allocate().is_err(), "handed out under a guest");

    cgroup.kill().unwrap();
    eventually("it is dead", || process.has_exited());
    reclaim_of(dir.path(), cgroup.relative()).unwrap();
    assert_eq!(files(dir.path()), 0);
    eventually("it is free", || pool.allocate().is_ok());
    cgroup.remove().unwrap();
}
