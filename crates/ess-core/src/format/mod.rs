//! How a body is written: JSON, form, text, CloudEvents. An adapter shapes the value; the format writes it.
//!
//! A dry run's mark does not depend on the value: it travels in the headers and the message id, which no adapter sees.

use serde_json::Value;

use crate::cloudevents;
use crate::event::Event;
use crate::id::Version;
use crate::partner::Format;

/// What a format may look at beside the value.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The event.
    pub event: &'a Event,
    /// The partner's version.
    pub version: Version,
    /// The payload in that version, JSON text.
    pub payload: &'a str,
    /// The value is an adapter's, not the envelope.
    pub has_adapter: bool,
}

/// A body, ready to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The bytes.
    pub body: Vec<u8>,
    /// Media type.
    pub content_type: String,
    /// File name extension.
    pub extension: &'static str,
    /// Header fields that belong to the body.
    pub headers: Vec<(String, String)>,
}

/// The value does not fit the format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FormatError(String);

/// Writes `value` (JSON text) in the format.
///
/// # Errors
/// The value can't be written so: a form needs a flat map, a text a string.
pub fn write(format: Format, value: String, context: &Context<'_>) -> Result<Written, FormatError> {
    let written = |body: Vec<u8>, content_type: &str, extension| Written {
        body,
        content_type: content_type.to_owned(),
        extension,
        headers: Vec::new(),
    };
    Ok(match format {
        Format::Json => written(value.into_bytes(), "application/json", "json"),
        Format::Text => written(write_text(value).into_bytes(), "text/plain; charset=utf-8", "txt"),
        Format::Form => written(write_form(&value)?.into_bytes(), "application/x-www-form-urlencoded", "form"),
        Format::CloudEvents => {
            let data = if context.has_adapter { &value } else { context.payload };
            let body = cloudevents::structured(context.event, context.version, data);
            written(body.into_bytes(), "application/cloudevents+json; charset=utf-8", "json")
        }
    })
}

/// A string as it is; anything else as its JSON.
fn write_text(value: String) -> String {
    match serde_json::from_str::<Value>(&value) {
        Ok(Value::String(text)) => text,
        _ => value,
    }
}

/// WHATWG URL, section "application/x-www-form-urlencoded": a map of scalars; a list repeats its name.
fn write_form(value: &str) -> Result<String, FormatError> {
    let fields = crate::json::Fields::parse(value.as_bytes())
        .map_err(|_| FormatError("a form needs a map of names to values".to_owned()))?;
    let mut pairs = Vec::new();
    for (name, value) in fields.0 {
        let text = value.get();
        if text.starts_with('[') {
            let items: Vec<&serde_json::value::RawValue> = serde_json::from_str(text).unwrap_or_default();
            for item in items {
                pairs.push(format!("{}={}", form_escaped(&name), form_escaped(&scalar(&name, item.get())?)));
            }
        } else {
            pairs.push(format!("{}={}", form_escaped(&name), form_escaped(&scalar(&name, text)?)));
        }
    }
    Ok(pairs.join("&"))
}

/// The text of a scalar; numbers as they were written.
fn scalar(name: &str, json: &str) -> Result<String, FormatError> {
    match json.as_bytes().first() {
        Some(b'"') => serde_json::from_str(json).map_err(|error| FormatError(format!("{name}: {error}"))),
        Some(b'{' | b'[') => Err(FormatError(format!(
            "{name} is nested; a form is flat: let an adapter flatten it, such as by $string()"
        ))),
        _ if json == "null" => Ok(String::new()),
        _ => Ok(json.to_owned()),
    }
}

fn form_escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'*' | b'-' | b'.' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_flat_and_escaped_and_keeps_numbers() {
        let form = write_form(r#"{"a b":"16:00 & more","n":9007199254740993,"l":[1,"x"],"z":null}"#).unwrap();
        assert_eq!(form, "a+b=16%3A00+%26+more&n=9007199254740993&l=1&l=x&z=");
        assert!(write_form(r#"{"a":{"b":1}}"#).is_err());
        assert!(write_form("[1]").is_err());
    }

    #[test]
    fn a_text_is_the_string_itself() {
        assert_eq!(write_text("\"a\\nb\"".to_owned()), "a\nb");
        assert_eq!(write_text("{\"a\":1}".to_owned()), "{\"a\":1}");
    }
}
