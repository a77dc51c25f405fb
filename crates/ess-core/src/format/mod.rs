//! How a body is written: JSON, XML, CSV, form, text, HL7 v2, CloudEvents. An adapter shapes the value; the format writes it.
//!
//! A dry run's mark does not depend on the value: it travels in the headers and the message id, which no adapter sees.

mod csv;
mod hl7;
mod tree;
mod xml;

use serde_json::Value;

use crate::cloudevents;
use crate::event::Event;
use crate::id::Version;
use crate::json::{Node, check_nesting};
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
/// The value can't be written so, such as a nested map in a form; the error names the place and what an adapter can do.
pub fn write(format: Format, value: String, context: &Context<'_>) -> Result<Written, FormatError> {
    let written = |body: Vec<u8>, content_type: &str| Written {
        body,
        content_type: content_type.to_owned(),
        extension: format.extension(),
        headers: Vec::new(),
    };
    Ok(match format {
        Format::Json => written(value.into_bytes(), "application/json"),
        Format::Text => written(write_text(value).into_bytes(), "text/plain; charset=utf-8"),
        Format::Xml => {
            // Without an adapter the envelope is the root element's content.
            let value = if context.has_adapter { value } else { format!("{{\"event\":{value}}}") };
            check(&value)?;
            let (body, encoding) = xml::write(&Node::parse(&value))?;
            written(body, &format!("application/xml; charset={}", encoding.name().to_lowercase()))
        }
        Format::Csv => {
            check(&value)?;
            let (body, has_header) = csv::write(&Node::parse(&value))?;
            let header = if has_header { "present" } else { "absent" };
            written(body.into_bytes(), &format!("text/csv; charset=utf-8; header={header}"))
        }
        Format::Hl7 => {
            check(&value)?;
            let body = hl7::write(&Node::parse(&value), context.event)?;
            written(body.into_bytes(), "application/hl7-v2; charset=utf-8")
        }
        Format::Form => written(write_form(&value)?.into_bytes(), "application/x-www-form-urlencoded"),
        Format::CloudEventsBinary => {
            let data = if context.has_adapter { value } else { context.payload.to_owned() };
            let headers = cloudevents::binary(context.event, context.version);
            Written { headers, ..written(data.into_bytes(), "application/json") }
        }
        Format::CloudEvents => {
            let data = if context.has_adapter { &value } else { context.payload };
            let body = cloudevents::structured(context.event, context.version, data);
            written(body.into_bytes(), "application/cloudevents+json; charset=utf-8")
        }
    })
}

