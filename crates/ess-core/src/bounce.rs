//! A bounce: the mail in which a mail server says what became of another mail (RFC 3462, RFC 3464), read for what it says of ours.
//!
//! All of it is a stranger's text. Which delivery it is about is told by nothing but the link that the hub wrote into the mail and
//! that comes back with it: who never had the mail can't make one up.

use mail_parser::{Message, MessageParser, MimeHeaders as _, PartType};

use crate::letter::ACK_LINK;
use crate::limits::RECIPIENTS_MAX;
use crate::receipt::words;

/// What a mail server says about one mail of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounce {
    /// The last part of the link that stood in the mail.
    pub link: String,
    /// What became of it, for each recipient that is named.
    pub recipients: Vec<Outcome>,
}

/// What became of a mail for one recipient.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Whose.
    pub recipient: String,
    /// `failed`, `delayed`, `delivered`, `relayed` or `expanded` (RFC 3464, 2.3.3).
    pub action: String,
    /// Such as `5.1.1` (RFC 3463).
    pub status: String,
    /// The words of the server that refused it.
    pub diagnostic: String,
}

/// Why a mail says nothing about one of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BounceError {
    /// It is some other mail.
    #[error("the mail is no delivery report (multipart/report with message/delivery-status, RFC 3464)")]
    NoReport,
    /// It does not bring back the head of a mail with a link.
    #[error("the report does not bring back the head of a mail by which an event is acknowledged")]
    NoLink,
}

impl Bounce {
    /// Reads a mail. One whose end is missing is read as far as it goes.
    ///
    /// # Errors
    /// It is no report, or of a mail without a link.
    pub fn read(mail: &[u8]) -> Result<Self, BounceError> {
        let message = parser().parse(mail).ok_or(BounceError::NoReport)?;
        let (mut recipients, mut link) = (None, None);
        for part in &message.parts {
            let Some(kind) = part.content_type() else { continue };
            match (kind.ctype(), kind.subtype().unwrap_or_default(), &part.body) {
                ("message", "delivery-status" | "global-delivery-status", body) if recipients.is_none() => {
                    recipients = text_of(body).map(|text| outcomes(&text));
                }
                ("message", _, PartType::Message(returned)) if link.is_none() => link = link_of(returned),
                ("text", "rfc822-headers", body) | ("message", "global-headers", body) if link.is_none() => {
                    let head = text_of(body).unwrap_or_default();
                    link = parser().parse(head.as_bytes()).and_then(|returned| link_of(&returned));
                }
                _ => {}
            }
        }
        let recipients = recipients.filter(|found| !found.is_empty()).ok_or(BounceError::NoReport)?;
        Ok(Self { link: link.ok_or(BounceError::NoLink)?, recipients })
    }

    /// Why the mail did not arrive, if it did not arrive at somebody; a delay is no failure.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        let outcome = self.recipients.iter().find(|outcome| outcome.action == "failed")?;
        let Outcome { recipient, status, diagnostic, .. } = outcome;
        let said = if diagnostic.is_empty() { "without a reason" } else { diagnostic };
        Some(words(&format!("bounced for {recipient}: {status} {said}")))
    }
}

/// Servers fold and encode long fields (RFC 2047): they are read as text.
fn parser() -> MessageParser {
    MessageParser::new().with_mime_headers().default_header_text()
}

/// The last part of the link in a mail's head; white space is where a server folded the line.
fn link_of(returned: &Message<'_>) -> Option<String> {
    let field = returned.headers().iter().find(|field| field.name().eq_ignore_ascii_case(ACK_LINK))?;
    let link: String = field.value().as_text()?.chars().filter(|c| !c.is_whitespace()).collect();
    let (_, token) = link.rsplit_once("/ack/")?;
    (!token.is_empty()).then(|| token.to_owned())
}

fn text_of(body: &PartType<'_>) -> Option<String> {
    match body {
        PartType::Text(text) | PartType::Html(text) => Some(text.clone().into_owned()),
        PartType::Binary(bytes) | PartType::InlineBinary(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        PartType::Message(_) | PartType::Multipart(_) => None,
    }
}

/// Blocks of fields, parted by empty lines: names in small letters, folded lines joined.
fn fields(text: &str) -> Vec<Vec<(String, String)>> {
    let mut blocks: Vec<Vec<(String, String)>> = vec![Vec::new()];
    for line in text.lines() {
        let last = blocks.last_mut().and_then(|block| block.last_mut());
        match (line.starts_with([' ', '\t']), last) {
            (true, Some((_, value))) if !line.trim().is_empty() => {
                value.push(' ');
                value.push_str(line.trim());
            }
            _ if line.trim().is_empty() => blocks.push(Vec::new()),
            _ => {
                let field = line.split_once(':').map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim()));
                if let (Some((name, value)), Some(block)) = (field, blocks.last_mut()) {
                    block.push((name, value.to_owned()));
                }
            }
        }
    }
    blocks.retain(|block| !block.is_empty());
    blocks
}

