//! JSON at the border: objects field by field with duplicates refused, nesting bounded, and a canonical form.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::limits::NESTING_MAX;
use crate::problem::{Code, Problem};

/// The fields of a JSON object, in order, values as they were written.
pub struct Fields<'a>(pub Vec<(String, &'a RawValue)>);

impl<'a> Fields<'a> {
    /// Reads one object.
    ///
    /// # Errors
    /// Not UTF-8, not JSON (with the position), not an object, a field twice, or nested too deep.
    pub fn parse(body: &'a [u8]) -> Result<Self, Problem> {
        let text = std::str::from_utf8(body)
            .map_err(|error| Problem::new(Code::Malformed, format!("not UTF-8 at byte {}", error.valid_up_to())))?;
        check_nesting(text)?;
        let fields: Fields<'a> = serde_json::from_str(text).map_err(|error| {
            let position = (u32::try_from(error.line()).unwrap_or(0), u32::try_from(error.column()).unwrap_or(0));
            let said = error.to_string();
            let said = said.split(" at line ").next().unwrap_or_default().to_owned();
            let detail = format!("not a JSON object: {said} (line {}, column {})", position.0, position.1);
            Problem::new(Code::Malformed, detail).with_position(position.0, position.1)
        })?;
        // A set, not a look back at all the earlier ones: a body of 1 MiB holds 150,000 fields.
        let mut seen = BTreeSet::new();
        for (name, _) in &fields.0 {
            if !seen.insert(name.as_str()) {
                return Err(Problem::new(Code::Invalid, format!("field {name} stands twice")).with_field(name));
            }
        }
        Ok(fields)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Vec<(String, &'de RawValue)>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(InOrder).map(Fields)
    }
}

/// Refuses JSON text that nests deeper than the limit, before a parser recurses into it.
///
/// # Errors
/// Deeper than `NESTING_MAX`.
pub fn check_nesting(text: &str) -> Result<(), Problem> {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                if depth > NESTING_MAX {
                    let detail = format!("nested deeper than {NESTING_MAX} levels");
                    return Err(Problem::new(Code::Invalid, detail).with_field("payload"));
                }
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// Writes checked JSON text in one form: keys sorted, no insignificant whitespace, strings in their shortest form, numbers as they
/// were written.
///
/// The text is read once, however deep it nests. Text that was not checked gives some text, never a panic.
pub fn write_canonical(text: &str, out: &mut String) {
    let mut node = Node::parse(text);
    node.sort();
    node.write(out);
}

/// Writes checked JSON text for people: a field a line, two blanks a level, order and numbers as they were written.
#[must_use]
pub fn pretty(text: &str) -> String {
    let mut out = String::new();
    Node::parse(text).write_pretty(0, &mut out);
    out
}

/// JSON text, taken apart but not interpreted: fields in their order, numbers as written.
#[derive(Debug)]
pub(crate) enum Node<'a> {
    /// A number, `true`, `false` or `null`, as written.
    Word(&'a str),
    Text(Text<'a>),
    List(Vec<Node<'a>>),
    Map(Vec<(Text<'a>, Node<'a>)>),
}

/// What a JSON string stands for. A lone surrogate is no string in Rust: its escape, as written, is its form.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Text<'a> {
    /// The text itself.
    Read(Cow<'a, str>),
    /// With its quotes.
    Raw(&'a str),
}

/// What is left to read.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    /// The next byte that is not blank.
    fn peek(&mut self) -> Option<u8> {
        self.0 = self.0.trim_start_matches([' ', '\t', '\n', '\r']);
        self.0.bytes().next()
    }

    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.0.split_at_checked(bytes).unwrap_or((self.0, ""));
        self.0 = rest;
        taken
    }

    /// The string that begins here, with its quotes.
    fn text(&mut self) -> Text<'a> {
        let (mut escaped, mut has_escape, mut end) = (false, false, self.0.len());
        for (at, byte) in self.0.bytes().enumerate().skip(1) {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => (escaped, has_escape) = (true, true),
                b'"' => {
                    end = at + 1;
                    break;
                }
                _ => {}
            }
        }
        let raw = self.take(end);
        if !has_escape && let Some(inner) = raw.get(1..raw.len().saturating_sub(1)) {
            return Text::Read(Cow::Borrowed(inner));
        }
        match serde_json::from_str::<String>(raw) {
            Ok(text) => Text::Read(Cow::Owned(text)),
            Err(_) => Text::Raw(raw),
        }
    }
}

