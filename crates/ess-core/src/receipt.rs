//! What came back from a partner, and what its ACK policy makes of it.

use std::time::Duration;

use bytes::Bytes;

use crate::id::{Digest, EventId, PartnerId};
use crate::json::Fields;
use crate::limits::{RETRY_AFTER_MAX, WORDS_CHARS_MAX};
use crate::partner::{AckBy, AckPolicy};
use crate::problem::{Code, Problem};

/// What came back of one attempt. A partner's failure is a receipt, never an error of ours.
#[derive(Debug, Clone)]
pub enum Receipt {
    /// An HTTP answer.
    Answer(Answer),
    /// The protocol's own confirmation: a finished rename or put, a PUBACK, a broker's confirm, SMTP's 250.
    Confirmed,
    /// On its way, and nobody has said a word yet: whatever the policy, the partner's word comes later.
    Taken,
    /// The partner's own word in the protocol's form, such as HL7's MSA.
    Said(Said),
    /// A refusal that no further attempt will change.
    Refused {
        /// One line for people, as in a failure.
        reason: String,
    },
    /// No answer, or one that is worth another attempt.
    Failed(Failure),
}

/// A partner's word about the message that it was just given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// It has it.
    Ack,
    /// It refuses it for good.
    Nack {
        /// Its words.
        reason: String,
    },
    /// It refuses it for now.
    Retry {
        /// Its words.
        reason: String,
    },
}

/// An HTTP answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status code.
    pub status: u16,
    /// The body's first 64 KiB.
    pub body: Bytes,
    /// `Retry-After`, as a span from now.
    pub retry_after: Option<Duration>,
}

/// Why there was no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Where the attempt ended.
    pub stage: Stage,
    /// One line for people: lower case, no secrets, at most 300 characters.
    pub reason: String,
}

/// The steps of an attempt, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Finding the address.
    Resolve,
    /// The address is one that the hub may not dial.
    Guard,
    /// TCP.
    Connect,
    /// TLS handshake.
    Tls,
    /// Greeting and logging in: an OAuth token, an SSH handshake and key, a broker's CONNACK.
    Auth,
    /// Writing the message.
    Send,
    /// Waiting for the answer's head, or for the protocol's confirmation.
    Await,
    /// Reading the answer's body.
    Read,
}

impl Receipt {
    /// Whether the partner may have got the message: false only when the attempt ended before anything was written.
    #[must_use]
    pub fn may_have_arrived(&self) -> bool {
        match self {
            Receipt::Failed(failure) => failure.stage >= Stage::Send,
            Receipt::Answer(_) | Receipt::Confirmed | Receipt::Taken | Receipt::Said(_) | Receipt::Refused { .. } => {
                true
            }
        }
    }
}

/// What a receipt means under the partner's ACK policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The partner acknowledged.
    Acked(Evidence),
    /// Delivered; the receipt comes another way (`by: callback`, a file, a topic).
    Received,
    /// Delivered, but the answer held no ACK.
    Unacknowledged {
        /// What came instead, and the hint.
        reason: String,
    },
    /// The partner refuses the event for good.
    Nack {
        /// The partner's words, bounded.
        reason: String,
    },
    /// Worth another attempt.
    Retry {
        /// Why.
        reason: String,
        /// Not before, by the partner's own word.
        retry_after: Option<Duration>,
    },
    /// A permanent refusal by status: no attempt will help.
    Refused {
        /// Why.
        reason: String,
    },
    /// HTTP 410: the address is gone; the partner is to be paused.
    Gone {
        /// Why.
        reason: String,
    },
}

/// How an ACK is evidenced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Evidence {
    /// `{"ack": id}` in the answer.
    Body,
    /// The status (or the protocol's own confirmation).
    Status,
    /// `POST /v1/acks` with the partner's token.
    Callback,
    /// A receipt file or object.
    File,
    /// A message on the ACK topic.
    Topic,
}

impl Evidence {
    /// The word for it in the API and the ledger.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Body => "body",
            Self::Status => "status",
            Self::Callback => "callback",
            Self::File => "file",
            Self::Topic => "topic",
        }
    }
}

