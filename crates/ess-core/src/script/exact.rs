//! Numbers that a double cannot hold: copied as they were written, or the evaluation fails.
//!
//! The engine computes in doubles, and nothing marks a double as "only copied". So such numbers get stand-ins, and the
//! script runs several times with different ones: a result that does not depend on them shows the same everything in
//! each run, but for the places to which a stand-in was copied, and there the number is written back. Whatever else
//! the script did with one - sum, comparison, text, order, length, index - shows as a difference, and is refused.
//!
//! The runs are chosen so that using a number cannot pass for copying it: about one (so that adding, rounding and
//! printing show), far above and far below everything (so that comparing and sorting show; the order among the numbers
//! is reversed as well), next to nothing (so that adding a tiny value shows), and infinite (which the engine neither
//! prints nor computes with, so that `$string(a) = '9007199254740993'` shows).

use std::collections::HashMap;
use std::fmt::Write as _;
use std::ops::Range;

use jsonata_core::value::JValue;

use super::{CODE_EXACT, CODE_INPUT, ScriptError};

/// Deepest nesting of an input, as in the JSON parser that reads payloads.
const NESTING_MAX: usize = 128;

/// How often a script runs that is given such numbers.
pub(super) const RUNS: usize = 5;

/// The run in which each number is infinite: the engine refuses to print and to compute with infinity, whatever it
/// would have made of the digits.
const INFINITE_RUN: usize = 2;

/// The largest integer up to which each integer is a double, and so are its neighbours.
const SAFE_INTEGER: f64 = 9_007_199_254_740_991.0;

/// A number of the input that a double cannot hold, wherever it stands.
#[derive(Debug)]
struct Number {
    /// As it is written where it stands first.
    text: String,
    /// Where it stands first, such as `$.lines[2].id`.
    path: String,
    /// What stands in its place, one for each run.
    stand_ins: [f64; RUNS],
}

/// The numbers of all inputs of one evaluation. Each value is there once, so that `a = b` says of the stand-ins what
/// it says of the numbers.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    all: Vec<Number>,
    by_value: HashMap<Decimal, usize>,
    /// By the bits of the first run's stand-in.
    by_stand_in: HashMap<u64, usize>,
}

/// An input's text, cut at the numbers that need stand-ins.
#[derive(Debug)]
pub(super) struct Input<'a> {
    text: &'a str,
    /// Where each one stands, and its index in [`Numbers`].
    cuts: Vec<(Range<usize>, usize)>,
}

/// Which stand-in each number has in a run: those of the range have that of `run`, the others their first.
#[derive(Debug, Clone)]
pub(super) struct Choice {
    pub(super) run: usize,
    pub(super) range: Range<usize>,
}

impl Choice {
    /// The first run.
    pub(super) fn first() -> Self {
        Self { run: 0, range: 0..0 }
    }

    fn of(&self, index: usize) -> usize {
        if self.range.contains(&index) { self.run } else { 0 }
    }
}

impl Input<'_> {
    /// The text with a run's stand-ins.
    pub(super) fn with_stand_ins(&self, numbers: &Numbers, choice: &Choice) -> String {
        let mut text = String::with_capacity(self.text.len() + self.cuts.len() * 8);
        let mut from = 0;
        for (place, index) in &self.cuts {
            text.push_str(&self.text[from..place.start]);
            let stand_in = numbers.all[*index].stand_ins[choice.of(*index)];
            // JSON has no infinity: `Numbers::make_infinite` puts it in when the text is read.
            let stand_in = if stand_in.is_finite() { stand_in } else { numbers.all[*index].stand_ins[0] };
            let _ = write!(text, "{stand_in:e}");
            from = place.end;
        }
        text.push_str(&self.text[from..]);
        text
    }

    /// The text when no number needs a stand-in.
    pub(super) fn plain(&self) -> &str {
        self.text
    }
}

impl Numbers {
    /// Whether no number needs a stand-in.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The first one, as it is written.
    pub(super) fn first(&self) -> Option<&str> {
        self.all.first().map(|number| number.text.as_str())
    }

