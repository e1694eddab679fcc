//! Marks of inner overlays, written down: whiteouts and opaque directories, which are no files to the engine that commits
//! the layer. The file is one, so an image may bring anything in it: what is read is checked whole before any of it counts.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Its name in a data root.
pub(super) const FILE: &str = ".sysbox-overlay-marks";
/// Longest file.
pub(super) const MAX_BYTES: u64 = 64 << 20;
/// Most marks in it.
pub(super) const MAX_MARKS: usize = 1 << 20;

const HEADER: &[u8] = b"sysbox-overlay-marks 1";
/// limits.h, without the NUL.
const PATH_MAX: usize = 4095;
const NAME_MAX: usize = 255;

/// A directory with marks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Directory {
    /// Relative to the data root, which is `.`.
    pub(super) path: PathBuf,
    /// Value of its opaque attribute.
    pub(super) opaque: Option<u8>,
    /// Names of whiteouts in it.
    pub(super) whiteouts: Vec<OsString>,
}

/// One record: NUL-terminated, its first byte the kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark<'a> {
    /// Those that follow are of this directory.
    Directory(&'a Path),
    /// It is opaque.
    Opaque(u8),
    /// There is a whiteout in it.
    Whiteout(&'a OsStr),
}

/// The content of the file.
pub(super) fn written(directories: &[Directory]) -> Vec<u8> {
    let mut text = [HEADER, b"\0"].concat();
    let mut record = |kind: u8, value: &[u8]| {
        text.push(kind);
        text.extend(value);
        text.push(0);
    };
    for directory in directories {
        record(b'd', directory.path.as_os_str().as_bytes());
        if let Some(opaque) = directory.opaque {
            record(b'o', &[opaque]);
        }
        for whiteout in &directory.whiteouts {
            record(b'w', whiteout.as_bytes());
        }
    }
    text
}

/// The marks in a file with this content, in their order; `None` if anything in it is wrong.
pub(super) fn read(text: &[u8]) -> Option<impl Iterator<Item = Mark<'_>>> {
    let records = text
        .strip_prefix(HEADER)?
        .strip_prefix(b"\0")?
        .split_inclusive(|byte| *byte == 0)
        .map(mark);
    let first = matches!(records.clone().next(), Some(Some(Mark::Directory(_))));
    let valid =
        text.len() as u64 <= MAX_BYTES && first && records.clone().all(|mark| mark.is_some());
    (valid && records.clone().count() <= MAX_MARKS).then(|| records.flatten())
}

fn mark(record: &[u8]) -> Option<Mark<'_>> {
    match record.strip_suffix(b"\0")?.split_first()? {
        (b'd', path) => is_path(path).then(|| Mark::Directory(Path::new(OsStr::from_bytes(path)))),
        (b'o', [value @ (b'y' | b'x')]) => Some(Mark::Opaque(*value)),
        (b'w', name) => is_name(name).then(|| Mark::Whiteout(OsStr::from_bytes(name))),
        _ => None,
    }
}

fn is_path(path: &[u8]) -> bool {
    path == b"." || path.len() <= PATH_MAX && path.split(|byte| *byte == b'/').all(is_name)
}

fn is_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && name.len() <= NAME_MAX && !name.contains(&b'/')
}

#[cfg(test)]
mod tests {
    use std::path::Component;

    use super::*;

    fn directory(path: &str, opaque: Option<u8>, whiteouts: &[&str]) -> Directory {
        Directory {
            path: path.into(),
            opaque,
            whiteouts: whiteouts.iter().map(OsString::from).collect(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let text = written(&[
            directory("overlay2/a/diff/etc", None, &["passwd", "new\nline"]),
            directory(".", Some(b'y'), &[]),
        ]);
        let marks: Vec<_> = read(&text).unwrap().collect();
        assert_eq!(
            marks,
            [
                Mark::Directory(Path::new("overlay2/a/diff/etc")),
                Mark::Whiteout(OsStr::new("passwd")),
                Mark::Whiteout(OsStr::new("new\nline")),
                Mark::Directory(Path::new(".")),
                Mark::Opaque(b'y'),
            ]
        );
    }

    #[test]
    fn a_wrong_record_spoils_the_file() {
        let with = |records: &str| [HEADER, b"\0", records.as_bytes()].concat();
        assert!(read(&with("da\0wb\0")).is_some());
        let long = format!("d{}\0", "a/".repeat(2048) + "a");
        let name = format!("da\0w{}\0", "n".repeat(256));
        let many = "da\0".repeat(MAX_MARKS + 1);
        for wrong in [
            "",
            "wb\0",
            "oy\0da\0",
            "da\0wb",
            "da\0\0",
            "da\0wb/c\0",
            "da\0w..\0",
            "da\0w\0",
            "da\0oz\0",
            "da\0oyy\0",
            "da\0zb\0",
            "d/a\0",
            "da/../../b\0",
            "da//b\0",
            "da/\0",
            "d./a\0",
            "d\0",
            &long,
            &name,
            &many,
        ] {
            let shown = &wrong[..wrong.len().min(20)];
            assert!(read(&with(wrong)).is_none(), "{shown:?}");
        }
        assert!(read(b"").is_none());
        assert!(read(b"sysbox-overlay-marks 2\0da\0").is_none());
    }

    /// What a reader of the marks relies on, for many files that are nearly right.
    #[test]
    fn what_is_accepted_leads_nowhere_else() {
        let valid = written(&[
            directory(".", None, &["a"]),
            directory("a/b/c", Some(b'y'), &["..a", "b.", "..."]),
            directory("...", Some(b'x'), &[]),
        ]);
        let records = HEADER.len() + 1;
        // xorshift64, always the same.
        let mut random = 88_172_645_463_325_252_u64;
        let mut below = |end: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            usize::try_from(random % u64::try_from(end).unwrap()).unwrap()
        };
        let bytes = b"\0dowyx./a\xff";
        let mut accepted = 0;
        for _ in 0..100_000 {
            let mut text = valid.clone();
            for _ in 0..=below(3) {
                let at = records + below(text.len() - records);
                match below(3) {
                    0 => text[at] = bytes[below(bytes.len())],
                    1 => text.insert(at, bytes[below(bytes.len())]),
                    _ => drop(text.remove(at)),
                }
            }
            let Some(marks) = read(&text) else {
                continue;
            };
            accepted += 1;
            let marks: Vec<_> = marks.collect();
            assert!(matches!(marks[0], Mark::Directory(_)));
            for mark in marks {
                let safe = match mark {
                    Mark::Directory(path) => {
                        path == Path::new(".") || path.components().all(is_normal)
                    }
                    Mark::Opaque(value) => matches!(value, b'x' | b'y'),
                    Mark::Whiteout(name) => {
                        let mut names = Path::new(name).components();
                        names.next().is_some_and(is_normal) && names.next().is_none()
                    }
                };
                assert!(safe, "{mark:?} in {}", text.escape_ascii());
            }
        }
        assert!(accepted > 1000, "{accepted} accepted");
    }

    fn is_normal(component: Component<'_>) -> bool {
        matches!(component, Component::Normal(_))
    }
}
