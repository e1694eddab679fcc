//! `/proc/self/mountinfo` (proc_pid_mountinfo(5)), and the overlays in it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::error::{OsContext, Result};

const PATH: &str = "/proc/self/mountinfo";

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// As statx(2) tells it (STATX_MNT_ID).
    pub(crate) id: u64,
    /// The directory of the file system that is mounted.
    pub(crate) root: PathBuf,
    /// Where it is mounted.
    pub(crate) point: PathBuf,
    /// File-system type, with the subtype (`fuse.x`).
    pub(crate) fs_type: String,
    /// Options of the file system, still escaped: commas separate, those of values are escaped.
    options: String,
}

/// All mounts, in the order in which they hide each other.
pub(crate) fn read() -> Result<Vec<Mount>> {
    let text = std::fs::read(PATH).os("read", PATH)?;
    Ok(String::from_utf8_lossy(&text)
        .lines()
        .filter_map(parse)
        .collect())
}

fn parse(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let mut words = before.split(' ');
    let id = words.next()?.parse().ok()?;
    let root = words.nth(2)?;
    let point = words.next()?;
    let mut words = after.split(' ');
    let fs_type = words.next()?.to_string();
    let options = words.nth(1)?.to_string();
    Some(Mount {
        id,
        root: path(root),
        point: path(point),
        fs_type,
        options,
    })
}

impl Mount {
    /// Options of the file system as pairs, values unescaped except those of [`layers`].
    pub(crate) fn options(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.options
            .split(',')
            .map(|option| match option.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (option, None),
            })
    }
}

/// A path as the kernel escapes it.
pub(crate) fn path(text: &str) -> PathBuf {
    let bytes = Unescaped(text.as_bytes()).map(|(byte, _)| byte).collect();
    OsString::from_vec(bytes).into()
}

/// The directories of an overlay's `lowerdir`: separated by colons that are escaped neither by the kernel (`\072`)
/// nor by whoever mounted it (a backslash, which the kernel shows as `\134`). An empty one announces layers of data only
/// (`::`).
pub(crate) fn layers(text: &str) -> Vec<PathBuf> {
    let mut dirs = vec![Vec::new()];
    let mut bytes = Unescaped(text.as_bytes());
    while let Some((byte, escaped)) = bytes.next() {
        let byte = match (byte, escaped) {
            (b':', false) => {
                dirs.push(Vec::new());
                continue;
            }
            (b'\\', _) => match bytes.next() {
                Some((byte, _)) => byte,
                None => continue,
            },
            (byte, _) => byte,
        };
        if let Some(dir) = dirs.last_mut() {
            dir.push(byte);
        }
    }
    dirs.into_iter()
        .map(|dir| OsString::from_vec(dir).into())
        .collect()
}

/// Bytes of a text with `\ooo`, and whether each was written so.
struct Unescaped<'a>(&'a [u8]);

impl Iterator for Unescaped<'_> {
    type Item = (u8, bool);

    fn next(&mut self) -> Option<(u8, bool)> {
        if let [b'\\', digits @ ..] = self.0
            && let Some((octal, rest)) = digits.split_at_checked(3)
            && let Ok(octal) = std::str::from_utf8(octal)
            && let Ok(byte) = u8::from_str_radix(octal, 8)
        {
            self.0 = rest;
            return Some((byte, true));
        }
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some((*first, false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_fields() {
        let line = "711 32 0:77 / /srv/a\\040b rw,relatime shared:4 master:1 - overlay overlay \
                    rw,lowerdir=l/A:l/B,upperdir=/s/a\\054b,workdir=/s/w,index=off";
        let mount = parse(line).unwrap();
        assert_eq!(mount.id, 711);
        assert_eq!(mount.root, PathBuf::from("/"));
        assert_eq!(mount.point, PathBuf::from("/srv/a b"));
        assert_eq!(mount.fs_type, "overlay");
        let options: Vec<_> = mount.options().collect();
        assert_eq!(
            options,
            [
                ("rw", None),
                ("lowerdir", Some("l/A:l/B")),
                ("upperdir", Some("/s/a\\054b")),
                ("workdir", Some("/s/w")),
                ("index", Some("off")),
            ]
        );
        assert_eq!(path("/s/a\\054b"), PathBuf::from("/s/a,b"));
        assert_eq!(parse("711 32"), None);
    }

    #[test]
    fn colons_in_layers_are_told_from_separators() {
        let dirs = |text| {
            layers(text)
                .into_iter()
                .map(|dir| dir.to_string_lossy().into_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(dirs("/a:l/B:/c"), ["/a", "l/B", "/c"]);
        assert_eq!(dirs("/a\\072b:/c"), ["/a:b", "/c"], "escaped by the kernel");
        assert_eq!(
            dirs("/a\\134:b:/c"),
            ["/a:b", "/c"],
            "escaped by the mounter"
        );
        assert_eq!(dirs("/a\\134\\134b"), ["/a\\b"]);
        assert_eq!(dirs("/a\\040b"), ["/a b"]);
    }
}
