//! Checks that every string of the spec passes: bounded, and without what the kernel's interfaces cannot carry.

use std::path::Path;

use crate::error::{Error, Result};

/// Longest path the kernel takes, without the closing NUL (PATH_MAX, limits.h).
pub(super) const PATH_MAX: usize = 4095;

/// Longest single argument or environment string, without the closing NUL (MAX_ARG_STRLEN, execve(2)).
pub(super) const ARG_MAX: usize = 131_071;

/// A string of at most `max` bytes without NUL.
pub(super) fn plain(field: &str, value: &str, max: usize) -> Result<()> {
    if value.contains('\0') {
        let shown = value.replace('\0', "\\0");
        return Err(Error::invalid(field, shown, "remove the NUL byte"));
    }
    if value.len() > max {
        return Err(Error::invalid(
            field,
            value,
            format!("shorten it to at most {max} bytes"),
        ));
    }
    Ok(())
}

/// [`plain`], and without control characters: what becomes a line of a kernel file or of a log.
pub(super) fn line(field: &str, value: &str, max: usize) -> Result<()> {
    plain(field, value, max)?;
    if value.contains(|c: char| c.is_control()) {
        return Err(Error::invalid(
            field,
            value.escape_debug(),
            "remove the control characters (line breaks too)",
        ));
    }
    Ok(())
}

/// A path of the spec as UTF-8, without NUL, not too long.
pub(super) fn path<'a>(field: &str, value: &'a Path) -> Result<&'a str> {
    let text = value
        .to_str()
        .ok_or_else(|| Error::invalid(field, value.display(), "spell the path in UTF-8"))?;
    plain(field, text, PATH_MAX)?;
    Ok(text)
}

/// An absolute path without `..`, with repeated slashes and `.` removed.
///
/// `..` is refused, not resolved: on a path with symbolic links its lexical meaning is not the kernel's.
pub(super) fn absolute(field: &str, value: &Path) -> Result<String> {
    let text = path(field, value)?;
    if !text.starts_with('/') {
        let remedy = "give an absolute path, one that starts with /";
        return Err(Error::invalid(field, text, remedy));
    }
    clean(text).ok_or_else(|| Error::invalid(field, text, "write the path without `..`"))
}

/// An absolute path made of `value`, relative ones taken from `base`; `..` allowed in neither.
pub(super) fn absolute_from(field: &str, value: &Path, base: &Path) -> Result<String> {
    path(field, value)?;
    absolute(field, &base.join(value))
}

/// The path with one slash before each component, or `None` if one is `..`.
fn clean(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    for component in path.split('/') {
        match component {
            "" | "." => {}
            ".." => return None,
            name => {
                out.push('/');
                out.push_str(name);
            }
        }
    }
    if out.is_empty() {
        out.push('/');
    }
    Some(out)
}

/// Whether `path` is `ancestor` or lies below it. Both cleaned.
pub(super) fn is_at_or_below(path: &str, ancestor: &str) -> bool {
    ancestor == "/"
        || path
            .strip_prefix(ancestor)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A list of at most `max` entries: what the spec may make us allocate is bounded.
pub(super) fn bounded<T>(field: &str, list: &[T], max: usize) -> Result<()> {
    if list.len() > max {
        return Err(Error::invalid(
            field,
            format!("{} entries", list.len()),
            format!("give at most {max} entries"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_and_never_climb() {
        assert_eq!(absolute("f", Path::new("//a/./b/")).unwrap(), "/a/b");
        assert_eq!(absolute("f", Path::new("/")).unwrap(), "/");
        assert!(absolute("f", Path::new("a")).is_err());
        assert!(absolute("f", Path::new("/a/../b")).is_err());
        assert!(absolute("f", Path::new("/a\0")).is_err());
        assert_eq!(
            absolute_from("f", Path::new("rootfs"), Path::new("/b")).unwrap(),
            "/b/rootfs"
        );
    }

    #[test]
    fn below_is_by_component() {
        assert!(is_at_or_below("/var/lib", "/var/lib"));
        assert!(is_at_or_below("/var/lib/docker", "/var/lib"));
        assert!(!is_at_or_below("/var/library", "/var/lib"));
        assert!(is_at_or_below("/x", "/"));
    }
}