    /// How many different ones there are.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Reads a JSON text for its numbers; `name` begins their paths.
    pub(super) fn read<'a>(&mut self, name: &str, text: &'a str) -> Result<Input<'a>, ScriptError> {
        let bytes = text.as_bytes();
        let mut places = Vec::new();
        let (mut at, mut depth) = (0, 0_usize);
        while at < bytes.len() {
            match bytes[at] {
                b'"' => at = string_end(bytes, at),
                b'[' | b'{' => {
                    depth += 1;
                    if depth > NESTING_MAX {
                        return Err(ScriptError::new(
                            CODE_INPUT,
                            format!("{name} is nested deeper than {NESTING_MAX}"),
                        ));
                    }
                    at += 1;
                }
                b']' | b'}' => {
                    depth = depth.saturating_sub(1);
                    at += 1;
                }
                b'-' | b'0'..=b'9' => {
                    let end = number_end(bytes, at);
                    if !is_exact(&text[at..end]) {
                        places.push(at..end);
                    }
                    at = end;
                }
                _ => at += 1,
            }
        }
        let mut cuts = Vec::with_capacity(places.len());
        if !places.is_empty() {
            let paths = paths(name, text, &places);
            for (place, path) in places.into_iter().zip(paths) {
                let index = self.index_of(&text[place.clone()], path);
                cuts.push((place, index));
            }
        }
        Ok(Input { text, cuts })
    }

    fn index_of(&mut self, text: &str, path: String) -> usize {
        let value = Decimal::of(text);
        if let Some(index) = self.by_value.get(&value) {
            return *index;
        }
        let index = self.all.len();
        let mut salt = 0;
        let mut stand_ins = stand_ins(index, salt);
        while self.by_stand_in.contains_key(&stand_ins[0].to_bits()) {
            salt += 1;
            stand_ins = self::stand_ins(index, salt);
        }
        self.by_stand_in.insert(stand_ins[0].to_bits(), index);
        self.by_value.insert(value, index);
        self.all.push(Number { text: text.to_owned(), path, stand_ins });
        index
    }

    /// Puts infinity in the place of the stand-ins that JSON could not write.
    pub(super) fn make_infinite(&self, value: JValue, choice: &Choice) -> JValue {
        match value {
            JValue::Number(number) => match self.by_stand_in.get(&number.to_bits()) {
                Some(index) if choice.of(*index) == INFINITE_RUN => JValue::Number(f64::INFINITY),
                _ => value,
            },
            JValue::Array(items) => {
                JValue::array(items.into_vec().into_iter().map(|item| self.make_infinite(item, choice)).collect())
            }
            JValue::Object(members) => JValue::object(
                members.iter().map(|(key, member)| (key.clone(), self.make_infinite(member.clone(), choice))).collect(),
            ),
            other => other,
        }
    }

    /// Whether another run's result is the first run's, but for stand-ins that were copied.
    pub(super) fn agree(&self, first: &JValue, other: &JValue, choice: &Choice) -> bool {
        match (first, other) {
            (JValue::Number(a), JValue::Number(b)) => match self.by_stand_in.get(&a.to_bits()) {
                Some(index) => self.all[*index].stand_ins[choice.of(*index)].to_bits() == b.to_bits(),
                None => a.to_bits() == b.to_bits(),
            },
            (JValue::Array(a), JValue::Array(b)) => {
                a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| self.agree(a, b, choice))
            }
            (JValue::Object(a), JValue::Object(b)) => {
                a.len() == b.len()
                    && a.iter().zip(b.iter()).all(|((key, a), (other, b))| key == other && self.agree(a, b, choice))
            }
            (JValue::String(a), JValue::String(b)) => a == b,
            (JValue::Bool(a), JValue::Bool(b)) => a == b,
            // Null, undefined and functions, which print as the empty text.
            (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
        }
    }

    /// How the number is written that a value of the first run was copied from.
    pub(super) fn written(&self, value: f64) -> Option<&str> {
        self.by_stand_in.get(&value.to_bits()).map(|index| self.all[*index].text.as_str())
    }

    /// The refusal of a script that uses the number at an index.
    pub(super) fn refusal(&self, index: usize) -> ScriptError {
        let Some(number) = self.all.get(index) else {
            return ScriptError::new(CODE_EXACT, "the script computes with a number that a double cannot hold");
        };
        let path = &number.path;
        let shown: String = number.text.chars().take(60).collect();
        ScriptError::new(
            CODE_EXACT,
            format!("the script computes with {path}, but a double cannot hold {shown}: it can only be copied"),
        )
    }
}

