//! Where a standard stream goes, as containerd's clients write it (containerd `pkg/cio`, `docs/runtime-v2.md`).

use std::path::PathBuf;

use crate::error::{Error, Result};

/// A parsed stream URI.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Empty: /dev/null.
    Null,
    /// A path: the client's fifo, or a file to append to.
    Path(PathBuf),
    /// `file://`: a file to make and append to.
    File(PathBuf),
    /// `binary://`, `binary-v2://`: a logging program.
    Binary {
        /// Absolute path of the program.
        path: PathBuf,
        /// Its arguments: the query, key and first value in turn.
        args: Vec<String>,
        /// Whether it must say that it is ready (`binary-v2`), or may just close the pipe.
        must_say_ready: bool,
    },
}

/// Parses a stream URI.
pub(super) fn parse(uri: &str) -> Result<Target> {
    let Some((scheme, rest)) = uri.split_once("://") else {
        return Ok(match uri {
            "" => Target::Null,
            path => Target::Path(path.into()),
        });
    };
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let path = decode(path, false);
    if !path.starts_with('/') {
        return Err(invalid(uri, "the path must be absolute"));
    }
    let path = PathBuf::from(path);
    match scheme {
        "fifo" => Ok(Target::Path(path)),
        "file" => Ok(Target::File(path)),
        "binary" | "binary-v2" => Ok(Target::Binary {
            path,
            args: arguments(query),
            must_say_ready: scheme == "binary-v2",
        }),
        _ => Err(invalid(
            uri,
            "use a fifo's path, file://, binary:// or binary-v2://",
        )),
    }
}

fn invalid(uri: &str, remedy: &str) -> Error {
    Error::InvalidArgument(format!("stdio: {uri}: {remedy}"))
}

/// Keys in the order written, each with its first value, as Go's `url.Values` would give them.
fn arguments(query: &str) -> Vec<String> {
    let mut args: Vec<(String, String)> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let key = decode(key, true);
        if args.iter().all(|(seen, _)| *seen != key) {
            args.push((key, decode(value, true)));
        }
    }
    args.into_iter()
        .flat_map(|(key, value)| [key, value])
        .collect()
}

/// Percent-decoding (RFC 3986); `+` is a space in a query. What is no escape stays as it is.
fn decode(text: &str, query: bool) -> String {
    let mut bytes = text.as_bytes().iter();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(&byte) = bytes.next() {
        let escape = bytes
            .as_slice()
            .get(..2)
            .filter(|_| byte == b'%')
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        if let Some(escaped) = escape {
            decoded.push(escaped);
            bytes.nth(1);
        } else if byte == b'+' && query {
            decoded.push(b' ');
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let binary = |path: &str, args: &[&str], must_say_ready| Target::Binary {
            path: path.into(),
            args: args.iter().map(|a| (*a).to_owned()).collect(),
            must_say_ready,
        };
        for (uri, expected) in [
            ("", Target::Null),
            (
                "/run/fifo/a b%20c",
                Target::Path("/run/fifo/a b%20c".into()),
            ),
            ("fifo:///run/x", Target::Path("/run/x".into())),
            ("file:///var/log/a%20b", Target::File("/var/log/a b".into())),
            ("binary:///bin/logger", binary("/bin/logger", &[], false)),
            (
                "binary:///usr/bin/nerdctl?_NERDCTL_INTERNAL_LOGGING=%2Fvar%2Flib%2Fn",
                binary(
                    "/usr/bin/nerdctl",
                    &["_NERDCTL_INTERNAL_LOGGING", "/var/lib/n"],
                    false,
                ),
            ),
            (
                "binary-v2:///bin/l?b=1&a=x+y&b=2&flag&p=100%",
                binary(
                    "/bin/l",
                    &["b", "1", "a", "x y", "flag", "", "p", "100%"],
                    true,
                ),
            ),
        ] {
            assert_eq!(parse(uri).unwrap(), expected, "{uri}");
        }
    }

    #[test]
    fn what_cannot_be_served_is_named() {
        for uri in [
            "ttrpc+unix:///run/x?streaming_id=c1-stdout",
            "binary://nerdctl?x",
            "file://",
            "http://h/x",
        ] {
            let error = parse(uri).unwrap_err();
            assert_eq!(error.code(), ttrpc::Code::INVALID_ARGUMENT);
            assert!(error.to_string().contains(uri), "{error}");
        }
    }
}
