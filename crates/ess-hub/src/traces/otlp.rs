//! Spans as OTLP writes them in JSON: ids in hex, times and whole numbers as text (opentelemetry-proto, `trace.proto`).

use std::fmt::Write as _;

use ess_core::time::Time;
use serde_json::{Value as Json, json};

use super::{Span, Value};

/// The body of `POST /v1/traces`.
pub(super) fn request(spans: &[Span]) -> String {
    let resource = json!({"attributes": [
        attribute("service.name", &Value::Text("hms-ess".to_owned())),
        attribute("service.version", &Value::Text(env!("CARGO_PKG_VERSION").to_owned())),
    ]});
    let spans: Vec<Json> = spans.iter().map(span).collect();
    json!({"resourceSpans": [{
        "resource": resource,
        "scopeSpans": [{"scope": {"name": "hms-ess"}, "spans": spans}],
    }]})
    .to_string()
}

fn span(span: &Span) -> Json {
    let attributes: Vec<Json> = span.attributes.iter().map(|(key, value)| attribute(key, value)).collect();
    let mut json = json!({
        "traceId": hex(&span.trace_id),
        "spanId": hex(&span.id),
        "name": span.name,
        "kind": span.role as u8,
        "startTimeUnixNano": nanos(span.began),
        "endTimeUnixNano": nanos(span.ended),
        "attributes": attributes,
        // 1 is well, 2 is an error.
        "status": match &span.error {
            Some(reason) => json!({"code": 2, "message": reason}),
            None => json!({"code": 1}),
        },
    });
    if let Some(parent) = &span.parent {
        json["parentSpanId"] = Json::from(hex(parent));
    }
    json
}

fn attribute(key: &str, value: &Value) -> Json {
    let value = match value {
        Value::Text(text) => json!({"stringValue": text}),
        Value::Number(number) => json!({"intValue": number.to_string()}),
    };
    json!({"key": key, "value": value})
}

fn nanos(time: Time) -> String {
    format!("{}000", time.as_micros())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
