use std::io::{Seek, Write};
use std::os::unix::fs::PermissionsExt;

use rustix::fs::{FlockOperation, flock};

use super::lock::read;
use super::*;
use crate::kernel::idmap::IdMap;

const POD: u32 = 262_144;

fn ids(first: u32, slots: u32) -> Ids {
    Ids {
        first,
        count: slots * POD,
        per_pod: POD,
    }
}

fn state_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o700)).unwrap();
    dir
}

fn files(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir.join("ranges")).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn ranges_are_exclusive_until_dropped_and_leave_no_file() {
    let dir = state_dir();
    let pool = Pool::new(&ids(1 << 30, 3), dir.path()).unwrap();
    let mut taken: Vec<_> = (0..3).map(|_| pool.allocate().unwrap()).collect();
    taken.sort_by_key(|range| range.first);
    let firsts: Vec<_> = taken.iter().map(|range| range.first).collect();
    assert_eq!(firsts, [0, 1, 2].map(|slot| (1 << 30) + slot * POD));
    assert!(taken.iter().all(|range| range.count == POD));
    let error = pool.allocate().unwrap_err();
    assert!(matches!(&error, Error::Invalid { field, .. } if field == "ids.count"));
    assert!(error.to_string().contains("in use"), "{error}");

    let free = taken.remove(1).first;
    assert_eq!(pool.allocate().unwrap().first, free);
    drop(taken);
    assert_eq!(files(dir.path()), [""; 0]);
}

#[test]
fn ranges_of_others_are_skipped() {
    let dir = state_dir();
    let reserved = subids("# users\n\njoe:1073741824:65536\nann:1074790399:1\nbad:x:1\nnone:5:0\n");
    let reserved: Vec<_> = reserved.collect();
    assert_eq!(
        reserved,
        [1 << 30..=(1 << 30) + 65_535, 1_074_790_399..=1_074_790_399]
    );
    // Slot 0 holds joe's ids, slot 3 ends with ann's.
    let pool = Pool::without(&ids(1 << 30, 4), dir.path(), reserved).unwrap();
    let mut taken: Vec<_> = (0..2).map(|_| pool.allocate().unwrap()).collect();
    taken.sort_by_key(|range| range.first);
    assert_eq!(taken[0].first, (1 << 30) + POD);
    assert_eq!(taken[1].first, (1 << 30) + 2 * POD);
    assert!(pool.allocate().is_err());
}

#[test]
fn the_kubelets_ranges_are_skipped() {
    let dir = state_dir();
    let pool = ids(65_536, 4097 / 4 + 1);
    let pool = Pool::new(&pool, dir.path()).unwrap();
    let first = pool.allocate().unwrap().first;
    assert!(u64::from(first) > *KUBELET.end(), "{first}");
    let error = Pool::new(&ids(100_000, 10), dir.path()).unwrap_err();
    assert!(matches!(&error, Error::Invalid { field, .. } if field == "ids"));
}

#[test]
fn wrong_configurations_are_named() {
    let dir = state_dir();
    let wrong = |ids: Ids, dir: &Path| match Pool::new(&ids, dir).unwrap_err() {
        Error::Invalid { field, .. } => field,
        error => panic!("{}", error.chain()),
    };
    let small = Ids {
        per_pod: 65_535,
        ..Ids::default()
    };
    assert_eq!(wrong(small, dir.path()), "ids.per-pod");
    let beyond = Ids {
        first: u32::MAX - 262_143,
        count: 262_144,
        ..Ids::default()
    };
    assert_eq!(wrong(beyond, dir.path()), "ids.count");
    let none = Ids {
        count: 262_143,
        ..Ids::default()
    };
    assert_eq!(wrong(none, dir.path()), "ids");
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o750)).unwrap();
    assert_eq!(wrong(Ids::default(), dir.path()), "state-dir");
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(dir.path(), &link).unwrap();
    assert!(Pool::new(&Ids::default(), &link).is_err());
}

#[test]
fn the_state_directory_is_made_for_us_alone() {
    let dir = state_dir();
    let state = dir.path().join("a/state");
    Pool::new(&Ids::default(), &state).unwrap();
    for path in [state.clone(), state.join("ranges")] {
        let mode = std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o700);
    }
}

#[test]
fn a_record_is_whole_at_any_moment() {
    let dir = state_dir();
    let range = Pool::new(&ids(1 << 30, 1), dir.path())
        .unwrap()
        .allocate()
        .unwrap();
    let owner = |cgroups: &[&str]| Owner {
        pod: "p".into(),
        cgroups: cgroups.iter().map(ToString::to_string).collect(),
    };
    assert_eq!(read(&range.locks.files[0].file).unwrap(), None);
    range.record(&owner(&["a/long/cgroup", "b"])).unwrap();
    assert_eq!(
        read(&range.locks.files[0].file).unwrap(),
        Some(owner(&["a/long/cgroup", "b"]))
    );
    range.record(&owner(&["b"])).unwrap();
    assert_eq!(
        read(&range.locks.files[0].file).unwrap(),
        Some(owner(&["b"]))
    );
    // Killed between writing and cutting: the rest of the longer record follows.
    let mut file = &range.locks.files[0].file;
    file.seek(std::io::SeekFrom::End(0)).unwrap();
    file.write_all(b"rest of a longer record\n").unwrap();
    assert_eq!(
        read(&range.locks.files[0].file).unwrap(),
        Some(owner(&["b"]))
    );
}

