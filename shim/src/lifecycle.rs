//! The states of a process and the verbs each allows (containerd's `process/init_state.go`, `exec_state.go`). Pure.

use crate::error::Error;

/// State of a container's first process or of an exec'd one; the latter is never paused itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Made; the user's program has not been started.
    Created,
    /// The user's program runs.
    Running,
    /// Frozen.
    Paused,
    /// Exited, or never started because it failed to.
    Stopped,
    /// Deleted.
    Deleted,
}

/// What can be asked of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Start the user's program.
    Start,
    /// Register an exec'd process.
    Exec,
    /// Freeze.
    Pause,
    /// Thaw.
    Resume,
    /// Change limits.
    Update,
    /// Resize the terminal.
    Resize,
    /// Forget.
    Delete,
}

impl State {
    /// Whether `verb` may be done in this state; the refusal reads like containerd's own.
    pub(crate) fn check(self, verb: Verb) -> Result<(), Error> {
        use State::{Created, Deleted, Paused, Running, Stopped};
        let allowed = match verb {
            Verb::Start => matches!(self, Created),
            Verb::Exec => matches!(self, Created | Running),
            Verb::Pause => matches!(self, Running),
            Verb::Resume => matches!(self, Paused),
            Verb::Update => matches!(self, Created | Running | Paused),
            Verb::Resize => matches!(self, Created | Running | Paused),
            Verb::Delete => matches!(self, Created | Stopped),
        };
        match (allowed, self) {
            (true, _) => Ok(()),
            (false, Deleted) => Err(Error::NotFound("process already deleted".into())),
            (false, _) => Err(Error::Refused(format!(
                "cannot {} a {} process",
                verb.name(),
                self.name()
            ))),
        }
    }

    /// The state's name as containerd spells it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            State::Created => "created",
            State::Running => "running",
            State::Paused => "paused",
            State::Stopped => "stopped",
            State::Deleted => "deleted",
        }
    }
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Verb::Start => "start",
            Verb::Exec => "exec in",
            Verb::Pause => "pause",
            Verb::Resume => "resume",
            Verb::Update => "update",
            Verb::Resize => "resize",
            Verb::Delete => "delete",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_allows_exactly_its_verbs() {
        use State::{Created, Deleted, Paused, Running, Stopped};
        use Verb::{Delete, Exec, Pause, Resize, Resume, Start, Update};
        let verbs = [Start, Exec, Pause, Resume, Update, Resize, Delete];
        for (state, allowed) in [
            (Created, &[Start, Exec, Update, Resize, Delete][..]),
            (Running, &[Exec, Pause, Update, Resize]),
            (Paused, &[Resume, Update, Resize]),
            (Stopped, &[Delete]),
            (Deleted, &[]),
        ] {
            for verb in verbs {
                let result = state.check(verb);
                assert_eq!(
                    result.is_ok(),
                    allowed.contains(&verb),
                    "{state:?} {verb:?}"
                );
                if let Err(error) = result {
                    let not_found = matches!(error, Error::NotFound(_));
                    assert_eq!(not_found, state == Deleted, "{state:?} {verb:?}");
                }
            }
        }
    }

    #[test]
    fn refusals_read_like_containerds() {
        for (state, verb, text) in [
            (
                State::Running,
                Verb::Delete,
                "cannot delete a running process",
            ),
            (
                State::Running,
                Verb::Start,
                "cannot start a running process",
            ),
            (State::Paused, Verb::Exec, "cannot exec in a paused process"),
        ] {
            assert_eq!(state.check(verb).unwrap_err().to_string(), text);
        }
    }
}