impl Verdict {
    /// What the receipt means under this policy, for this event and these bytes.
    #[must_use]
    pub fn of(receipt: &Receipt, policy: &AckPolicy, event: &EventId, sent: &Digest) -> Self {
        let answer = match receipt {
            Receipt::Answer(answer) => answer,
            Receipt::Confirmed => return of_confirmation(policy),
            Receipt::Taken => return Verdict::Received,
            Receipt::Said(Said::Ack) => return Verdict::Acked(Evidence::Body),
            Receipt::Said(Said::Nack { reason }) => return Verdict::Nack { reason: words(reason) },
            Receipt::Said(Said::Retry { reason }) => {
                return Verdict::Retry { reason: format!("nack: {}", words(reason)), retry_after: None };
            }
            Receipt::Refused { reason } => return Verdict::Refused { reason: words(reason) },
            Receipt::Failed(failure) => {
                return Verdict::Retry { reason: words(&failure.reason), retry_after: None };
            }
        };
        let status = answer.status;
        match status {
            200..=299 => of_success(answer, policy, event, sent),
            300..=399 => {
                Verdict::Refused { reason: format!("status {status}: redirects are not followed; correct the url") }
            }
            408 | 425 | 429 | 500..=599 => Verdict::Retry {
                reason: with_words(status, &answer.body),
                retry_after: answer.retry_after.map(|span| span.min(RETRY_AFTER_MAX)),
            },
            410 => Verdict::Gone { reason: with_words(status, &answer.body) },
            _ => Verdict::Refused { reason: with_words(status, &answer.body) },
        }
    }
}

/// The protocol says that the message arrived; whether that is the receipt is the policy's to say.
fn of_confirmation(policy: &AckPolicy) -> Verdict {
    match policy.by {
        AckBy::Status => Verdict::Acked(Evidence::Status),
        AckBy::Callback | AckBy::File | AckBy::Topic => Verdict::Received,
        AckBy::Body => Verdict::Unacknowledged {
            reason: "delivered without the partner's word; if that is the receipt, set `ack: {by: status}`".to_owned(),
        },
    }
}

fn of_success(answer: &Answer, policy: &AckPolicy, event: &EventId, sent: &Digest) -> Verdict {
    // A refusal in the body counts under every policy: the partner said so.
    let word = AckWord::in_answer(&answer.body);
    if let Ok(AckWord::Nack { event: named, reason, retryable, .. }) = &word
        && named == event
    {
        return if *retryable {
            let retry_after = answer.retry_after.map(|span| span.min(RETRY_AFTER_MAX));
            Verdict::Retry { reason: format!("nack: {reason}"), retry_after }
        } else {
            Verdict::Nack { reason: reason.clone() }
        };
    }
    match policy.by {
        AckBy::Status => Verdict::Acked(Evidence::Status),
        AckBy::Callback | AckBy::File | AckBy::Topic => match word {
            // Nothing speaks against saying it at once.
            Ok(AckWord::Ack { event: named, .. }) if named == *event => Verdict::Acked(Evidence::Body),
            _ => Verdict::Received,
        },
        AckBy::Body => match word {
            Ok(AckWord::Ack { event: named, digest, .. }) if named == *event => match digest {
                Some(digest) if digest != *sent => Verdict::Unacknowledged {
                    reason: format!("the ACK is for other bytes: it names sha-256 {digest}, sent were {sent}"),
                },
                _ => Verdict::Acked(Evidence::Body),
            },
            Ok(AckWord::Ack { event: named, .. } | AckWord::Nack { event: named, .. }) => Verdict::Unacknowledged {
                reason: format!("status {}: the receipt is for {named}, not for {event}", answer.status),
            },
            Err(_) => Verdict::Unacknowledged {
                reason: format!(
                    "status {} without an ACK: expected {{\"ack\": \"{event}\"}} in the body; if a 2xx is the receipt, set `ack: {{by: status}}`",
                    answer.status
                ),
            },
        },
    }
}

/// What a partner says of an event, in an answer's body or through `POST /v1/acks`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AckWord {
    /// `{"ack": id}`.
    Ack {
        /// The event.
        event: EventId,
        /// A dry run.
        test: bool,
        /// `sha-256=…` of the bytes that the partner got.
        digest: Option<Digest>,
        /// For whom, when an operator says it.
        partner: Option<PartnerId>,
    },
    /// `{"nack": id, "reason": …, "retryable": …}`.
    Nack {
        /// The event.
        event: EventId,
        /// A dry run.
        test: bool,
        /// Why.
        reason: String,
        /// Worth another attempt.
        retryable: bool,
        /// For whom, when an operator says it.
        partner: Option<PartnerId>,
    },
}

