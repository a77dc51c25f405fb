//! Why a command did not do what it was asked: one shape, from the first usage error to the hub's own problem.
//!
//! A failure never carries a secret: its texts are printed as they are.

use std::fmt;
use std::io;

use serde_json::{Value, json};

/// What every fallible step of a command answers.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// Why a command ends other than well.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What is wrong, lower case, no stop.
    pub(crate) detail: String,
    /// What to do about it.
    pub(crate) hint: Option<String>,
    /// What kind; decides the exit code.
    pub(crate) kind: Kind,
    /// The hub's own words, when it was the hub that refused.
    pub(crate) problem: Option<Box<Value>>,
}

/// Kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The command was understood and could not be done: exit 1.
    Refused,
    /// The command was not understood: exit 2.
    Usage,
    /// All was said already (a table, an error of its own shape): exit 1, nothing more to print.
    Told,
    /// Nobody reads any more: exit 0, as a reader such as `head` expects.
    PipeClosed,
}

impl Failure {
    /// A command that could not be done.
    pub(crate) fn refused(detail: impl Into<String>) -> Self {
        Self::of(Kind::Refused, detail)
    }

    /// A command that was not understood.
    pub(crate) fn usage(detail: impl Into<String>) -> Self {
        Self::of(Kind::Usage, detail)
    }

    /// Exit 1 after everything was said.
    pub(crate) fn told() -> Self {
        Self::of(Kind::Told, "")
    }

    /// A failed read or write, with what was tried.
    pub(crate) fn io(tried: impl fmt::Display, error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::of(Kind::PipeClosed, "");
        }
        Self::refused(format!("{tried}: {}", plain(error)))
    }

    /// Says what to do about it.
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What to do about it; nobody is left without a word.
    pub(crate) fn hint(&self) -> String {
        let code = self.problem.as_ref().and_then(|problem| problem["code"].as_str());
        match (&self.hint, code, self.kind) {
            (Some(hint), _, _) => hint.clone(),
            (None, Some(code), _) => format!("docs/errors/{code}.md says what it means and what to do"),
            (None, None, Kind::Usage) => "add --help to the command to see how it is written".to_owned(),
            (None, None, _) => "`hms-ess doctor` looks for what may be wrong".to_owned(),
        }
    }

    /// The failure as `--json` prints it on stderr.
    pub(crate) fn to_json(&self) -> Value {
        if let Some(problem) = &self.problem {
            let mut problem = Value::clone(problem);
            if let Some(fields) = problem.as_object_mut() {
                fields.insert("hint".to_owned(), self.hint().into());
            }
            return problem;
        }
        let code = if self.kind == Kind::Usage { "usage" } else { "failed" };
        json!({"code": code, "detail": self.detail, "hint": self.hint()})
    }

    fn of(kind: Kind, detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), hint: None, kind, problem: None }
    }
}

/// An I/O error in words, without the `(os error 2)` that helps nobody.
pub(crate) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}
