//! Marks of inner overlays, written down: whiteouts and opaque directories, which are no files to the engine that commits
//! the layer. The file is one, so an image may bring anything in it: what is read is checked whole before any of it counts.
//! Neither writing nor reading it holds more than one mark.

use std::ffi::OsStr;
use std::io::{BufRead, Error, ErrorKind, Read, Result, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Its name in a data root.
pub(super) const FILE: &str = ".sysbox-overlay-marks";
/// Longest file.
const MAX_BYTES: u64 = 64 << 20;
/// Most marks in it.
const MAX_MARKS: usize = 1 << 20;

const HEADER: &[u8] = b"sysbox-overlay-marks 1\0";
/// limits.h, without the NUL.
pub(super) const PATH_MAX: usize = 4095;
const NAME_MAX: usize = 255;
/// Kind, path, NUL.
const MAX_RECORD: u64 = PATH_MAX as u64 + 2;

/// One record: NUL-terminated, its first byte the kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark<'a> {
    /// Those that follow are of this directory, relative to the data root, which is `.`.
    Directory(&'a Path),
    /// It is opaque; the value of its attribute.
    Opaque(u8),
    /// There is a whiteout in it.
    Whiteout(&'a OsStr),
}

/// Writes the file.
pub(super) struct Writer<W> {
    out: W,
    bytes: u64,
    marks: usize,
}

impl<W: Write> Writer<W> {
    /// Begins it.
    pub(super) fn new(mut out: W) -> Result<Writer<W>> {
        out.write_all(HEADER)?;
        Ok(Writer {
            out,
            bytes: HEADER.len() as u64,
            marks: 0,
        })
    }

    /// Adds a mark.
    ///
    /// # Errors
    /// `FileTooLarge` where [`is_valid`] would refuse the whole.
    pub(super) fn write(&mut self, mark: Mark<'_>) -> Result<()> {
        let opaque;
        let (kind, value): (u8, &[u8]) = match mark {
            Mark::Directory(path) => (b'd', path.as_os_str().as_bytes()),
            Mark::Opaque(value) => {
                opaque = [value];
                (b'o', &opaque)
            }
            Mark::Whiteout(name) => (b'w', name.as_bytes()),
        };
        self.bytes += value.len() as u64 + 2;
        self.marks += 1;
        if self.bytes > MAX_BYTES || self.marks > MAX_MARKS {
            return Err(ErrorKind::FileTooLarge.into());
        }
        self.out.write_all(&[kind])?;
        self.out.write_all(value)?;
        self.out.write_all(&[0])
    }

    /// What it was written to.
    pub(super) fn into_inner(self) -> W {
        self.out
    }
}

/// Reads the file, mark by mark.
pub(super) struct Reader<R> {
    input: R,
    record: Vec<u8>,
    bytes: u64,
    marks: usize,
}

impl<R: BufRead> Reader<R> {
    /// Reads how it begins.
    ///
    /// # Errors
    /// `InvalidData` where it is no such file, as [`Reader::next`].
    pub(super) fn new(input: R) -> Result<Reader<R>> {
        let mut reader = Reader {
            input,
            record: Vec::new(),
            bytes: 0,
            marks: 0,
        };
        reader.fill()?;
        (reader.record == HEADER)
            .then_some(reader)
            .ok_or_else(invalid)
    }

    /// The next mark.
    pub(super) fn next(&mut self) -> Result<Option<Mark<'_>>> {
        self.fill()?;
        if self.record.is_empty() {
            return match self.marks {
                0 => Err(invalid()),
                _ => Ok(None),
            };
        }
        self.marks += 1;
        self.bytes += self.record.len() as u64;
        let fits = self.bytes <= MAX_BYTES && self.marks <= MAX_MARKS;
        match mark(&self.record) {
            Some(Mark::Directory(path)) if fits => Ok(Some(Mark::Directory(path))),
            Some(mark) if fits && self.marks > 1 => Ok(Some(mark)),
            _ => Err(invalid()),
        }
    }

    fn fill(&mut self) -> Result<()> {
        self.record.clear();
        let mut input = (&mut self.input).take(MAX_RECORD);
        input.read_until(0, &mut self.record).map(drop)
    }
}

/// Whether all of it is right, as written.
pub(super) fn is_valid(input: impl BufRead) -> Result<bool> {
    let read = || {
        let mut reader = Reader::new(input)?;
        while reader.next()?.is_some() {}
        Ok(())
    };
    match read() {
        Ok(()) => Ok(true),
        Err(error) if Error::kind(&error) == ErrorKind::InvalidData => Ok(false),
        Err(error) => Err(error),
    }
}

fn invalid() -> Error {
    ErrorKind::InvalidData.into()
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

    fn with(records: &str) -> Vec<u8> {
        [HEADER, records.as_bytes()].concat()
    }

    #[test]
    fn what_is_written_is_read() {
        let marks = [
            Mark::Directory(Path::new("overlay2/a/diff/etc")),
            Mark::Whiteout(OsStr::new("passwd")),
            Mark::Whiteout(OsStr::new("new\nline")),
            Mark::Directory(Path::new(".")),
            Mark::Opaque(b'y'),
        ];
        let mut writer = Writer::new(Vec::new()).unwrap();
        for mark in marks {
            writer.write(mark).unwrap();
        }
        let text = writer.into_inner();
        assert!(is_valid(&*text).unwrap());
        let mut reader = Reader::new(&*text).unwrap();
        for mark in marks {
            assert_eq!(reader.next().unwrap(), Some(mark));
        }
        assert_eq!(reader.next().unwrap(), None);
    }

    #[test]
    fn nothing_is_written_that_is_not_read() {
        let mut writer = Writer::new(std::io::sink()).unwrap();
        let deep = "n/".repeat(2000);
        let mark = Mark::Directory(Path::new(&deep));
        let written = (0..).find(|_| writer.write(mark).is_err());
        assert!(written.is_some_and(|marks| marks < 17_000), "{written:?}");
    }

    #[test]
    fn a_wrong_record_spoils_the_file() {
        let accepts = |text: &[u8]| is_valid(text).unwrap();
        assert!(accepts(&with("da\0wb\0")));
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
            assert!(!accepts(&with(wrong)), "{shown:?}");
        }
        assert!(!accepts(b""));
        assert!(!accepts(b"sysbox-overlay-marks 2\0da\0"));
    }

    /// What a reader of the marks relies on, for many files that are nearly right.
    #[test]
    fn what_is_accepted_leads_nowhere_else() {
        let valid = with("d.\0wa\0da/b/c\0oy\0w..a\0wb.\0w...\0d...\0ox\0");
        let records = HEADER.len();
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
            if !is_valid(&*text).unwrap() {
                continue;
            }
            accepted += 1;
            let mut reader = Reader::new(&*text).unwrap();
            let mut first = true;
            while let Some(mark) = reader.next().unwrap() {
                assert!(!first || matches!(mark, Mark::Directory(_)));
                first = false;
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
