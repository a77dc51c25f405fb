//! A text that people look for in payloads: in any case, and whichever way JSON writes its letters. Pure.

use crate::problem::{Code, Problem};

/// Bytes of a text that is looked for.
pub const SOUGHT_BYTES_MAX: usize = 200;

/// What is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sought {
    /// In lower case.
    text: String,
}

impl Sought {
    /// A text of 1 to `SOUGHT_BYTES_MAX` bytes, without the blanks around it.
    ///
    /// # Errors
    /// It is empty or too long.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let text = text.trim();
        if text.is_empty() || text.len() > SOUGHT_BYTES_MAX {
            let detail = format!("text must have 1 to {SOUGHT_BYTES_MAX} bytes");
            return Err(Problem::new(Code::Invalid, detail).with_field("text"));
        }
        Ok(Self { text: text.to_lowercase() })
    }

    /// Whether a JSON text holds it, as it is written or as its escapes read.
    #[must_use]
    pub fn is_in(&self, json: &str) -> bool {
        self.is_in_plain(json) || (json.contains('\\') && self.is_in_plain(&unescape(json)))
    }

    fn is_in_plain(&self, text: &str) -> bool {
        if !text.is_ascii() {
            return text.to_lowercase().contains(&self.text);
        }
        let (sought, text) = (self.text.as_bytes(), text.as_bytes());
        text.windows(sought.len()).any(|window| window.eq_ignore_ascii_case(sought))
    }
}

/// The text with the escapes of its strings resolved; what is no escape stays.
fn unescape(json: &str) -> String {
    let mut plain = String::with_capacity(json.len());
    let mut rest = json.chars();
    while let Some(letter) = rest.next() {
        if letter != '\\' {
            plain.push(letter);
            continue;
        }
        match rest.next() {
            Some('u') => match unit(&mut rest) {
                Some(high @ 0xd800..=0xdbff) => plain.push(pair(high, &mut rest)),
                Some(unit) => plain.push(char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER)),
                None => plain.push(char::REPLACEMENT_CHARACTER),
            },
            // As other blanks.
            Some('n' | 'r' | 't' | 'b' | 'f') => plain.push(' '),
            Some(other) => plain.push(other),
            None => {}
        }
    }
    plain
}

/// Four hex digits.
fn unit(rest: &mut std::str::Chars<'_>) -> Option<u32> {
    let mut unit = 0;
    for _ in 0..4 {
        unit = unit * 16 + rest.next()?.to_digit(16)?;
    }
    Some(unit)
}

/// The letter of a surrogate pair, of which the first half was read.
fn pair(high: u32, rest: &mut std::str::Chars<'_>) -> char {
    let mut ahead = rest.clone();
    let low = match (ahead.next(), ahead.next()) {
        (Some('\\'), Some('u')) => unit(&mut ahead).filter(|low| (0xdc00..=0xdfff).contains(low)),
        _ => None,
    };
    let Some(low) = low else { return char::REPLACEMENT_CHARACTER };
    *rest = ahead;
    char::from_u32(0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00)).unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(sought: &str, json: &str, is_in: bool) {
        assert_eq!(Sought::parse(sought).unwrap().is_in(json), is_in, "{sought} in {json}");
    }

    #[test]
    fn a_text_is_found_in_any_case_and_by_any_spelling_of_its_letters() {
        check("DEADLINE", r#"{"deadline":"16:00"}"#, true);
        check(" 16:00 ", r#"{"deadline":"16:00"}"#, true);
        check("17:00", r#"{"deadline":"16:00"}"#, false);
        check("straße", r#"{"a":"STRASSE"}"#, false);
        check("STRAßE", r#"{"a":"Straße"}"#, true);
        check("straße", r#"{"a":"Stra\u00dfe"}"#, true);
        check("\u{1f600}", r#"{"a":"\ud83d\ude00"}"#, true);
        check("say \"no\"", r#"{"a":"say \"no\""}"#, true);
        check("two lines", r#"{"a":"two\nlines"}"#, true);
        check("a/b", r#"{"a":"a\/b"}"#, true);
    }

    #[test]
    fn broken_escapes_do_no_harm() {
        for json in ["\\", "\\u", "\\u12", "\\ud83d", "\\ud83d\\u0041", "\\uzzzz", "\\ud83d\\"] {
            check("never there", json, false);
        }
        check("A", r#""\ud83d\u0041""#, true);
    }

    #[test]
    fn what_is_empty_or_too_long_is_refused() {
        for bad in ["", "  ", &"x".repeat(201)] {
            assert_eq!(Sought::parse(bad).unwrap_err().field.as_deref(), Some("text"));
        }
    }
}
