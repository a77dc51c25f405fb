//! The Ack Ledger: every receipt, chained, under signed checkpoints.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::IntoResponse;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ess_core::access::Act;
use ess_core::id::{EventId, PartnerId};
use ess_core::receipt::Evidence;
use ess_hub::view::{CheckpointView, ConsistencyView, LedgerHead, LedgerView, PlaceView};
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::{Answer, List, ok};
use crate::body::Ignored;
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

/// The ledger's head, and what was signed of it.
#[derive(Serialize, ToSchema)]
pub(crate) struct LedgerState {
    /// Number of entries.
    size: u64,
    /// Head of the hash chain.
    chain: String,
    /// The last signed checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoint: Option<Checkpoint>,
    /// What checkpoints and proofs are verified by; keep it apart from the hub.
    #[schema(example = "hms-ess/1f2e3d4c5b6a7988+0a1b2c3d+AQ…")]
    verifier_key: String,
    /// Where checkpoints are brought to as well, as the configuration says.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    elsewhere: Vec<Place>,
}

/// A place that checkpoints are brought to, and how it fares.
#[derive(Serialize, ToSchema)]
#[schema(as = CheckpointPlace)]
pub(crate) struct Place {
    /// `directory`, `file` or `url`.
    #[schema(example = "url")]
    to: &'static str,
    /// Receipts of the last checkpoint that it took since the hub began.
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    /// Since when it takes none; it is tried again, every five minutes at last.
    #[serde(skip_serializing_if = "Option::is_none")]
    failing_since: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Place {
    fn of(view: PlaceView) -> Self {
        let PlaceView { to, size, failing_since, error } = view;
        Self { to, size, failing_since: failing_since.map(|time| time.to_string()), error }
    }
}

/// A signed checkpoint.
#[derive(Serialize, ToSchema)]
pub(crate) struct Checkpoint {
    /// Receipts that it covers.
    size: u64,
    /// When it was signed.
    at: String,
    /// A signed note (C2SP tlog-checkpoint).
    note: String,
}

/// The proof that one checkpoint continues another (RFC 9162 section 2.1.4).
#[derive(Serialize, ToSchema)]
pub(crate) struct Consistency {
    from: u64,
    to: u64,
    /// Hashes, base64.
    path: Vec<String>,
}

impl Checkpoint {
    fn of(view: CheckpointView) -> Self {
        Self { size: view.size, at: view.at.to_string(), note: view.note }
    }
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
            evidence: view.evidence.map(Evidence::word),
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
///
/// Its size, the last signed checkpoint, and the key that it is verified by.
#[utoipa::path(
    get,
    path = "/v1/ledger/checkpoint",
    tag = "Audit",
    operation_id = "read_checkpoint",
    responses((status = 200, description = "Head of the chain, and the last checkpoint.", body = LedgerState)),
)]
pub(crate) async fn read_checkpoint(State(site): State<Arc<Site>>, caller: Caller, query: Query) -> Answer {
    caller.permit(&Act::Read)?;
    query.only(&[])?;
    let LedgerHead { size, chain } = site.hub.ledger_head().await?;
    let checkpoint = site.hub.last_checkpoint().await?.map(Checkpoint::of);
    let elsewhere = site.hub.checkpoint_places().into_iter().map(Place::of).collect();
    ok(LedgerState { size, chain: chain.to_string(), checkpoint, verifier_key: site.hub.verifier_key(), elsewhere })
}

/// Sign a checkpoint now
///
/// The last one when nothing was added since. An auditor may ask for it.
#[utoipa::path(
    post,
    path = "/v1/ledger/checkpoint",
    tag = "Audit",
    operation_id = "make_checkpoint",
    responses((status = 200, description = "A checkpoint of every receipt that there is.", body = Checkpoint)),
)]
pub(crate) async fn make_checkpoint(State(site): State<Arc<Site>>, caller: Caller, query: Query, _: Ignored) -> Answer {
    caller.permit(&Act::Read)?;
    query.only(&[])?;
    ok(Checkpoint::of(site.hub.make_checkpoint().await?))
}

/// Prove a receipt
///
/// A file that `hms-ess ledger verify FILE` checks with the verifier's key alone.
#[utoipa::path(
    get,
    path = "/v1/ledger/proof",
    tag = "Audit",
    operation_id = "prove_receipt",
    params(
        ("event" = String, Query, description = "The event's id.", example = "RULE-COURT-DEADLINE-V3"),
        ("partner" = String, Query, description = "The partner's id.", example = "COURT-CAL"),
        ("round" = Option<u64>, Query, description = "0 for the first sending, then one for each replay; the newest unless given."),
    ),
    responses((status = 200, description = "The receipt, the way to the root, and the signed checkpoint.", body = serde_json::Value)),
)]
pub(crate) async fn prove_receipt(State(site): State<Arc<Site>>, caller: Caller, query: Query) -> Answer {
    caller.permit(&Act::Read)?;
    query.only(&["event", "partner", "round"])?;
    let event = EventId::parse(query.needed("event")?)?;
    let partner = PartnerId::parse(query.needed("partner")?)?;
    let round = query.number("round")?.map(|round| u32::try_from(round).unwrap_or(u32::MAX));
    let proof = site.hub.prove(&event, &partner, round).await?;
    let json = HeaderValue::from_static("application/json");
    Ok(([(header::CONTENT_TYPE, json)], proof.write()).into_response())
}

/// Prove that the ledger was continued
///
/// From one checkpoint to another: nothing before the older one was changed.
#[utoipa::path(
    get,
    path = "/v1/ledger/consistency",
    tag = "Audit",
    operation_id = "prove_consistency",
    params(
        ("from" = u64, Query, description = "Receipts of the older checkpoint."),
        ("to" = u64, Query, description = "Receipts of the newer checkpoint."),
    ),
    responses((status = 200, description = "The hashes.", body = Consistency)),
)]
pub(crate) async fn prove_consistency(State(site): State<Arc<Site>>, caller: Caller, query: Query) -> Answer {
    caller.permit(&Act::Read)?;
    query.only(&["from", "to"])?;
    query.needed("from").and(query.needed("to"))?;
    let (from, to) = (query.number("from")?.unwrap_or_default(), query.number("to")?.unwrap_or_default());
    let ConsistencyView { from, to, path } = site.hub.consistency(from, to).await?;
    ok(Consistency { from, to, path: path.iter().map(|hash| STANDARD.encode(hash.0)).collect() })
}

/// Verify the ledger
///
/// Walks the whole chain, makes the tree anew from events, partners and receipts, and checks every checkpoint. An auditor may ask for it: it changes nothing.
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
pub(crate) async fn verify_ledger(State(site): State<Arc<Site>>, caller: Caller, query: Query, _: Ignored) -> Answer {
    caller.permit(&Act::Read)?;
    query.only(&[])?;
    let LedgerHead { size, chain } = site.hub.verify_ledger().await?;
    ok(Verified { ok: true, size, chain: chain.to_string() })
}
