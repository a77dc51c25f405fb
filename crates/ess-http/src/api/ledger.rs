//! The Ack Ledger: every receipt, chained.

use std::sync::Arc;

use axum::extract::State;
use ess_core::access::Act;
use ess_hub::view::{LedgerHead, LedgerView};
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::deliveries::evidence_word;
use crate::api::{Answer, List, ok};
use crate::caller::Caller;
use crate::query::Query;
use crate::site::Site;

/// One entry of the ledger.
#[derive(Serialize, ToSchema)]
pub(crate) struct LedgerEntry {
    /// Its place, from 0.
    index: u64,
    event_id: String,
    sequence: u64,
    partner: String,
    round: u32,
    /// `ack` or `nack`.
    #[schema(example = "ack")]
    word: &'static str,
    at: String,
    /// Which attempt it answers.
    attempt: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "body")]
    evidence: Option<&'static str>,
    /// SHA-256 of the bytes sent, in hex.
    body_sha256: String,
    /// Head of the hash chain after this entry.
    chain: String,
}

/// The ledger's head.
#[derive(Serialize, ToSchema)]
pub(crate) struct Checkpoint {
    /// Number of entries.
    size: u64,
    /// Head of the hash chain.
    chain: String,
}

/// The whole chain fits.
#[derive(Serialize, ToSchema)]
pub(crate) struct Verified {
    ok: bool,
    size: u64,
    chain: String,
}

impl LedgerEntry {
    fn of(view: LedgerView) -> Self {
        Self {
            index: view.index,
            event_id: view.event_id.to_string(),
            sequence: view.sequence.0,
            partner: view.partner.to_string(),
            round: view.round,
            word: view.word,
            at: view.at.to_string(),
            attempt: view.attempt,
            evidence: view.evidence.map(evidence_word),
            body_sha256: view.body_digest.to_string(),
            chain: view.chain.to_string(),
        }
    }
}

/// Read the ledger
///
/// Every ACK and NACK, in the order in which they came.
#[utoipa::path(
    get,
    path = "/v1/ledger",
    tag = "Audit",
    operation_id = "list_ledger",
    params(
        ("after" = Option<u64>, Query, description = "The `next` of the page before: only entries with a higher index."),
        ("limit" = Option<u32>, Query, description = "1 to 1000; 100 unless given."),
    ),
    responses((status = 200, description = "A page of entries.", body = List<LedgerEntry>)),
)]
pub(crate) async fn list_ledger(State(site): State<Arc<Site>>, caller: Caller, query: Query) -> Answer {
    caller.permit(&Act::Read)?;
    query.only(&["after", "limit"])?;
    let page = site.hub.ledger(query.number("after")?, query.limit()?).await?;
    ok(List::of(page, LedgerEntry::of))
}

/// Read the ledger's head
#[utoipa::path(
    get,
    path = "/v1/ledger/checkpoint",
    tag = "Audit",
    operation_id = "read_checkpoint",
    responses((status = 200, description = "Size and head of the chain.", body = Checkpoint, example = json!({"size": 123, "chain": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}))),
)]
pub(crate) async fn read_checkpoint(State(site): State<Arc<Site>>, caller: Caller, query: Query) -> Answer {
    caller.permit(&Act::Read)?;
    query.only(&[])?;
    let LedgerHead { size, chain } = site.hub.ledger_head().await?;
    ok(Checkpoint { size, chain: chain.to_string() })
}

/// Verify the ledger
///
/// Walks the whole chain. An auditor may ask for it: it changes nothing.
#[utoipa::path(
    post,
    path = "/v1/ledger/verify",
    tag = "Audit",
    operation_id = "verify_ledger",
    responses(
        (status = 200, description = "Every entry fits.", body = Verified, example = json!({"ok": true, "size": 123, "chain": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"})),
        (status = 409, description = "The first entry that does not fit is named.", body = crate::refusal::ProblemDocument<'_>, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn verify_ledger(State(site): State<Arc<Site>>, caller: Caller, query: Query) -> Answer {
    caller.permit(&Act::Read)?;
    query.only(&[])?;
    let LedgerHead { size, chain } = site.hub.verify_ledger().await?;
    ok(Verified { ok: true, size, chain: chain.to_string() })
}
