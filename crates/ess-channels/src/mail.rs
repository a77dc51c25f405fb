//! A mail as it travels: RFC 5322 with MIME, in ASCII lines of bounded length whatever its text is.
//!
//! Both parts are base64, so that no line is too long, none begins with a dot and no relay changes them; what stands in the head is
//! ASCII or an encoded word (RFC 2047). Nothing that was given can end a line of the head.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ess_core::time::Time;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;

/// Bytes of an encoded word's text: with its frame within the 75 characters of RFC 2047.
const WORD_BYTES_MAX: usize = 42;
/// Characters of base64 in a line (RFC 2045: 76).
const LINE_CHARS_MAX: usize = 76;

/// A mail. Addresses are `local@domain` in ASCII.
#[derive(Debug, Clone)]
pub struct Mail {
    /// Its id without the domain: the same for all tries.
    pub id: String,
    /// The sender.
    pub from: String,
    /// The recipients.
    pub to: Vec<String>,
    /// One line.
    pub subject: String,
    /// The text.
    pub text: String,
    /// The same as a page.
    pub html: Option<String>,
    /// What goes along.
    pub attachment: Option<Attachment>,
    /// More fields of the head, such as `X-HMS-Event-Id`.
    pub headers: Vec<(String, String)>,
    /// When it was written.
    pub at: Time,
}

/// A file that goes along with a mail.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// Its name.
    pub name: String,
    /// Its media type.
    pub media_type: String,
    /// Its content.
    pub bytes: Bytes,
}

impl Mail {
    /// The bytes between `DATA` and the final dot.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let domain = self.from.split_once('@').map_or("localhost", |(_, domain)| domain);
        let id: String = self.id.chars().filter(|c| c.is_ascii_alphanumeric() || "._-".contains(*c)).collect();
        let mut head = String::new();
        let mut field = |name: &str, value: &str| head.push_str(&format!("{name}: {}\r\n", one_line(value)));
        field("From", &self.from);
        field("To", &self.to.join(",\r\n "));
        field("Subject", &encoded(&self.subject));
        field("Date", &date(self.at));
        field("Message-ID", &format!("<{id}@{domain}>"));
        field("MIME-Version", "1.0");
        // RFC 3834: nobody's absence note answers a program.
        field("Auto-Submitted", "auto-generated");
        for (name, value) in &self.headers {
            field(name, &encoded(value));
        }
        let words = self.words(&id);
        let whole = match &self.attachment {
            None => words,
            Some(attachment) => multipart("mixed", &id, &[words, attached(attachment)]),
        };
        format!("{head}{whole}").into_bytes()
    }

    /// The text, and the page beside it.
    fn words(&self, id: &str) -> String {
        let text = part("text/plain", &self.text);
        match &self.html {
            None => text,
            Some(html) => multipart("alternative", id, &[text, part("text/html", html)]),
        }
    }
}

/// Parts one after the other. Their lines are base64, so that none of them can be taken for the boundary.
fn multipart(kind: &str, id: &str, parts: &[String]) -> String {
    let boundary: String = format!("=_{}_{id}", &kind[..1]).chars().take(60).collect();
    let mut whole = format!("Content-Type: multipart/{kind};\r\n boundary=\"{boundary}\"\r\n\r\n");
    for part in parts {
        whole.push_str(&format!("--{boundary}\r\n{part}"));
    }
    whole.push_str(&format!("--{boundary}--\r\n"));
    whole
}

/// A file as a part; its name is one that needs no quoting rules of its own, its type is folded as it may be long.
fn attached(attachment: &Attachment) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-:".contains(c);
    let name: String = attachment.name.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
    let is_printable = |c: char| c.is_ascii_graphic() || c == ' ';
    let media_type: String = attachment.media_type.chars().filter(|c| is_printable(*c)).collect();
    let media_type = media_type.replace("; ", ";\r\n ");
    let head = format!(
        "Content-Type: {media_type}\r\nContent-Disposition: attachment;\r\n filename=\"{name}\"\r\n\
         Content-Transfer-Encoding: base64\r\n\r\n"
    );
    head + &lines(&attachment.bytes)
}

fn part(media_type: &str, text: &str) -> String {
    let head = format!("Content-Type: {media_type}; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n");
    head + &lines(text.replace("\r\n", "\n").replace('\n', "\r\n").as_bytes())
}

/// Base64 in lines.
fn lines(bytes: &[u8]) -> String {
    let encoded = STANDARD.encode(bytes);
    let mut lines = String::with_capacity(encoded.len() + encoded.len() / 32 + 2);
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(LINE_CHARS_MAX));
        lines.push_str(line);
        lines.push_str("\r\n");
        rest = more;
    }
    lines
}

/// As it is when it is short ASCII, else as encoded words on lines of their own.
fn encoded(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.is_ascii() && text.len() <= LINE_CHARS_MAX && !text.contains("=?") {
        return text;
    }
    let mut words: Vec<String> = Vec::new();
    let mut word = String::new();
    for character in text.chars() {
        if word.len() + character.len_utf8() > WORD_BYTES_MAX {
            words.push(std::mem::take(&mut word));
        }
        word.push(character);
    }
    words.push(word);
    let words: Vec<String> = words.iter().map(|word| format!("=?utf-8?B?{}?=", STANDARD.encode(word))).collect();
    words.join("\r\n ")
}

/// A line's end is kept only where it folds a field.
fn one_line(value: &str) -> String {
    let folded = value.split("\r\n ").map(|line| line.replace(['\r', '\n'], " "));
    folded.collect::<Vec<_>>().join("\r\n ")
}

fn date(at: Time) -> String {
    let time = Timestamp::from_microsecond(at.as_micros()).unwrap_or_default();
    DateTimePrinter::new().timestamp_to_string(&time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mail(subject: &str) -> Mail {
        Mail {
            id: "ops_1".to_owned(),
            from: "hub@x.example".to_owned(),
            to: vec!["a@x.example".to_owned(), "b@x.example".to_owned()],
            subject: subject.to_owned(),
            text: "§ one\n.\ntwo".to_owned(),
            html: Some("<p>one</p>".to_owned()),
            attachment: Some(Attachment {
                name: "RULE-X.v1.json\r\nBcc: x".to_owned(),
                media_type: "application/json; charset=utf-8".to_owned(),
                bytes: Bytes::from_static(b"{}"),
            }),
            headers: vec![("X-HMS-Cause".to_owned(), "unacked".to_owned())],
            at: Time::from_micros(0),
        }
    }

    #[test]
    fn every_line_is_short_ascii_and_none_can_be_smuggled_into_the_head() {
        let long = "Gerichtsfrist geändert ".repeat(20);
        for subject in ["plain", "a\r\nBcc: all@x.example", &long, "=?utf-8?B?x?="] {
            let text = String::from_utf8(mail(subject).bytes()).unwrap();
            let head = text.split("\r\n\r\n").next().unwrap();
            assert!(!head.lines().any(|line| line.starts_with("Bcc")), "{head}");
            for line in text.split("\r\n") {
                assert!(line.len() <= 78 && line.is_ascii() && !line.contains(['\r', '\n']), "{line}");
                assert!(line != ".");
            }
        }
    }

    #[test]
    fn the_date_is_the_one_of_mails() {
        let text = String::from_utf8(mail("x").bytes()).unwrap();
        assert!(
            text.contains("Date: Thu, 1 Jan 1970 00:00:00 +0000\r\n")
                || text.contains("Date: Thu, 1 Jan 1970 00:00:00 -0000\r\n"),
            "{text}"
        );
    }
}