impl<'a> Node<'a> {
    /// Takes checked JSON text apart. Text that was not checked gives some node, never a panic.
    pub(crate) fn parse(text: &'a str) -> Self {
        Self::read(&mut Rest(text))
    }

    /// Sorts the fields of every map by name.
    fn sort(&mut self) {
        match self {
            Node::Word(_) | Node::Text(_) => {}
            Node::List(items) => items.iter_mut().for_each(Self::sort),
            Node::Map(fields) => {
                // A stable sort: of two fields of one name the later one wins for every reader, so both stay, in order.
                fields.sort_by(|(a, _), (b, _)| a.cmp(b));
                fields.iter_mut().for_each(|(_, value)| value.sort());
            }
        }
    }

    fn read(rest: &mut Rest<'a>) -> Self {
        match rest.peek() {
            Some(b'{') => {
                rest.take(1);
                let mut fields = Vec::new();
                while rest.peek() == Some(b'"') {
                    let name = rest.text();
                    if rest.peek() == Some(b':') {
                        rest.take(1);
                    }
                    fields.push((name, Node::read(rest)));
                    if rest.peek() == Some(b',') {
                        rest.take(1);
                    }
                }
                rest.take(1);
                Node::Map(fields)
            }
            Some(b'[') => {
                rest.take(1);
                let mut items = Vec::new();
                while !matches!(rest.peek(), None | Some(b']')) {
                    let before = rest.0.len();
                    items.push(Node::read(rest));
                    if rest.peek() == Some(b',') {
                        rest.take(1);
                    }
                    if rest.0.len() == before {
                        break;
                    }
                }
                rest.take(1);
                Node::List(items)
            }
            Some(b'"') => Node::Text(rest.text()),
            _ => {
                let ends = |c: char| matches!(c, ',' | ']' | '}' | ' ' | '\t' | '\n' | '\r');
                let end = rest.0.find(ends).unwrap_or(rest.0.len());
                Node::Word(rest.take(end))
            }
        }
    }

    fn write(&self, out: &mut String) {
        match self {
            Node::Word(word) => out.push_str(word),
            Node::Text(text) => text.write(out),
            Node::List(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    item.write(out);
                }
                out.push(']');
            }
            Node::Map(fields) => {
                out.push('{');
                for (index, (name, value)) in fields.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    name.write(out);
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
        }
    }
}

impl Node<'_> {
    fn write_pretty(&self, level: usize, out: &mut String) {
        let line = |level: usize, out: &mut String| {
            out.push('\n');
            out.extend(std::iter::repeat_n("  ", level));
        };
        match self {
            Node::List(items) if !items.is_empty() => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    out.push_str(if index > 0 { "," } else { "" });
                    line(level + 1, out);
                    item.write_pretty(level + 1, out);
                }
                line(level, out);
                out.push(']');
            }
            Node::Map(fields) if !fields.is_empty() => {
                out.push('{');
                for (index, (name, value)) in fields.iter().enumerate() {
                    out.push_str(if index > 0 { "," } else { "" });
                    line(level + 1, out);
                    name.write(out);
                    out.push_str(": ");
                    value.write_pretty(level + 1, out);
                }
                line(level, out);
                out.push('}');
            }
            _ => self.write(out),
        }
    }
}

impl Text<'_> {
    fn write(&self, out: &mut String) {
        match self {
            Text::Read(text) => write_string(text, out),
            Text::Raw(raw) => out.push_str(raw),
        }
    }
}

