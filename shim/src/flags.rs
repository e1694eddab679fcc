//! The command line, in the syntax of Go's `flag` package, which containerd writes (containerd `docs/runtime-v2.md`):
//! `-x v`, `-x=v`, `--x v`; booleans take a value only after `=`.

use std::path::PathBuf;

/// What the command line said.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags {
    /// `-namespace`: containerd namespace.
    pub(crate) namespace: String,
    /// `-id`: container id.
    pub(crate) id: String,
    /// `-address`: containerd's gRPC socket.
    pub(crate) address: String,
    /// `-bundle`: bundle of `delete`; the working directory otherwise.
    pub(crate) bundle: Option<PathBuf>,
    /// `-config`: configuration file; ours, from `start` to the server.
    pub(crate) config: Option<PathBuf>,
    /// `-socket`: path of the socket that the server was handed; ours, from `start` to the server.
    pub(crate) socket: Option<PathBuf>,
    /// `-debug`: log more.
    pub(crate) debug: bool,
    /// `-info`: print runtime information.
    pub(crate) info: bool,
    /// `-v`, `-version`: print the version.
    pub(crate) version: bool,
    /// `-h`, `-help`, `help`, `check --help`, or nothing at all, as only a person says it: print what this program is.
    pub(crate) help: bool,
    /// The first word that is no flag (`start`), and what follows it.
    pub(crate) command: Option<String>,
    /// Words after the command.
    pub(crate) rest: Vec<String>,
}

/// What is wrong with a command line.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum FlagError {
    /// A flag at the end of the line lacks its value.
    #[error("flag needs an argument: -{0}")]
    NoValue(String),
    /// A boolean flag with something else than true or false.
    #[error("invalid boolean value {1:?} for -{0}")]
    NotBool(String, String),
}

/// Words that end the flags; an unknown flag never takes one for its value.
const COMMANDS: &[&str] = &["start", "delete", "serve", "check"];

