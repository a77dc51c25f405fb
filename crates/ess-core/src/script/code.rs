//! The engine's errors as codes: it writes them into its messages, mostly at the front.

use jsonata_core::evaluator::EvaluatorError;
use jsonata_core::parser::ParserError;

use super::{CODE_ENGINE, CODE_STOPPED, ScriptError};

/// A parser's error with its code.
pub(super) fn of_parser(error: &ParserError) -> ScriptError {
    match error {
        // The one error of the parser whose message has no code.
        ParserError::UnclosedComment => ScriptError::new("S0106", "comment has no closing tag"),
        ParserError::InvalidNumber(number) => ScriptError::new("S0102", format!("number out of range: {number}")),
        other => split(&other.to_string(), "S0500"),
    }
}

/// An evaluation's error with its code.
pub(super) fn of_evaluator(error: &EvaluatorError) -> ScriptError {
    let mut error = split(error.message(), CODE_ENGINE);
    // JSONata's own time box, which the official suite judges by, has one code for depth, time and being stopped.
    if matches!(error.code.as_str(), "D1011" | "D1012" | "U1003") {
        error.code = CODE_STOPPED.to_owned();
    }
    error
}

/// Splits `Parse error: S0201: text` into code and text; an uncoded message gets the code `otherwise`.
fn split(message: &str, otherwise: &str) -> ScriptError {
    if let Some((code, rest)) = message.split_once(": ").filter(|(code, _)| code.starts_with("E_")) {
        // From one of our own functions.
        return ScriptError::new(code, rest);
    }
    let Some(at) = code_at(message) else {
        return ScriptError::new(otherwise, message);
    };
    let (code, rest) = message[at..].split_at(5);
    let rest = rest.trim_start_matches([':', ' ']);
    ScriptError::new(code, if rest.is_empty() { message } else { rest })
}

/// Where a code such as `T1003` stands: at the front, or behind a prefix such as `Invalid syntax: `.
fn code_at(message: &str) -> Option<usize> {
    let bytes = message.as_bytes();
    let is_code = |at: usize| {
        bytes.get(at..at + 5).is_some_and(|word| {
            matches!(word[0], b'S' | b'T' | b'D' | b'U') && word[1..].iter().all(u8::is_ascii_digit)
        }) && bytes.get(at + 5).is_none_or(|byte| *byte == b':' || *byte == b' ')
    };
    if is_code(0) {
        return Some(0);
    }
    // Only plain words may stand before it: a code inside quoted input is no code.
    message
        .match_indices(": ")
        .take(3)
        .take_while(|(at, _)| {
            message[..*at].bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b' ' || byte == b':')
        })
        .map(|(at, _)| at + 2)
        .find(|at| is_code(*at))
}
