//! Where in a script an error lies. The engine does not say, so it is found out: a parser's error by parsing shorter
//! texts, an evaluation's by the function or operator that its message names.

use jsonata_core::parser;

use super::{Place, ScriptError, code};

/// Longest script whose errors are looked for.
const LOCATED_BYTES_MAX: usize = 64 << 10;

/// Line, column and word at a character offset.
pub(super) fn at(script: &str, position: u32) -> Place {
    let byte = script.char_indices().nth(position as usize).map_or(script.len(), |(byte, _)| byte);
    let before = &script[..byte];
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    let word = words(script).into_iter().find(|word| word.start == byte);
    Place {
        line: u32::try_from(before.matches('\n').count() + 1).unwrap_or(u32::MAX),
        column: u32::try_from(before[start..].chars().count() + 1).unwrap_or(u32::MAX),
        text: word.map_or("", |word| word.text).to_owned(),
        line_text: script[start..].lines().next().unwrap_or("").to_owned(),
    }
}

fn at_byte(text: &str, byte: usize, error: ScriptError) -> ScriptError {
    ScriptError { position: u32::try_from(text[..byte].chars().count()).ok(), ..error }
}

/// Where a path of these names stands for the `nth` time, counted from 0; `is_whole` when nothing but the names belongs to it.
pub(super) fn of_path(text: &str, names: &[String], is_whole: bool, nth: usize) -> Option<u32> {
    if text.len() > LOCATED_BYTES_MAX || names.is_empty() {
        return None;
    }
    let words = words(text);
    let wanted: Vec<&str> = names.iter().flat_map(|name| [".", name.as_str()]).skip(1).collect();
    let stands_at = |at: &usize| {
        let begins = *at == 0 || words[*at - 1].text != ".";
        let fits =
            words[*at..].iter().zip(&wanted).filter(|(word, wanted)| word.text == **wanted).count() == wanted.len();
        let next = words.get(*at + wanted.len()).map(|word| word.text);
        begins && fits && !(is_whole && matches!(next, Some("." | "(" | ":=")))
    };
    let found = (0..words.len()).filter(stands_at).nth(nth)?;
    u32::try_from(text[..words[found].start].chars().count()).ok()
}

/// Adds the place to a parser's error.
pub(super) fn locate(text: &str, error: ScriptError) -> ScriptError {
    if text.len() > LOCATED_BYTES_MAX {
        return error;
    }
    let words = words(text);
    match error.code.as_str() {
        // Something was open at the end of the text.
        "S0203" | "S0207" => {
            let end = words.last().map_or(0, |word| word.start + word.text.len());
            return at_byte(text, end, error);
        }
        "S0101" | "S0105" | "S0106" => {
            let start = words.last().map_or(0, |word| word.start);
            return at_byte(text, start, error);
        }
        _ => {}
    }
    // The parser stops at the first word that does not fit: what ends before it does not show this error.
    let shows = |count: usize| {
        let end = words[count - 1].start + words[count - 1].text.len();
        parser::parse(&text[..end]).is_err_and(|shorter| code::of_parser(&shorter).code == error.code)
    };
    let (mut low, mut high) = (0, words.len());
    while low + 1 < high {
        let middle = low + (high - low) / 2;
        if shows(middle) { high = middle } else { low = middle }
    }
    match words.get(high.saturating_sub(1)) {
        Some(word) => at_byte(text, word.start, error),
        None => error,
    }
}

/// Adds the place to an evaluation's error, if the message names a function or operator that the script has once.
pub(super) fn locate_run(text: &str, error: ScriptError) -> ScriptError {
    if error.position.is_some() || text.len() > LOCATED_BYTES_MAX {
        return error;
    }
    let words = words(text);
    let named: Vec<&Word> = candidates(&words, &error).collect();
    let found = match named.as_slice() {
        [word] => Some(word.start),
        // A function's error that names no function: the only call, if there is but one.
        [] if error.code.starts_with("T04") || error.code.starts_with("D3") => {
            let mut calls = words.windows(2).filter(|pair| pair[0].text.starts_with('$') && pair[1].text == "(");
            calls.next().filter(|_| calls.next().is_none()).map(|pair| pair[0].start)
        }
        _ => None,
    };
    match found {
        Some(start) => at_byte(text, start, error),
        None => error,
    }
}

/// The words that a message may mean.
fn candidates<'a>(words: &'a [Word<'a>], error: &'a ScriptError) -> impl Iterator<Item = &'a Word<'a>> {
    let message = error.message.as_str();
    words.iter().enumerate().filter_map(move |(index, word)| {
        let is_call = word.text.starts_with('$') && words.get(index + 1).is_some_and(|next| next.text == "(");
        let is_named = if let Some(name) = word.text.strip_prefix('$') {
            is_call && (names(message, name) || FUNCTIONS_OF_CODES.contains(&(error.code.as_str(), name)))
        } else {
            OPERATORS_OF_CODES.contains(&(error.code.as_str(), word.text)) && names_operator(message, word.text)
        };
        is_named.then_some(word)
    })
}

