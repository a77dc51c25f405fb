//! What letters between nodes are made of: the stored shapes of words, messages and how lanes fare.
//!
//! Both ends are of this program, perhaps of another version: what is not known there is not understood, and who asked gives up.

use bytes::Bytes;
use ess_core::id::{Digest, EventId, PartnerId, PartnerNo, Subject, Version};
use ess_core::message::Message;
use ess_core::time::Time;
use serde::{Deserialize, Serialize};

use crate::acks::Word;
use crate::dead_letters::Letters;
use crate::lanes::LaneReport;

/// A partner's word.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Said {
    event: String,
    test: bool,
    digest: Option<[u8; 32]>,
    /// A refusal, and whether it may pass.
    refusal: Option<(String, bool)>,
}

/// Which dead letters.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Chosen {
    partner: Option<String>,
    event: Option<String>,
    matching: Option<String>,
}

/// How a lane fares.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Fares {
    partner: PartnerNo,
    in_flight: u32,
    offline_since: Option<Time>,
    last_error: Option<String>,
}

/// A message of an inbox.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Taken {
    id: String,
    event_id: String,
    subject: String,
    version: u32,
    content_type: String,
    headers: Vec<(String, String)>,
    /// Text as it is, other bytes as numbers.
    text: Option<String>,
    bytes: Vec<u8>,
    test: bool,
    replay: bool,
    partner_seq: Option<u64>,
    attempt: u32,
}

impl Said {
    pub(super) fn of(word: &Word) -> Self {
        match word {
            Word::Ack { event, test, digest } => {
                Self { event: event.to_string(), test: *test, digest: digest.map(|digest| digest.0), refusal: None }
            }
            Word::Nack { event, test, reason, retryable } => Self {
                event: event.to_string(),
                test: *test,
                digest: None,
                refusal: Some((reason.clone(), *retryable)),
            },
        }
    }

    pub(super) fn into_word(self) -> Word {
        let (event, test) = (EventId::trusted(&self.event), self.test);
        match self.refusal {
            None => Word::Ack { event, test, digest: self.digest.map(Digest) },
            Some((reason, retryable)) => Word::Nack { event, test, reason, retryable },
        }
    }
}

impl From<&Letters> for Chosen {
    fn from(letters: &Letters) -> Self {
        Self {
            partner: letters.partner.as_ref().map(ToString::to_string),
            event: letters.event.as_ref().map(ToString::to_string),
            matching: letters.matching.clone(),
        }
    }
}

impl From<Chosen> for Letters {
    fn from(chosen: Chosen) -> Self {
        Self {
            partner: chosen.partner.as_deref().map(PartnerId::trusted),
            event: chosen.event.as_deref().map(EventId::trusted),
            matching: chosen.matching,
        }
    }
}

impl From<Message> for Taken {
    fn from(message: Message) -> Self {
        let (text, bytes) = match String::from_utf8(message.body.to_vec()) {
            Ok(text) => (Some(text), Vec::new()),
            Err(error) => (None, error.into_bytes()),
        };
        Self {
            id: message.id,
            event_id: message.event_id.to_string(),
            subject: message.subject.to_string(),
            version: message.version.0,
            content_type: message.content_type,
            headers: message.headers,
            text,
            bytes,
            test: message.test,
            replay: message.replay,
            partner_seq: message.partner_seq,
            attempt: message.attempt,
        }
    }
}

impl From<Taken> for Message {
    fn from(taken: Taken) -> Self {
        let body = taken.text.map_or_else(|| Bytes::from(taken.bytes), Bytes::from);
        Self {
            id: taken.id,
            event_id: EventId::trusted(&taken.event_id),
            subject: Subject::trusted(&taken.subject),
            version: Version(taken.version),
            // Names of files are made where the lane is.
            extension: "",
            content_type: taken.content_type,
            headers: taken.headers,
            body_digest: Digest::of(&body),
            body,
            test: taken.test,
            replay: taken.replay,
            partner_seq: taken.partner_seq,
            attempt: taken.attempt,
        }
    }
}

impl From<(PartnerNo, LaneReport)> for Fares {
    fn from((partner, report): (PartnerNo, LaneReport)) -> Self {
        let LaneReport { in_flight, offline_since, last_error } = report;
        Self { partner, in_flight, offline_since, last_error }
    }
}

impl From<Fares> for (PartnerNo, LaneReport) {
    fn from(Fares { partner, in_flight, offline_since, last_error }: Fares) -> Self {
        (partner, LaneReport { in_flight, offline_since, last_error })
    }
}