impl Flags {
    /// Parses the words after the program's name. Unknown flags are skipped, with their value, because later
    /// releases of containerd may add some.
    pub(crate) fn parse(words: impl IntoIterator<Item = String>) -> Result<Flags, FlagError> {
        let mut flags = Flags::default();
        let mut words = words.into_iter().peekable();
        flags.help = words.peek().is_none();
        while let Some(word) = words.next() {
            let Some(flag) = word.strip_prefix('-').filter(|f| !f.is_empty()) else {
                flags.command = Some(word);
                break;
            };
            if flag == "-" {
                flags.command = words.next();
                break;
            }
            let flag = flag.strip_prefix('-').unwrap_or(flag);
            let (name, mut value) = match flag.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (flag.to_owned(), None),
            };
            if let Some(slot) = flags.boolean(&name) {
                *slot = match value.as_deref() {
                    None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => true,
                    Some("0" | "f" | "F" | "false" | "FALSE" | "False") => false,
                    Some(other) => return Err(FlagError::NotBool(name, other.to_owned())),
                };
                continue;
            }
            let known = flags.takes_value(&name);
            if value.is_none() {
                value = words.next_if(|next| {
                    known || !(next.starts_with('-') || COMMANDS.contains(&next.as_str()))
                });
            }
            match value {
                Some(value) => flags.set(&name, value),
                None if known => return Err(FlagError::NoValue(name)),
                None => {}
            }
        }
        flags.rest = words.collect();
        let asks = |word: &String| matches!(word.as_str(), "-h" | "-help" | "--help");
        match flags.command.as_deref() {
            Some("help") => flags.help = true,
            Some("check") => flags.help |= flags.rest.iter().any(asks),
            _ => {}
        }
        Ok(flags)
    }

    fn boolean(&mut self, name: &str) -> Option<&mut bool> {
        match name {
            "debug" => Some(&mut self.debug),
            "info" => Some(&mut self.info),
            "v" | "version" => Some(&mut self.version),
            "h" | "help" => Some(&mut self.help),
            _ => None,
        }
    }

    fn takes_value(&self, name: &str) -> bool {
        matches!(
            name,
            "namespace"
                | "id"
                | "address"
                | "bundle"
                | "config"
                | "socket"
                | "debug-socket"
                | "publish-binary"
        )
    }

    fn set(&mut self, name: &str, value: String) {
        match name {
            "namespace" => self.namespace = value,
            "id" => self.id = value,
            "address" => self.address = value,
            "bundle" => self.bundle = Some(value.into()),
            "config" => self.config = Some(value.into()),
            "socket" => self.socket = Some(value.into()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Flags, FlagError> {
        Flags::parse(line.split_ascii_whitespace().map(String::from))
    }

    #[test]
    fn containerd_start_line() {
        let flags = parse(
            "-namespace k8s.io -address /run/containerd/containerd.sock \
             -publish-binary /usr/bin/containerd -id c1 -debug start",
        )
        .unwrap();
        assert_eq!(flags.namespace, "k8s.io");
        assert_eq!(flags.address, "/run/containerd/containerd.sock");
        assert_eq!(flags.id, "c1");
        assert!(flags.debug);
        assert_eq!(flags.command.as_deref(), Some("start"));
        assert!(flags.rest.is_empty());
    }

    #[test]
    fn every_spelling_of_a_flag() {
        for line in ["-id c1 x", "--id c1 x", "-id=c1 x", "--id=c1 x"] {
            let flags = parse(line).unwrap();
            assert_eq!(
                (flags.id.as_str(), flags.command.as_deref()),
                ("c1", Some("x")),
                "{line}"
            );
        }
        for (line, expected) in [
            ("-debug x", true),
            ("--debug=true x", true),
            ("-debug=1 x", true),
            ("-debug=false x", false),
            ("-debug=0 x", false),
        ] {
            assert_eq!(parse(line).unwrap().debug, expected, "{line}");
        }
        assert!(parse("-v").unwrap().version);
        assert!(parse("-version").unwrap().version);
        assert!(parse("-info").unwrap().info);
    }

    #[test]
    fn values_may_look_like_commands_and_flags() {
        assert_eq!(parse("-id start start").unwrap().id, "start");
        assert_eq!(parse("-id -x start").unwrap().id, "-x");
        assert_eq!(parse("-address= start").unwrap().address, "");
    }

    #[test]
    fn words_after_the_command_are_its_own() {
        let flags = parse("check --json -id x").unwrap();
        assert_eq!(flags.command.as_deref(), Some("check"));
        assert_eq!(flags.rest, ["--json", "-id", "x"]);
        assert_eq!(flags.id, "");
        let flags = parse("-id c -- -odd").unwrap();
        assert_eq!(flags.command.as_deref(), Some("-odd"));
    }

    #[test]
    fn unknown_flags_are_skipped_with_their_value() {
        for line in [
            "-new v -id c start",
            "-new=v -id c start",
            "-id c -new start",
            "-new -id c start",
        ] {
            let flags = parse(line).unwrap();
            assert_eq!(
                (flags.id.as_str(), flags.command.as_deref()),
                ("c", Some("start")),
                "{line}"
            );
        }
    }

    #[test]
    fn who_asks_for_help_is_a_person() {
        for line in [
            "",
            "-h",
            "-help",
            "--help",
            "help",
            "help check",
            "check --help",
            "check -h",
            "--help check",
        ] {
            assert!(parse(line).unwrap().help, "{line}");
        }
        for line in [
            "-id -h start",
            "-id help delete",
            "-new help start",
            "start -h",
        ] {
            assert!(!parse(line).unwrap().help, "{line}");
        }
    }

    #[test]
    fn errors_name_the_flag() {
        assert_eq!(parse("-id"), Err(FlagError::NoValue("id".into())));
        assert_eq!(
            parse("-debug=maybe"),
            Err(FlagError::NotBool("debug".into(), "maybe".into()))
        );
    }
}