/// The first block is about the mail; each other one about a recipient.
fn outcomes(text: &str) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for block in fields(text) {
        let field = |name: &str| block.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let Some(action) = field("action") else { continue };
        // `rfc822; somebody@court.example`: the type says how the rest is written.
        let after_type = |text: &str| text.split_once(';').map_or(text, |(_, rest)| rest).trim().to_owned();
        let recipient = field("final-recipient").or_else(|| field("original-recipient")).unwrap_or("a recipient");
        outcomes.push(Outcome {
            recipient: after_type(recipient),
            action: action.to_ascii_lowercase(),
            status: field("status").unwrap_or_default().to_owned(),
            diagnostic: field("diagnostic-code").map(after_type).unwrap_or_default(),
        });
        if outcomes.len() == RECIPIENTS_MAX {
            break;
        }
    }
    outcomes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(status: &str, returned: &str) -> String {
        format!(
            "From: MAILER-DAEMON@mail.example\r\nTo: hub@agency.example\r\nSubject: Undelivered Mail\r\nMIME-Version: 1.0\r\n\
             Content-Type: multipart/report; report-type=delivery-status; boundary=\"b\"\r\n\r\n\
             --b\r\nContent-Type: text/plain\r\n\r\nI'm sorry to have to inform you.\r\n\
             --b\r\nContent-Type: message/delivery-status\r\n\r\n{status}\r\n\
             --b\r\n{returned}\r\n--b--\r\n"
        )
    }

    const FAILED: &str = "Reporting-MTA: dns; mail.example\r\n\r\nFinal-Recipient: rfc822; clerk@court.example\r\n\
        Action: failed\r\nStatus: 5.1.1\r\nDiagnostic-Code: smtp; 550 5.1.1 no such\r\n user here\r\n";
    const HEAD: &str =
        "Message-ID: <msg_1@agency.example>\r\nX-HMS-Ack-Link: https://hub.example/ack/AbC-_1\r\nSubject: x\r\n";

    fn check(mail: &str, link: &str, failure: Option<&str>) {
        let bounce = Bounce::read(mail.as_bytes()).unwrap();
        assert_eq!((bounce.link.as_str(), bounce.failure().as_deref()), (link, failure), "{mail}");
    }

    #[test]
    fn a_failure_is_read_with_the_head_or_the_whole_mail_that_comes_back() {
        let failure = Some("bounced for clerk@court.example: 5.1.1 550 5.1.1 no such user here");
        let head = format!("Content-Type: text/rfc822-headers\r\n\r\n{HEAD}");
        check(&report(FAILED, &head), "AbC-_1", failure);
        let whole = format!("Content-Type: message/rfc822\r\n\r\n{HEAD}\r\nEvent: RULE\r\n");
        check(&report(FAILED, &whole), "AbC-_1", failure);
        let folded = whole.replace("/ack/AbC-_1", "/ack/AbC\r\n -_1");
        check(&report(FAILED, &folded), "AbC-_1", failure);
        let encoded = "\r\n =?utf-8?B?aHR0cHM6Ly9odWIuZXhhbXBsZS9hY2s=?=\r\n =?utf-8?B?L0FiQy1fMQ==?=";
        let encoded = whole.replace("https://hub.example/ack/AbC-_1", encoded);
        check(&report(FAILED, &encoded), "AbC-_1", failure);
        // Its end is missing.
        let mail = report(FAILED, &whole);
        check(&mail[..mail.len() - 12], "AbC-_1", failure);
    }

    #[test]
    fn a_delay_is_no_failure_and_one_failure_of_several_recipients_is() {
        let whole = format!("Content-Type: message/rfc822\r\n\r\n{HEAD}\r\n");
        let delayed = FAILED.replace("failed", "delayed").replace("5.1.1", "4.4.1");
        check(&report(&delayed, &whole), "AbC-_1", None);
        let both =
            format!("{delayed}\r\nFinal-Recipient: rfc822; b@court.example\r\nAction: FAILED\r\nStatus: 5.2.2\r\n");
        check(&report(&both, &whole), "AbC-_1", Some("bounced for b@court.example: 5.2.2 without a reason"));
    }

    #[test]
    fn other_mails_are_told_apart() {
        for mail in ["", "Subject: hello\r\n\r\nhello", "\0\0\0", "Content-Type: multipart/report; boundary=x\r\n\r\n"]
        {
            assert_eq!(Bounce::read(mail.as_bytes()), Err(BounceError::NoReport), "{mail:?}");
        }
        let other = "Content-Type: message/rfc822\r\n\r\nSubject: not ours\r\n\r\nX-HMS-Ack-Link: https://x/ack/in-the-body\r\n";
        assert_eq!(Bounce::read(report(FAILED, other).as_bytes()), Err(BounceError::NoLink));
    }

    #[test]
    fn what_a_server_says_is_one_line_of_a_bounded_length() {
        let long = FAILED.replace("no such", &"x\u{7}".repeat(10_000));
        let whole = format!("Content-Type: message/rfc822\r\n\r\n{HEAD}\r\n");
        let failure = Bounce::read(report(&long, &whole).as_bytes()).unwrap().failure().unwrap();
        assert!(failure.len() < 1_000, "{}", failure.len());
        assert!(!failure.chars().any(char::is_control));
    }
}
