//! JSONata, bounded: the only place that names the engine.
//!
//! An evaluation is synchronous and its result depends on its arguments only. It honours every bound that a thread can
//! honour; what only the end of a process stops (one endless built-in call, memory) is the evaluation process' affair.
//! A number that a double cannot hold is copied as it was written or the evaluation fails; it never changes.

mod code;
mod engine;
mod exact;
mod functions;
mod place;
mod strict;
mod tables;

use std::time::Duration;

use jsonata_core::Expression;
use jsonata_core::evaluator::CancelToken;

use crate::time::Time;

pub use strict::Unresolved;
pub use tables::Tables;

/// The level of the language that the engine speaks, for `hms-ess version`.
pub const JSONATA_LEVEL: &str = "2.2";

/// A script, parsed.
pub struct Script {
    text: Box<str>,
    expression: Expression,
    uses: functions::Uses,
}

/// How much a script may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// Longest evaluation.
    pub time: Duration,
    /// Deepest nesting of calls.
    pub stack_depth: usize,
    /// Longest sequence that a step, a range or a function builds.
    pub sequence_length_max: usize,
    /// Largest script.
    pub script_bytes_max: usize,
    /// Largest input, bindings included.
    pub input_bytes_max: usize,
    /// Largest output.
    pub output_bytes_max: usize,
    /// Most memory that an evaluation process may take beyond what it starts with.
    pub memory_bytes_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            time: Duration::from_millis(50),
            stack_depth: 5_000,
            sequence_length_max: 1_000_000,
            script_bytes_max: 256 << 10,
            input_bytes_max: 8 << 20,
            output_bytes_max: 1 << 20,
            memory_bytes_max: 64 << 20,
        }
    }
}

impl Bounds {
    /// Wide bounds, for a script that a person tries out at a terminal; the longest ranges of the language fit.
    #[must_use]
    pub fn roomy() -> Self {
        Self {
            time: Duration::from_secs(10),
            sequence_length_max: 10_000_000,
            input_bytes_max: 64 << 20,
            output_bytes_max: 64 << 20,
            memory_bytes_max: 1 << 30,
            ..Self::default()
        }
    }
}

/// What `$now()` and `$millis()` say, and whether dice are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// The event's recorded time; `$random()` is refused, so that a replay gives the same bytes.
    Event(Time),
    /// The caller's time; `$random()` works. For trying scripts out.
    Free(Time),
}

impl Clock {
    /// The time that scripts see.
    #[must_use]
    pub fn time(self) -> Time {
        match self {
            Clock::Event(time) | Clock::Free(time) => time,
        }
    }
}

/// Ends evaluations from another thread. An evaluation looks at it often, but not within one built-in call.
#[derive(Debug, Clone, Default)]
pub struct Stop(CancelToken);

impl Stop {
    /// Ends each evaluation that was given this, with [`CODE_STOPPED`]. Cannot be taken back.
    pub fn stop(&self) {
        self.0.cancel();
    }
}

/// What an evaluation has around it: the same for every script of a hub but for the time.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// What it may take.
    pub bounds: &'a Bounds,
    /// Ends it.
    pub stop: &'a Stop,
    /// The time it sees.
    pub clock: Clock,
    /// What it may look up.
    pub tables: &'a Tables,
}

/// How much of a script's line is shown.
const EXCERPT_CHARS: usize = 100;
/// How much of an offending word is told.
const WORD_CHARS: usize = 40;

/// Why a script gave no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ScriptError {
    /// JSONata's code (`T1003`) or one of the `E_…` codes below.
    pub code: String,
    /// What went wrong, without the code.
    pub message: String,
    /// Where in the script: characters before the offending one.
    pub position: Option<u32>,
}

/// The script was stopped: time or depth. JSONata's own code for both.
pub const CODE_STOPPED: &str = "U1001";
/// The script wanted more memory than it may have.
pub const CODE_MEMORY: &str = "E_MEMORY";
/// The script nests too deeply. The engine's own code.
pub const CODE_NESTING: &str = "U1002";
/// The script is too large.
pub const CODE_SCRIPT: &str = "E_SCRIPT";
/// The input is too large or no JSON.
pub const CODE_INPUT: &str = "E_INPUT";
/// The output is too large.
pub const CODE_OUTPUT: &str = "E_OUTPUT";
/// The script would compute with a number that a double cannot hold.
pub const CODE_EXACT: &str = "E_EXACT";
/// The script rolls dice where results must repeat.
pub const CODE_RANDOM: &str = "E_RANDOM";
/// A JSON Schema that is none, or a payload that none can check.
pub const CODE_SCHEMA: &str = "E_SCHEMA";
/// A lookup table that is not there.
pub const CODE_TABLE: &str = "E_TABLE";
/// A time or a time zone is none.
pub const CODE_ZONE: &str = "E_ZONE";
/// The engine or its process failed.
pub const CODE_ENGINE: &str = "E_ENGINE";