impl AckWord {
    /// Reads a partner's word. Other fields are left alone: partners answer with what they have.
    ///
    /// # Errors
    /// Not JSON, neither `ack` nor `nack`, or an id that is none.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        let fields = Self::fields(body)?;
        let partner = text_of(&fields, "partner").map(|id| PartnerId::parse(&id)).transpose()?;
        Self::of(&fields, partner)
    }

    /// Reads the word in an answer. Who speaks is known, so a `partner` there is one of the partner's own fields, whatever it holds.
    ///
    /// # Errors
    /// As for `parse`.
    pub fn in_answer(body: &[u8]) -> Result<Self, Problem> {
        let partner = None;
        Self::of(&Self::fields(body)?, partner)
    }

    fn fields(body: &[u8]) -> Result<Fields<'_>, Problem> {
        Fields::parse(body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body))
    }

    fn of(fields: &Fields<'_>, partner: Option<PartnerId>) -> Result<Self, Problem> {
        let text = |name: &str| text_of(fields, name);
        let is_true = |name: &str| fields.0.iter().any(|(known, value)| known == name && value.get() == "true");
        let test = is_true("test");
        if let Some(event) = text("ack") {
            let digest = text("digest").and_then(|digest| Digest::parse(digest.strip_prefix("sha-256=")?));
            return Ok(AckWord::Ack { event: EventId::parse(&event)?, test, digest, partner });
        }
        if let Some(event) = text("nack") {
            let reason = words(&text("reason").unwrap_or_else(|| "no reason given".to_owned()));
            let retryable = is_true("retryable");
            return Ok(AckWord::Nack { event: EventId::parse(&event)?, test, reason, retryable, partner });
        }
        Err(Problem::new(
            Code::Invalid,
            "expected {\"ack\": \"<event id>\"} or {\"nack\": \"<event id>\", \"reason\": …}",
        )
        .with_field("ack"))
    }
}

/// What the content of a receipt file, object or message on a receipt topic says of the event that its name or topic
/// names. Its being there is the ACK, as with the empty files that batch systems leave; only a document that says `nack`
/// is a refusal. One that speaks of another event is neither.
///
/// # Errors
/// It names another event; the text says which.
pub fn read_receipt(content: &[u8], event: &EventId) -> Result<Said, String> {
    let (named, said) = match AckWord::in_answer(content) {
        Ok(AckWord::Ack { event, .. }) => (event, Said::Ack),
        Ok(AckWord::Nack { event, reason, retryable: false, .. }) => (event, Said::Nack { reason }),
        Ok(AckWord::Nack { event, reason, retryable: true, .. }) => (event, Said::Retry { reason }),
        Err(_) => return Ok(Said::Ack),
    };
    if named == *event { Ok(said) } else { Err(format!("the receipt for {event} speaks of {named}")) }
}

fn text_of(fields: &Fields<'_>, name: &str) -> Option<String> {
    let (_, value) = fields.0.iter().find(|(known, _)| known == name)?;
    serde_json::from_str(value.get()).ok()
}

/// A partner's words, short and printable.
#[must_use]
pub fn words(text: &str) -> String {
    text.chars()
        .take(WORDS_CHARS_MAX)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect::<String>()
        .trim()
        .to_owned()
}

