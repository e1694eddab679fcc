//! What a person who calls this program by hand is told.

use runtime_core::DEFAULT_PATH;

use crate::info::RUNTIME_NAME;

/// Commands, those that containerd calls included.
const COMMANDS: &[&str] = &["check", "start", "delete", "help"];

/// The name and the version.
pub(crate) const VERSION: &str = concat!(
    "containerd-shim-sysbox-v2:\n  Version: ",
    env!("CARGO_PKG_VERSION"),
    "\n"
);

/// What the program is, its commands, and where it is configured.
pub(crate) fn text() -> String {
    format!(
        "\
containerd-shim-sysbox-v2 {version}: containerd's runtime for system containers, in which systemd, Docker and
Kubernetes run as on a machine of their own, and whose root is nobody on this host.

containerd starts this program by itself where a client names the runtime:
  ctr run --runtime {RUNTIME_NAME} IMAGE NAME
  docker run --runtime {RUNTIME_NAME} IMAGE
  nerdctl run --runtime {RUNTIME_NAME} IMAGE
In Kubernetes a RuntimeClass names its handler; deploy/install.sh sets that up.

Commands:
  [-config FILE] check [--json]
                  what this host has, what each lack costs, the remedy; exits with 1 where containers cannot run
  help, --help    this text
  -v, --version   the version
Commands of containerd's, in the directory of a bundle:
  start           finds or makes the shim of the pod and prints its address
  delete          cleans up after a shim that is gone and prints its last exit status
  -info           prints what the runtime supports, as protobuf

Configuration: {DEFAULT_PATH}; it may be absent. The file that comes with the program documents each key.
",
        version = env!("CARGO_PKG_VERSION")
    )
}

/// What is wrong with a command that does not exist.
pub(crate) fn no_such(command: Option<&str>) -> String {
    let Some(command) = command else {
        return "no command; --help lists them".into();
    };
    match nearest(command) {
        Some(meant) => {
            format!("{command}: no such command; did you mean {meant}? --help lists all")
        }
        None => format!("{command}: no such command; --help lists them"),
    }
}

/// The command that a word with a slip or two means.
fn nearest(word: &str) -> Option<&'static str> {
    COMMANDS
        .iter()
        .map(|command| (distance(word, command), *command))
        .min()
        .filter(|(slips, command)| *slips <= 2 && *slips <= command.len() / 2)
        .map(|(_, command)| command)
}

/// How many letters must be put in, left out or changed to make one word of the other (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in other.chars().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_understood_and_other_words_are_not() {
        for (word, meant) in [
            ("chek", Some("check")),
            ("chekc", Some("check")),
            ("Check", Some("check")),
            ("strat", Some("start")),
            ("delet", Some("delete")),
            ("remove", None),
            ("hlp", Some("help")),
            ("run", None),
            ("", None),
            ("checkpoint", None),
        ] {
            assert_eq!(nearest(word), meant, "{word}");
        }
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "ab"), 2);
    }

    #[test]
    fn each_command_is_explained() {
        for command in COMMANDS {
            assert!(
                text().contains(&format!("  {command}"))
                    || text().contains(&format!("] {command}"))
            );
        }
    }
}
