//! A message as a mail to people: subject, text and page, with the event's content in words and the link that acknowledges it.
//!
//! The same message gives the same letter. What stands in a payload is text here: it never becomes markup, a link or a second line
//! of the subject.

use serde_json::Value;

use crate::limits::{LETTER_CHARS_MAX, SUBJECT_LINE_CHARS_MAX};
use crate::message::Message;
use crate::receipt::words;

/// The header by which a message carries the link that acknowledges it.
pub const ACK_LINK: &str = "x-hms-ack-link";

/// A letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// One line.
    pub subject: String,
    /// The text.
    pub text: String,
    /// The same as a page: no styles, no pictures, nothing to fetch.
    pub html: String,
}

impl Letter {
    /// The letter of a message. `link` is where its recipient acknowledges or refuses it.
    #[must_use]
    pub fn of(message: &Message, link: Option<&str>) -> Self {
        let mut about = vec![
            ("Event", message.event_id.to_string()),
            ("Subject", message.subject.to_string()),
            ("Version", message.version.to_string()),
        ];
        let content = match serde_json::from_slice::<Value>(&message.body) {
            Ok(Value::Object(mut envelope)) if envelope.get("payload").is_some_and(Value::is_object) => {
                for (name, word) in [("effective", "Effective"), ("expires", "Expires"), ("source", "Source")] {
                    if let Some(Value::String(text)) = envelope.get(name) {
                        about.push((word, words(text)));
                    }
                }
                told(&envelope.remove("payload").unwrap_or_default())
            }
            Ok(value) => told(&value),
            Err(_) => bounded(&String::from_utf8_lossy(&message.body)),
        };
        let mut notes = Vec::new();
        if message.test {
            notes.push("This is a test. Do not act on it.");
        }
        if message.replay {
            notes.push("This event was sent before and is sent again.");
        }
        let ask = "Please say that you have received it, or why you refuse it:";
        let attached = format!("The whole message is attached as {}.", message.file_name());

        let mut text = String::new();
        let mut html = String::from("<!doctype html>\n<html><body>\n");
        for note in notes {
            text.push_str(&format!("{note}\n\n"));
            html.push_str(&format!("<p><strong>{note}</strong></p>\n"));
        }
        html.push_str("<table>\n");
        for (name, value) in &about {
            text.push_str(&format!("{name}: {value}\n"));
            html.push_str(&format!("<tr><td>{name}</td><td>{}</td></tr>\n", escaped(value)));
        }
        text.push_str(&format!("\n{content}\n\n"));
        html.push_str(&format!("</table>\n<pre>{}</pre>\n", escaped(&content)));
        if let Some(link) = link {
            text.push_str(&format!("{ask}\n{link}\n\n"));
            let link = escaped(link);
            html.push_str(&format!("<p>{ask}<br><a href=\"{link}\">{link}</a></p>\n"));
        }
        text.push_str(&format!("{attached}\n"));
        html.push_str(&format!("<p>{}</p>\n</body></html>\n", escaped(&attached)));
        Self { subject: subject_line(message), text, html }
    }
}

fn subject_line(message: &Message) -> String {
    let mark = if message.test { "[TEST] " } else { "" };
    let line = format!("{mark}{}: {}", message.subject, message.event_id);
    words(&line).chars().take(SUBJECT_LINE_CHARS_MAX).collect()
}

/// A value as lines, `name: value`, deeper ones further in.
fn told(value: &Value) -> String {
    let mut lines = String::new();
    tell(value, 0, &mut lines);
    bounded(lines.trim_end())
}

fn tell(value: &Value, depth: usize, lines: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                tell_named(&format!("{indent}{}:", words(name)), value, depth, lines);
            }
        }
        Value::Array(items) => {
            for item in items {
                tell_named(&format!("{indent}-"), item, depth, lines);
            }
        }
        plain => lines.push_str(&format!("{indent}{}\n", plain_text(plain, &indent))),
    }
}

fn tell_named(name: &str, value: &Value, depth: usize, lines: &mut String) {
    // What is cut off stands in the attachment.
    if lines.len() > LETTER_CHARS_MAX * 4 {
        return;
    }
    let is_deep = matches!(value, Value::Object(fields) if !fields.is_empty())
        || matches!(value, Value::Array(items) if !items.is_empty());
    if is_deep {
        lines.push_str(&format!("{name}\n"));
        tell(value, depth + 1, lines);
    } else {
        lines.push_str(&format!("{name} {}\n", plain_text(value, &"  ".repeat(depth + 1))));
    }
}