/// Codes that only one function raises, where the message does not always name it.
const FUNCTIONS_OF_CODES: &[(&str, &str)] = &[
    ("D3030", "number"),
    ("D3060", "sqrt"),
    ("D3061", "power"),
    ("D3100", "formatBase"),
    ("D3110", "toMillis"),
    ("D3120", "eval"),
    ("D3121", "eval"),
    ("D3137", "error"),
    ("D3138", "single"),
    ("D3139", "single"),
    ("D3141", "assert"),
    ("D3050", "reduce"),
    ("D3001", "string"),
    ("E_RANDOM", "random"),
];

/// Codes that operators raise.
const OPERATORS_OF_CODES: &[(&str, &str)] = &[
    ("T2001", "+"),
    ("T2001", "-"),
    ("T2001", "*"),
    ("T2001", "/"),
    ("T2001", "%"),
    ("T2002", "+"),
    ("T2002", "-"),
    ("T2002", "*"),
    ("T2002", "/"),
    ("T2002", "%"),
    ("T2003", ".."),
    ("T2004", ".."),
    ("D2014", ".."),
    ("D2015", ".."),
    ("T2009", "<"),
    ("T2009", "<="),
    ("T2009", ">"),
    ("T2009", ">="),
    ("T2010", "<"),
    ("T2010", "<="),
    ("T2010", ">"),
    ("T2010", ">="),
    ("T2006", "~>"),
    ("T2007", "^"),
    ("T2008", "^"),
    ("T2011", "|"),
    ("T2012", "|"),
];

/// Whether a message names this function.
fn names(message: &str, name: &str) -> bool {
    let is_part = |character: char| character.is_alphanumeric() || character == '_';
    message
        .match_indices(name)
        .any(|(at, _)| !message[..at].ends_with(is_part) && !message[at + name.len()..].starts_with(is_part))
}

/// Whether a message is about this operator: it names it, or it names none.
fn names_operator(message: &str, operator: &str) -> bool {
    let names_any = [
        "\"+\"", "\"-\"", "\"*\"", "\"/\"", "\"%\"", "\"<\"", "\">\"", " + ", " - ", " * ", " / ", " % ", " < ", " > ",
    ]
    .iter()
    .any(|quoted| message.contains(quoted));
    !names_any || message.contains(&format!("\"{operator}\"")) || message.contains(&format!(" {operator} "))
}

/// A word of a script: a name, a number, a text, an operator.
#[derive(Debug, Clone, Copy)]
struct Word<'a> {
    start: usize,
    text: &'a str,
}

/// The words of a script, without spaces and comments; an unclosed comment is a word.
fn words(text: &str) -> Vec<Word<'_>> {
    let mut words: Vec<Word> = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        if first.is_whitespace() {
            at += first.len_utf8();
            continue;
        }
        let length = match first {
            '"' | '\'' | '`' => quoted_bytes(rest, first),
            '/' if rest.starts_with("/*") => match rest[2..].find("*/") {
                Some(end) => {
                    at += end + 4;
                    continue;
                }
                None => rest.len(),
            },
            '/' if begins_operand(words.last()) => quoted_bytes(rest, first),
            _ => word_bytes(rest, first),
        };
        words.push(Word { start: at, text: &rest[..length] });
        at += length;
    }
    words
}

/// Whether what follows this word is an operand, so that `/` begins a regular expression.
fn begins_operand(last: Option<&Word>) -> bool {
    last.is_none_or(|word| {
        !word.text.ends_with(|end: char| {
            end.is_alphanumeric() || matches!(end, '_' | '$' | ')' | ']' | '}' | '"' | '\'' | '`' | '*' | '%')
        })
    })
}

fn quoted_bytes(rest: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        if is_escaped {
            is_escaped = false;
        } else if character == '\\' && quote != '`' {
            is_escaped = true;
        } else if character == quote {
            return at + quote.len_utf8();
        }
    }
    rest.len()
}

fn word_bytes(rest: &str, first: char) -> usize {
    let is_name = |character: char| character.is_alphanumeric() || matches!(character, '_' | '$');
    if is_name(first) {
        return rest.find(|character| !is_name(character)).unwrap_or(rest.len());
    }
    let pairs = [":=", "!=", ">=", "<=", "**", "..", "~>", "?:", "??"];
    pairs.iter().find(|pair| rest.starts_with(**pair)).map_or(first.len_utf8(), |pair| pair.len())
}
