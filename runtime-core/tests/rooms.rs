//! The rooms of `runtime-core` stand on floors: each uses those below it only, so there is no circle between them.
#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use std::path::{Path, PathBuf};

/// Lowest first; rooms of one floor do not use each other.
const FLOORS: &[&[&str]] = &[
    &["error"],
    &["sys"],
    &["kernel"],
    &["config", "systemd"],
    &["cgroup", "seccomp"],
    &["plan"],
    &["rootfs"],
    &["stage"],
    &["pod"],
    &["container"],
];

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

fn sources(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            into.push(path);
        }
    }
}

/// The rooms that `text` names: `crate::ROOM`, and the words of `use crate::{…}`.
fn named(text: &str) -> Vec<&str> {
    let word = |text: &str| {
        text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(text.len())
    };
    let mut rooms = Vec::new();
    for (_, rest) in text
        .match_indices("crate::")
        .map(|(at, found)| (at, &text[at + found.len()..]))
    {
        match rest.strip_prefix('{') {
            None => rooms.push(&rest[..word(rest)]),
            Some(list) => rooms.extend(
                list[..list.find(';').unwrap_or(0)]
                    .split(',')
                    .map(|item| item.trim())
                    .map(|item| &item[..word(item)]),
            ),
        }
    }
    rooms
}

#[test]
fn each_room_uses_those_below_it_only() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut wrong = Vec::new();
    let mut checked = 0;
    for file in files {
        let below = file.strip_prefix(&src).unwrap();
        let room = below
            .components()
            .next()
            .unwrap()
            .as_os_str()
            .to_str()
            .unwrap();
        let room = room.trim_end_matches(".rs");
        let Some(own) = floor(room) else {
            assert!(matches!(room, "lib" | "fuzz"), "{room} is on no floor");
            continue;
        };
        let text = std::fs::read_to_string(&file).unwrap();
        for other in named(&text) {
            if let Some(at) = floor(other).filter(|_| other != room) {
                checked += 1;
                if at >= own {
                    wrong.push(format!("{}: {room} uses {other}", below.display()));
                }
            }
        }
    }
    assert!(checked > 100, "only {checked} uses were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