fn plain_text(value: &Value, indent: &str) -> String {
    match value {
        Value::String(text) => printable(text).replace('\n', &format!("\n{indent}")),
        Value::Null => "(none)".to_owned(),
        Value::Bool(is_true) => (if *is_true { "yes" } else { "no" }).to_owned(),
        Value::Object(_) | Value::Array(_) => "(empty)".to_owned(),
        number => number.to_string(),
    }
}

/// Line ends stay; other control characters, and those that turn the direction of a text, do not.
fn printable(text: &str) -> String {
    let is_turning = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.replace("\r\n", "\n")
        .chars()
        .map(|c| if c != '\n' && (c.is_control() || is_turning(c)) { ' ' } else { c })
        .collect()
}

fn bounded(text: &str) -> String {
    let mut bounded: String = printable(&text.chars().take(LETTER_CHARS_MAX).collect::<String>());
    if text.chars().nth(LETTER_CHARS_MAX).is_some() {
        bounded.push_str("\n(the rest is in the attachment)");
    }
    bounded
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::id::{Digest, EventId, Subject, Version};

    fn message(body: &str) -> Message {
        let body = Bytes::copy_from_slice(body.as_bytes());
        Message {
            id: "msg_1".to_owned(),
            event_id: EventId::trusted("RULE-X-V3"),
            subject: Subject::trusted("RULE-X"),
            version: Version(2),
            extension: "json",
            content_type: "application/json".to_owned(),
            headers: Vec::new(),
            body_digest: Digest::of(&body),
            body,
            test: false,
            replay: false,
            partner_seq: None,
            attempt: 1,
        }
    }

    #[test]
    fn a_letter_says_the_payload_in_words() {
        let body = r#"{"id":"RULE-X-V3","effective":"2027-01-01","payload":{"county":"Cook","days":[14,21],"note":"a\nb","fee":{"usd":3.5},"old":null,"none":[]}}"#;
        let letter = Letter::of(&message(body), Some("https://hub.example/ack/x"));
        insta::assert_snapshot!(letter.text, @r"
        Event: RULE-X-V3
        Subject: RULE-X
        Version: 2
        Effective: 2027-01-01

        county: Cook
        days:
          - 14
          - 21
        note: a
          b
        fee:
          usd: 3.5
        old: (none)
        none: (empty)

        Please say that you have received it, or why you refuse it:
        https://hub.example/ack/x

        The whole message is attached as RULE-X-V3.v2.json.
        ");
        assert_eq!(letter.subject, "RULE-X: RULE-X-V3");
        assert!(letter.html.contains(r#"<a href="https://hub.example/ack/x">"#), "{}", letter.html);
    }

    #[test]
    fn what_a_payload_holds_is_text_and_bounded() {
        let letter = Letter::of(&message(r#"{"payload":{"a":"<script>alert(1)</script>\u202e\u0007"}}"#), None);
        assert!(!letter.html.contains("<script>") && letter.html.contains("&lt;script&gt;"), "{}", letter.html);
        assert!(!letter.text.contains(['\u{202e}', '\u{7}']) && !letter.text.contains("Please say"));
        let long = Letter::of(&message(&format!("\"{}\"", "x".repeat(1_000_000))), None);
        assert!(long.text.len() < LETTER_CHARS_MAX + 1_000 && long.text.contains("(the rest is in the attachment)"));
        let hl7 = Letter::of(&message("MSH|^~\\&|HMS"), None);
        assert!(hl7.text.contains("MSH|^~\\&|HMS") && hl7.html.contains("MSH|^~\\&amp;|HMS"));
    }

    #[test]
    fn a_dry_run_is_marked_in_the_subject_and_in_the_first_line() {
        let letter = Letter::of(&Message { test: true, replay: true, ..message("{}") }, None);
        assert_eq!(letter.subject, "[TEST] RULE-X: RULE-X-V3");
        assert!(letter.text.starts_with("This is a test. Do not act on it.\n"));
        assert!(letter.text.contains("sent again"));
    }
}