fn with_words(status: u16, body: &[u8]) -> String {
    let said = words(&String::from_utf8_lossy(&body[..body.len().min(4 * WORDS_CHARS_MAX)]));
    if said.is_empty() { format!("status {status}") } else { words(&format!("status {status}: {said}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(by: AckBy) -> AckPolicy {
        AckPolicy { by, within: Duration::from_secs(30), resend: 3, place: None }
    }

    fn judge(by: AckBy, status: u16, body: &str) -> Verdict {
        let receipt =
            Receipt::Answer(Answer { status, body: Bytes::copy_from_slice(body.as_bytes()), retry_after: None });
        Verdict::of(&receipt, &policy(by), &EventId::trusted("R-V3"), &Digest([1; 32]))
    }

    #[test]
    fn a_2xx_is_judged_by_policy() {
        assert_eq!(judge(AckBy::Body, 200, r#"{"ack":"R-V3"}"#), Verdict::Acked(Evidence::Body));
        assert_eq!(judge(AckBy::Body, 201, "\u{feff} {\"ok\":1, \"ack\": \"R-V3\"}\n"), Verdict::Acked(Evidence::Body));
        assert!(matches!(judge(AckBy::Body, 200, "thanks"), Verdict::Unacknowledged { .. }));
        assert!(matches!(judge(AckBy::Body, 200, r#"{"ack":"R-V2"}"#), Verdict::Unacknowledged { .. }));
        assert_eq!(judge(AckBy::Status, 204, ""), Verdict::Acked(Evidence::Status));
        assert_eq!(judge(AckBy::Callback, 202, ""), Verdict::Received);
        let other = format!(r#"{{"ack":"R-V3","digest":"sha-256={}"}}"#, Digest([2; 32]));
        assert!(matches!(judge(AckBy::Body, 200, &other), Verdict::Unacknowledged { .. }));
        let same = format!(r#"{{"ack":"R-V3","digest":"sha-256={}"}}"#, Digest([1; 32]));
        assert_eq!(judge(AckBy::Body, 200, &same), Verdict::Acked(Evidence::Body));
    }

    #[test]
    fn a_nack_ends_or_retries_as_it_says() {
        let nack = r#"{"nack":"R-V3","reason":"unknown county"}"#;
        assert_eq!(judge(AckBy::Status, 200, nack), Verdict::Nack { reason: "unknown county".to_owned() });
        let again = r#"{"nack":"R-V3","reason":"busy","retryable":true}"#;
        assert!(matches!(judge(AckBy::Body, 200, again), Verdict::Retry { .. }));
    }

    #[test]
    fn a_protocols_own_confirmation_is_judged_by_policy() {
        let of = |receipt: Receipt, by: AckBy| {
            Verdict::of(&receipt, &policy(by), &EventId::trusted("R-V3"), &Digest([1; 32]))
        };
        assert_eq!(of(Receipt::Confirmed, AckBy::Status), Verdict::Acked(Evidence::Status));
        assert_eq!(of(Receipt::Confirmed, AckBy::File), Verdict::Received);
        assert!(matches!(of(Receipt::Confirmed, AckBy::Body), Verdict::Unacknowledged { .. }));
        assert_eq!(of(Receipt::Taken, AckBy::Status), Verdict::Received);
        assert_eq!(of(Receipt::Said(Said::Ack), AckBy::Body), Verdict::Acked(Evidence::Body));
        let reason = "no\nsuch court".to_owned();
        let nack = Verdict::Nack { reason: "no such court".to_owned() };
        assert_eq!(of(Receipt::Said(Said::Nack { reason: reason.clone() }), AckBy::Status), nack);
        assert!(matches!(
            of(Receipt::Said(Said::Retry { reason: reason.clone() }), AckBy::Body),
            Verdict::Retry { .. }
        ));
        assert!(matches!(of(Receipt::Refused { reason }, AckBy::Status), Verdict::Refused { .. }));
    }

    #[test]
    fn a_receipt_file_is_an_ack_unless_it_says_nack() {
        let read = |content: &str| read_receipt(content.as_bytes(), &EventId::trusted("R-V3"));
        for content in ["", " \n", "received 2026-11-26", r#"{"ack":"R-V3"}"#, "{}", r#"{"nack": 7}"#, "\u{feff}"] {
            assert_eq!(read(content), Ok(Said::Ack), "{content}");
        }
        let refused = Said::Nack { reason: "unknown county".to_owned() };
        assert_eq!(read(r#"{"nack":"R-V3","reason":"unknown county"}"#), Ok(refused));
        assert!(matches!(read(r#"{"nack":"R-V3","retryable":true}"#), Ok(Said::Retry { .. })));
        assert!(read(r#"{"ack":"R-V2"}"#).unwrap_err().contains("R-V2"));
        assert!(read(r#"{"nack":"R-V2"}"#).is_err());
    }

    #[test]
    fn a_partners_own_fields_do_not_spoil_its_ack() {
        let ack = r#"{"ack":"R-V3","partner":"Court Calendar Inc."}"#;
        assert_eq!(judge(AckBy::Body, 200, ack), Verdict::Acked(Evidence::Body));
        assert!(AckWord::parse(ack.as_bytes()).is_err());
    }

    #[test]
    fn a_nack_cannot_put_the_next_attempt_off_for_years() {
        let body = Bytes::from_static(br#"{"nack":"R-V3","reason":"busy","retryable":true}"#);
        let retry_after = Some(Duration::from_secs(365 * 86_400));
        let receipt = Receipt::Answer(Answer { status: 200, body, retry_after });
        let verdict = Verdict::of(&receipt, &policy(AckBy::Body), &EventId::trusted("R-V3"), &Digest([1; 32]));
        assert!(matches!(verdict, Verdict::Retry { retry_after: Some(RETRY_AFTER_MAX), .. }));
    }

    #[test]
    fn statuses_mean_what_the_contract_says() {
        for status in [408, 425, 429, 500, 502, 503, 504, 599] {
            assert!(matches!(judge(AckBy::Body, status, ""), Verdict::Retry { .. }), "{status}");
        }
        for status in [301, 302, 307, 400, 401, 403, 404, 409, 422] {
            assert!(matches!(judge(AckBy::Body, status, ""), Verdict::Refused { .. }), "{status}");
        }
        assert!(matches!(judge(AckBy::Body, 410, ""), Verdict::Gone { .. }));
    }

    proptest::proptest! {
        #[test]
        fn any_answer_has_a_verdict(status in 100u16..600, body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let receipt = Receipt::Answer(Answer { status, body: body.into(), retry_after: None });
            let _ = Verdict::of(&receipt, &policy(AckBy::Body), &EventId::trusted("R-V3"), &Digest([1; 32]));
        }
    }
}