/// The values for one number: an ordinary one, about 1e-290, infinity, and about 1e290 and -1e290.
///
/// Neither an input nor a computation hits them by chance: their digits come from a hash. Even then the runs would
/// differ, and the result be refused.
fn stand_ins(index: usize, salt: u32) -> [f64; RUNS] {
    let digest = blake3::hash(format!("hms-ess number {index} {salt}").as_bytes());
    // 52 bits of the digest as the fraction of a number from 1 to 2.
    let fraction = |run: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&digest.as_bytes()[run * 8..run * 8 + 8]);
        f64::from_bits(0x3FF0_0000_0000_0000 | (u64::from_le_bytes(word) >> 12))
    };
    // The order among the numbers shows when the large ones turn it round: a step apart is more than a fraction. It
    // begins anew every thousand, which leaves the digits enough of the double.
    let rank = (index % 1000) as f64 * 2.0;
    [
        fraction(0) + 40.0 + rank,
        fraction(1) * 1e-290,
        f64::INFINITY,
        (fraction(2) + rank) * 1e290,
        -(fraction(3) + rank) * 1e290,
    ]
}

/// Where the string that begins at `at` ends; the text's end when it does not.
fn string_end(bytes: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn number_end(bytes: &[u8], at: usize) -> usize {
    let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
    at + bytes[at..].iter().take_while(|byte| is_part(byte)).count()
}

/// Whether a double holds the number: its shortest form is the same decimal, and it is no integer among whose
/// neighbours some are missing.
fn is_exact(text: &str) -> bool {
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    if digits <= 15 && !text.bytes().any(|byte| byte == b'e' || byte == b'E') {
        return true;
    }
    let Ok(value) = text.parse::<f64>() else {
        // No number: the JSON parser says so.
        return true;
    };
    let is_written_integer = text.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit());
    // The engine prints integers that fit into 64 bits digit by digit, so theirs would not be the shortest form.
    let is_printed_integer = value.abs() <= 1e19;
    value.is_finite()
        && !(value.abs() > SAFE_INTEGER && (is_written_integer || is_printed_integer))
        && Decimal::of(text) == Decimal::of(&format!("{value:e}"))
}

/// A decimal number in its only form: digits without zeros at either end, and the power of ten of the last one.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Decimal {
    is_negative: bool,
    digits: Vec<u8>,
    exponent: i128,
}

impl Decimal {
    fn of(text: &str) -> Self {
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        // An exponent that no i64 holds belongs to zero or to a number that is told apart by its text anyway.
        let exponent: i64 = exponent.parse().unwrap_or(if exponent.starts_with('-') { i64::MIN } else { i64::MAX });
        let is_negative = mantissa.starts_with('-');
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let mut exponent = i128::from(exponent) - fraction.len() as i128;
        let mut digits: Vec<u8> = whole
            .bytes()
            .chain(fraction.bytes())
            .filter(u8::is_ascii_digit)
            .skip_while(|digit| *digit == b'0')
            .collect();
        while digits.last() == Some(&b'0') {
            digits.pop();
            exponent += 1;
        }
        if digits.is_empty() {
            return Self { is_negative: false, digits, exponent: 0 };
        }
        Self { is_negative, digits, exponent }
    }
}

/// The paths of the values that begin at these places, in order; the text is JSON or the paths are of no matter.
fn paths(name: &str, text: &str, places: &[Range<usize>]) -> Vec<String> {
    enum Step<'a> {
        Index(usize),
        Key(&'a str),
    }
    let bytes = text.as_bytes();
    let mut steps: Vec<Step> = Vec::new();
    let mut found = Vec::with_capacity(places.len());
    let mut at = 0;
    while at < bytes.len() && found.len() < places.len() {
        if at == places[found.len()].start {
            let mut path = name.to_owned();
            for step in &steps {
                let _ = match step {
                    Step::Index(index) => write!(path, "[{index}]"),
                    Step::Key(key) => write!(path, ".{key}"),
                };
            }
            found.push(path);
            at = number_end(bytes, at);
            continue;
        }
        match bytes[at] {
            b'"' => {
                let end = string_end(bytes, at);
                let is_key = text[end..].trim_start().starts_with(':');
                if let (true, Some(last)) = (is_key, steps.last_mut()) {
                    *last = Step::Key(text.get(at + 1..end - 1).unwrap_or(""));
                }
                at = end;
                continue;
            }
            b'[' => steps.push(Step::Index(0)),
            b'{' => steps.push(Step::Key("")),
            b']' | b'}' => drop(steps.pop()),
            b',' => {
                if let Some(Step::Index(index)) = steps.last_mut() {
                    *index += 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    found.resize(places.len(), name.to_owned());
    found
}

/// Whether two texts are the same number.
#[cfg(test)]
pub(super) fn same_decimal(a: &str, b: &str) -> bool {
    Decimal::of(a) == Decimal::of(b)
}
