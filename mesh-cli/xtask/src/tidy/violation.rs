//! What a rule finds, and how it is printed.

use std::fmt;

/// One finding: where, what, why it matters and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) path: String,
    pub(super) line: usize,
    pub(super) severity: Severity,
    pub(super) what: String,
    pub(super) why: &'static str,
    pub(super) todo: &'static str,
}

/// Only an error fails the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Severity {
    Error,
    Note,
}

impl Violation {
    pub(super) fn error(
        path: &str,
        line: usize,
        what: impl Into<String>,
        why: &'static str,
        todo: &'static str,
    ) -> Self {
        Self {
            path: path.to_owned(),
            line,
            severity: Severity::Error,
            what: what.into(),
            why,
            todo,
        }
    }

    pub(super) fn note(
        path: &str,
        line: usize,
        what: impl Into<String>,
        why: &'static str,
        todo: &'static str,
    ) -> Self {
        Self {
            severity: Severity::Note,
            ..Self::error(path, line, what, why, todo)
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            line,
            severity,
            what,
            why,
            todo,
        } = self;
        let note = if *severity == Severity::Note {
            "note: "
        } else {
            ""
        };
        write!(f, "{path}:{line}: {note}{what}; {why}; {todo}")
    }
}
