//! The Ack Ledger as an auditor sees it: receipts as leaves of a Merkle tree, signed checkpoints, proofs that need no hub.
//!
//! A leaf is a receipt's line, one JSON object that a person can read and a program can hash. What is proven is what the line
//! says; nothing here knows how it is stored.

pub mod checkpoint;
pub mod export;
pub mod merkle;
pub mod packet;
pub mod proof;

use serde::{Deserialize, Serialize};

/// A receipt as the ledger's tree holds it. The order of the members is part of the form: the line is hashed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// The event's id.
    pub event: String,
    /// Its place in the Event Log.
    pub sequence: u64,
    /// SHA-256 of the event's content in canonical form, hex.
    pub event_sha256: String,
    /// Of a dry run.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub test: bool,
    /// Who gave it.
    pub partner: String,
    /// `ack` or `nack`.
    pub word: String,
    /// When it came, RFC 3339.
    pub at: String,
    /// How it is evidenced: `body`, `status`, `callback`, `file` or `topic`.
    pub evidence: String,
    /// 0 for the first sending, then one for each replay.
    pub round: u32,
    /// Which attempt carried the message.
    pub attempt: u32,
    /// The version sent.
    pub version: u32,
    /// The partner's counter.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub partner_seq: Option<u64>,
    /// SHA-256 of the bytes sent, hex.
    pub body_sha256: String,
    /// SHA-256 of the scripts and tables that made them, hex.
    pub scripts: Vec<String>,
    /// The reason of a NACK.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
}

impl Receipt {
    /// The line that is hashed.
    #[must_use]
    pub fn line(&self) -> String {
        // Invariant: texts and numbers always serialise.
        serde_json::to_string(self).expect("a receipt serialises")
    }
}