#[test]
fn a_crash_frees_the_range_but_not_one_with_an_unreadable_record() {
    let dir = state_dir();
    let pool = Pool::new(&ids(1 << 30, 2), dir.path()).unwrap();
    let path = dir.path().join("ranges");
    std::fs::write(path.join((1 << 30).to_string()), "").unwrap();
    std::fs::write(path.join(((1 << 30) + POD).to_string()), "torn").unwrap();
    let range = pool.allocate().unwrap();
    assert_eq!(range.first, 1 << 30);
    assert!(pool.allocate().is_err());
    drop(range);
    assert_eq!(files(dir.path()), [((1 << 30) + POD).to_string()]);
}

#[test]
fn a_range_is_found_by_a_cgroup_of_its_pod() {
    let dir = state_dir();
    drop(Pool::new(&ids(1 << 30, 4), dir.path()).unwrap());
    let ranges = dir.path().join("ranges");
    let write = |n: u32, text: &str| {
        std::fs::write(ranges.join(((1 << 30) + n * POD).to_string()), text).unwrap();
    };
    write(
        0,
        "{\"pod\":\"p\",\"cgroups\":[\"no/such/a\",\"no/such/b\"]}\n",
    );
    write(1, "{\"pod\":\"q\",\"cgroups\":[\"no/such/c\"]}\n");
    write(2, "");
    reclaim_of(dir.path(), "no/such/b").unwrap();
    assert_eq!(files(dir.path()), [((1 << 30) + POD).to_string()]);
    reclaim_of(&dir.path().join("none"), "no/such/b").unwrap();
}

#[test]
fn reclaim_frees_what_the_dead_left_and_nothing_else() {
    let dir = state_dir();
    let pool = Pool::new(&ids(1 << 30, 1), dir.path()).unwrap();
    let range = pool.allocate().unwrap();
    let held = files(dir.path());
    assert_eq!(held.len(), 4, "one for each 65536 ids: {held:?}");
    reclaim(dir.path(), &[range.first]).unwrap();
    assert_eq!(files(dir.path()), held);
    drop(range);
    std::fs::write(
        dir.path().join("ranges").join((1 << 30).to_string()),
        "{\"pod\":\"p\",\"cgroups\":[]}\n",
    )
    .unwrap();
    reclaim(dir.path(), &[1 << 30]).unwrap();
    assert_eq!(files(dir.path()), [""; 0]);
    reclaim(dir.path(), &[1 << 30]).unwrap();
    assert_eq!(files(dir.path()), [""; 0]);
}

#[test]
fn reclaim_waits_for_one_who_only_looks() {
    let dir = state_dir();
    drop(Pool::new(&ids(1 << 30, 1), dir.path()).unwrap());
    let path = dir.path().join("ranges").join((1 << 30).to_string());
    let file = std::fs::File::create(&path).unwrap();
    flock(&file, FlockOperation::LockExclusive).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(2 * RECLAIM_PAUSE);
            flock(&file, FlockOperation::Unlock).unwrap();
        });
        reclaim(dir.path(), &[1 << 30]).unwrap();
    });
    assert_eq!(files(dir.path()), [""; 0]);
}

#[test]
fn ranges_of_different_sizes_do_not_overlap() {
    let dir = state_dir();
    let small = Pool::new(&ids(1 << 30, 2), dir.path()).unwrap();
    let large = Ids {
        per_pod: 2 * POD,
        ..ids(1 << 30, 2)
    };
    let large = Pool::new(&large, dir.path()).unwrap();
    let taken = [small.allocate().unwrap(), small.allocate().unwrap()];
    assert!(large.allocate().is_err());
    let [one, two] = taken;
    let first = one.first.min(two.first);
    drop(if one.first == first { one } else { two });
    // The rest of the large one is taken, and what was free of it stays free.
    assert!(large.allocate().is_err());
    assert_eq!(small.allocate().unwrap().first, first);
}

#[test]
fn ids_that_the_engine_has_chosen_are_nobody_elses() {
    let dir = state_dir();
    let two = ids(1 << 30, 2);
    let claim = |first: u32, cgroup: &str| {
        Guest::claim(dir.path(), &two, &IdMap::single(first, 65_536), cgroup)
    };
    // One that the kubelet gives to two containers of a pod, inside the second range.
    let given = (1 << 30) + POD + 65_536;
    let guests = [claim(given, "no/such/a"), claim(given, "no/such/b")];
    let pool = Pool::new(&two, dir.path()).unwrap();
    let range = pool.allocate().unwrap();
    assert_eq!(range.first, 1 << 30);
    assert!(pool.allocate().is_err());
    let refused = claim(range.first + POD - 1, "no/such/c").unwrap_err();
    assert!(refused.to_string().contains("/etc/subuid"), "{refused}");
    // Beside the pool it is no affair of ours.
    assert!(claim(1 << 29, "no/such/c").unwrap().is_none());
    assert!(claim((1 << 30) + 2 * POD, "no/such/c").unwrap().is_none());
    drop(guests);
    assert_eq!(pool.allocate().unwrap().first, (1 << 30) + POD);
    drop(range);
    assert_eq!(files(dir.path()), [""; 0]);
}