/// Before a writer recurses into it.
fn check(value: &str) -> Result<(), FormatError> {
    check_nesting(value).map_err(|problem| FormatError(problem.detail))
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

    fn event() -> Event {
        Event {
            seq: crate::id::Seq(7),
            recorded_at: crate::time::Time::parse_rfc3339("2026-01-31T16:00:05.25Z").unwrap(),
            content: crate::event::Content::from_json(br#"{"id":"R-V3","version":3,"payload":1}"#, false).unwrap(),
            trace: crate::event::Trace::default(),
            content_digest: crate::id::Digest([0; 32]),
            message_uuid: uuid::Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef),
            gone: None,
        }
    }

    fn written(format: Format, value: &str) -> Result<Written, String> {
        let event = event();
        let context = Context { event: &event, version: Version(3), payload: "1", has_adapter: true };
        write(format, value.to_owned(), &context).map_err(|error| error.to_string())
    }

    fn text_of(format: Format, value: &str) -> String {
        String::from_utf8(written(format, value).unwrap().body).unwrap()
    }

    #[test]
    fn xml_has_attributes_text_lists_and_namespaces() {
        let value = r##"{"r:rule": {"@xmlns:r": "urn:r", "@id": "a\"<\n", "r:n": 9007199254740993, "r:d": ["1 < 2", null, {"@x": true, "#text": "]]>"}]}}"##;
        assert_eq!(
            text_of(Format::Xml, value),
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><r:rule xmlns:r=\"urn:r\" id=\"a&quot;&lt;&#10;\">\
             <r:n>9007199254740993</r:n><r:d>1 &lt; 2</r:d><r:d/><r:d x=\"true\">]]&gt;</r:d></r:rule>"
        );
    }

    #[test]
    fn xml_keeps_to_the_declared_encoding() {
        let body = written(Format::Xml, r#"{"?xml": {"encoding": "ISO-8859-1"}, "a": "é €"}"#).unwrap();
        assert_eq!(body.content_type, "application/xml; charset=iso-8859-1");
        assert!(body.body.ends_with(b"<a>\xe9 &#8364;</a>"));
        assert!(text_of(Format::Xml, r#"{"?xml": {"encoding": "us-ascii"}, "a": "é"}"#).ends_with("<a>&#233;</a>"));
    }

    #[test]
    fn what_xml_cannot_carry_is_refused_with_its_place() {
        for (value, part) in [
            ("[1]", "one field, the root element"),
            (r#"{"a":1,"b":2}"#, "one field, the root element"),
            (r#"{"a":[1]}"#, "a is a list"),
            (r#"{"a":{"b c":1}}"#, "a.b c is no XML name"),
            (r#"{"a":{"x:b":1}}"#, "a.x:b has the prefix x, which is not declared"),
            (r#"{"a":{"b":["ok","\u0001"]}}"#, "a.b[1] holds the character U+0001"),
            (r#"{"a":{"@b":{}}}"#, "a.@b is nested"),
            (r#"{"a":{"@b":1,"@b":2}}"#, "a.@b stands twice"),
            (r#"{"a":"\ud800"}"#, "no Unicode text"),
        ] {
            let said = written(Format::Xml, value).unwrap_err();
            assert!(said.contains(part), "{value}: {said}");
        }
    }

    #[test]
    fn csv_has_a_header_of_every_field_and_quotes_where_needed() {
        let value = r#"[{"a":1.10,"b":"x,y"},{"c":"say \"hi\"","a":null},{"b":"two\nlines","c":true}]"#;
        assert_eq!(
            text_of(Format::Csv, value),
            "a,b,c\r\n1.10,\"x,y\",\r\n,,\"say \"\"hi\"\"\"\r\n,\"two\nlines\",true\r\n"
        );
        assert_eq!(text_of(Format::Csv, r#"[[1,"a"],[""]]"#), "1,a\r\n\"\"\r\n");
        assert_eq!(written(Format::Csv, "[[1]]").unwrap().content_type, "text/csv; charset=utf-8; header=absent");
        assert!(written(Format::Csv, r#"[{"a":[1]}]"#).unwrap_err().contains("[0].a is nested"));
        assert!(written(Format::Csv, r#"[{"a":1},2]"#).unwrap_err().contains("list of maps"));
    }

    #[test]
    fn hl7_fills_in_msh_and_escapes() {
        let value = r#"[{"segment":"NTE","1":"1","3":"a|b^c\\"},{"segment":"ZRU","2":["X",["s","t"]],"4.2":"c2","5.1.2":"s2","6":{"~":["r1",["r2","c"]]},"9":false}]"#;
        assert_eq!(
            text_of(Format::Hl7, value),
            "MSH|^~\\&|HMS-ESS||||20260131160005.250+0000||ZHM^Z01^ZHM_Z01|89ABCDEF0123456789AB|P|2.5.1\r\
             NTE|1||a\\F\\b\\S\\c\\E\\\rZRU||X^s&t||^c2|&s2|r1~r2^c|||N\r"
                .replace("89ABCDEF0123456789AB", "CDEF0123456789ABCDEF")
        );
    }

    #[test]
    fn hl7_takes_the_adapters_msh_but_never_its_mark() {
        let value = r#"[{"segment":"MSH","3":"AOC","9":["MFN","M02"],"11":"T"},{"segment":"NTE","3":"é"}]"#;
        let text = text_of(Format::Hl7, value);
        assert!(
            text.starts_with("MSH|^~\\&|AOC|")
                && text.contains("|MFN^M02|")
                && text.contains("|T|2.5.1||||||UNICODE UTF-8\r"),
            "{text}"
        );
        let mut event = event();
        event.content.test = true;
        let context = Context { event: &event, version: Version(3), payload: "1", has_adapter: true };
        let written = write(Format::Hl7, r#"[{"segment":"MSH","11":"P"}]"#.to_owned(), &context).unwrap();
        assert!(String::from_utf8(written.body).unwrap().contains("|T|2.5.1\r"));
    }

    #[test]
    fn what_hl7_cannot_carry_is_refused_with_its_place() {
        for (value, part) in [
            ("{}", "a list of segments"),
            ("[]", "a list of segments"),
            (r#"[{"3":"x"}]"#, "[0] has no field"),
            (r#"[{"segment":"nte"}]"#, "three capital letters"),
            (r#"[{"segment":"NTE","0":"x"}]"#, "[0].0 is no field"),
            (r#"[{"segment":"NTE","1000":"x"}]"#, "is no field"),
            (r#"[{"segment":"NTE","1":[[["x"]]]}]"#, "subcomponents"),
            (r#"[{"segment":"NTE"},{"segment":"MSH"}]"#, "[1] is MSH"),
            (r#"[{"segment":"MSH","1":"!"}]"#, "MSH-1"),
        ] {
            let said = written(Format::Hl7, value).unwrap_err();
            assert!(said.contains(part), "{value}: {said}");
        }
    }

    fn any_value() -> impl proptest::strategy::Strategy<Value = Value> {
        use proptest::prelude::*;
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-z\\PC|^~&<>\"\r\n\u{1}é€]{0,8}".prop_map(Value::from),
        ];
        scalar.prop_recursive(4, 32, 4, |inner| {
            let name = prop_oneof!["[a-z@#:~.1-9]{1,4}", Just("segment".to_owned())];
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(name, inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest::proptest! {
        #[test]
        fn any_value_is_a_body_or_an_error(value in any_value()) {
            for format in [Format::Json, Format::Xml, Format::Csv, Format::Form, Format::Text, Format::Hl7] {
                drop(written(format, &value.to_string()));
            }
        }

        #[test]
        fn csv_is_read_back_as_it_was(rows in proptest::collection::vec(proptest::collection::vec("[a-z,\"\r\n é]{0,5}", 1..4), 1..5)) {
            let text = text_of(Format::Csv, &serde_json::to_string(&rows).unwrap());
            proptest::prop_assert_eq!(read_csv(&text), rows);
        }
    }

    /// RFC 4180's grammar, as plainly as can be.
    fn read_csv(text: &str) -> Vec<Vec<String>> {
        let (mut rows, mut row, mut cell, mut in_quotes) = (Vec::new(), Vec::new(), String::new(), false);
        let mut characters = text.chars().peekable();
        while let Some(character) = characters.next() {
            match character {
                '"' if in_quotes && characters.peek() == Some(&'"') => cell.extend(characters.next()),
                '"' => in_quotes = !in_quotes,
                ',' if !in_quotes => row.push(std::mem::take(&mut cell)),
                '\r' if !in_quotes => {
                    assert_eq!(characters.next(), Some('\n'));
                    row.push(std::mem::take(&mut cell));
                    rows.push(std::mem::take(&mut row));
                }
                _ => cell.push(character),
            }
        }
        rows
    }

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
