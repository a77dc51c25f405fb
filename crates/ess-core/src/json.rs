//! JSON at the border: objects field by field with duplicates refused, nesting bounded, and a canonical form.

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
        for (index, (name, _)) in fields.0.iter().enumerate() {
            if fields.0[..index].iter().any(|(earlier, _)| earlier == name) {
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
pub fn write_canonical(text: &str, out: &mut String) {
    let text = text.trim();
    match text.as_bytes().first() {
        Some(b'{') => {
            let Ok(mut fields) = serde_json::from_str::<Fields<'_>>(text) else { return };
            // A stable sort: of two fields of one name the later one wins for every reader, so both stay, in order.
            fields.0.sort_by(|a, b| a.0.cmp(&b.0));
            out.push('{');
            for (index, (name, value)) in fields.0.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_string(name, out);
                out.push(':');
                write_canonical(value.get(), out);
            }
            out.push('}');
        }
        Some(b'[') => {
            let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(text) else { return };
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_canonical(item.get(), out);
            }
            out.push(']');
        }
        Some(b'"') => match serde_json::from_str::<String>(text) {
            Ok(string) => write_string(&string, out),
            // A lone surrogate is no string in Rust; its escape is its form.
            Err(_) => out.push_str(text),
        },
        _ => out.push_str(text),
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
    fn order_and_blanks_do_not_matter_but_numbers_stay_as_written() {
        assert_eq!(
            canonical(r#" { "b" : [1.0, 1e2, 9007199254740993 ], "a":"\u0041" } "#),
            r#"{"a":"A","b":[1.0,1e2,9007199254740993]}"#
        );
        assert_ne!(canonical("1.0"), canonical("1"));
    }

    #[test]
    fn deep_nesting_is_refused_before_it_is_parsed() {
        assert!(check_nesting(&"[".repeat(129)).is_err());
        assert!(check_nesting(&format!("\"{}\"", "[".repeat(1_000))).is_ok());
        assert!(Fields::parse("[".repeat(1_000_000).as_bytes()).is_err());
    }
}