impl ScriptError {
    /// An error that lies at no particular place of the script.
    #[must_use]
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), position: None }
    }

    /// The refusal of a script that is larger than it may be.
    #[must_use]
    pub fn too_large(bounds: &Bounds) -> Self {
        Self::new(CODE_SCRIPT, format!("the script is larger than {} bytes", bounds.script_bytes_max))
    }

    /// The end of a script that takes longer than it may.
    #[must_use]
    pub fn too_slow(bounds: &Bounds) -> Self {
        Self::new(CODE_STOPPED, format!("the script takes longer than {} ms", bounds.time.as_millis()))
    }

    /// Line and column, both from 1, and the offending text, for a script with this text.
    #[must_use]
    pub fn place(&self, script: &str) -> Option<Place> {
        self.position.map(|position| place::at(script, position))
    }

    /// One line: code, message and place.
    #[must_use]
    pub fn told(&self, script: &str) -> String {
        match self.place(script) {
            Some(place) if place.text.is_empty() => format!("{self} (line {}, column {})", place.line, place.column),
            Some(place) => {
                let word: String = place.text.chars().take(WORD_CHARS).collect();
                format!("{self} (line {}, column {}, at `{word}`)", place.line, place.column)
            }
            None => self.to_string(),
        }
    }

    /// Code, message and place, with the line itself and a mark under the offending word.
    #[must_use]
    pub fn shown(&self, script: &str) -> String {
        let Some(place) = self.place(script) else { return self.to_string() };
        let before = (place.column as usize).saturating_sub(1);
        // A long line is cut so that the word can be seen.
        let cut = before.saturating_sub(EXCERPT_CHARS / 2);
        let line: String = place.line_text.chars().skip(cut).take(EXCERPT_CHARS).collect();
        let number = place.line.to_string();
        let mark = "^".repeat(place.text.chars().count().clamp(1, EXCERPT_CHARS));
        format!(
            "{}\n{number} | {line}\n{:width$} | {}{mark}",
            self.told(script),
            "",
            " ".repeat(before - cut),
            width = number.len()
        )
    }
}

/// A place in a script, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// The word or symbol that stands there; empty at the script's end.
    pub text: String,
    /// The whole line.
    pub line_text: String,
}

impl Script {
    /// Parses a script of any origin; its size and nesting are bounded.
    ///
    /// # Errors
    /// The parser's code with the place, or [`CODE_SCRIPT`].
    pub fn parse(text: &str, bounds: &Bounds) -> Result<Self, ScriptError> {
        if text.len() > bounds.script_bytes_max {
            return Err(ScriptError::too_large(bounds));
        }
        let expression = Expression::compile(text).map_err(|error| place::locate(text, code::of_parser(&error)))?;
        Ok(Self { text: text.into(), uses: functions::Uses::of(text), expression })
    }

    /// The script's text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Evaluates the script on a JSON text, or on nothing. `None` is JSONata's undefined.
    ///
    /// Time is bounded by the one who holds `stop`, which can tell a slow script from a busy machine; depth, lengths
    /// and sizes are bounded here.
    ///
    /// # Errors
    /// JSONata's code, or one of the `E_…` codes.
    pub fn evaluate(
        &self,
        input: Option<&str>,
        bindings: &[(&str, &str)],
        around: Surroundings<'_>,
    ) -> Result<Option<String>, ScriptError> {
        let result = engine::evaluate(self, input, bindings, around);
        result.map_err(|error| place::locate_run(&self.text, error))
    }

    /// The paths of the script that gave nothing on this input, as [`Script::evaluate`] runs it: as a rule a misspelt name.
    ///
    /// # Errors
    /// The script fails on the input.
    pub fn unresolved(
        &self,
        input: Option<&str>,
        bindings: &[(&str, &str)],
        around: Surroundings<'_>,
    ) -> Result<Vec<Unresolved>, ScriptError> {
        let result = engine::follow(self, input, bindings, around);
        result.map_err(|error| place::locate_run(&self.text, error))
    }
}

#[cfg(test)]
mod tests;
