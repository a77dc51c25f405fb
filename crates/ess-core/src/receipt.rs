//! What came back from a partner, and what its ACK policy makes of it.

use std::time::Duration;

use bytes::Bytes;

/// What came back of one attempt. A partner's failure is a receipt, never an error of ours.
#[derive(Debug, Clone)]
pub enum Receipt {
    /// An HTTP answer (or its like on another channel).
    Answer(Answer),
    /// No answer.
    Failed(Failure),
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
    /// Logging in: an OAuth token, an SSH key.
    Auth,
    /// Writing the message.
    Send,
    /// Waiting for the answer's head.
    Await,
    /// Reading the answer's body.
    Read,
}

/// What a receipt means under the partner's ACK policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The partner acknowledged.
    Acked(Evidence),
    /// Delivered; the receipt comes another way (`by: callback`).
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