fn write_string(text: &str, out: &mut String) {
    // Invariant: a string always serialises.
    out.push_str(&serde_json::to_string(text).expect("a string serialises"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        let mut out = String::new();
        write_canonical(text, &mut out);
        out
    }

    #[test]
    fn people_read_a_field_a_line() {
        let text = r#"{"b":[1.50,{}],"a":{"c":[]}}"#;
        assert_eq!(pretty(text), "{\n  \"b\": [\n    1.50,\n    {}\n  ],\n  \"a\": {\n    \"c\": []\n  }\n}");
    }

    #[test]
    fn order_and_blanks_do_not_matter_but_numbers_stay_as_written() {
        assert_eq!(
            canonical(r#" { "b" : [1.0, 1e2, 9007199254740993 ], "a":"\u0041" } "#),
            r#"{"a":"A","b":[1.0,1e2,9007199254740993]}"#
        );
        assert_ne!(canonical("1.0"), canonical("1"));
    }

    #[test]
    fn a_key_that_is_no_rust_string_still_counts() {
        // The whole object was once left out, so that a conflict looked like a repeat.
        assert_eq!(canonical(r#"{"\ud800": 1, "a": 2}"#), r#"{"a":2,"\ud800":1}"#);
        assert_ne!(canonical(r#"{"\ud800":1}"#), canonical(r#"{"\ud800":2}"#));
        assert_ne!(canonical(r#"{"\ud800":1}"#), canonical(r#"{"\\ud800":1}"#));
    }

    #[test]
    fn a_deep_text_is_read_once() {
        // Each level was once parsed anew, which took 120 times as long as one level; compared in one run, so that a busy machine
        // does not matter.
        let nested =
            |levels: usize| format!("{}{}{}", "[".repeat(levels), vec!["1"; 200_000].join(","), "]".repeat(levels));
        let took = |text: &str| {
            let began = std::time::Instant::now();
            assert_eq!(canonical(text), text);
            began.elapsed()
        };
        let (flat, deep) = (nested(1), nested(120));
        let shortest = |text: &str| (0..3).map(|_| took(text)).min().unwrap_or_default();
        assert!(shortest(&deep) < shortest(&flat) * 20);
    }

    #[test]
    fn a_field_that_stands_twice_is_found_among_many() {
        let many: Vec<String> = (0..100_000).map(|number| format!("\"f{number}\":1")).collect();
        assert_eq!(Fields::parse(format!("{{{}}}", many.join(",")).as_bytes()).unwrap().0.len(), 100_000);
        let twice = Fields::parse(format!("{{{},\"f7\":2}}", many.join(",")).as_bytes()).err().unwrap();
        assert_eq!(twice.field.as_deref(), Some("f7"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_has_a_form(text in "[\\[\\]{}\",:\\\\ u0-9a-dé\n]{0,60}") {
            let _ = canonical(&text);
        }

        #[test]
        fn the_form_of_a_form_is_itself_and_means_the_same(numbers in proptest::collection::btree_map(".{0,6}", "[ -~é]{0,8}", 0..6)) {
            let text = serde_json::to_string_pretty(&serde_json::json!({"z": [numbers, null, 1.5], "a": true})).unwrap();
            let once = canonical(&text);
            proptest::prop_assert_eq!(&canonical(&once), &once);
            let (a, b): (serde_json::Value, serde_json::Value) = (serde_json::from_str(&text).unwrap(), serde_json::from_str(&once).unwrap());
            proptest::prop_assert_eq!(a, b);
        }
    }

    #[test]
    fn deep_nesting_is_refused_before_it_is_parsed() {
        assert!(check_nesting(&"[".repeat(129)).is_err());
        assert!(check_nesting(&format!("\"{}\"", "[".repeat(1_000))).is_ok());
        assert!(Fields::parse("[".repeat(1_000_000).as_bytes()).is_err());
    }
}
