//! The wire shape of a delivery; also what is not acknowledged yet.

use std::sync::Arc;

use axum::extract::State;
use ess_core::access::Act;
use ess_core::delivery;
use ess_core::receipt::Evidence;
use ess_hub::view::{AttemptView, DeliveryView};
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::{Answer, List, ok};
use crate::caller::Caller;
use crate::query::Query;
use crate::site::Site;

/// One event for one partner.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Delivery {
    event_id: String,
    /// The event's place in the log.
    sequence: u64,
    partner: String,
    /// 0 for the first sending, 1 and on for replays.
    round: u32,
    /// An event sent again.
    replay: bool,
    /// A dry run.
    test: bool,
    /// `ack`, `pending`, `retrying`, `awaiting_ack`, `blocked`, `paused`, `dead`, `nack`, `superseded` or `cancelled`.
    #[schema(example = "ack")]
    state: &'static str,
    /// The version sent, once known.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u32>,
    /// `webhook-id`: the same for all attempts.
    message_id: String,
    /// The partner's gapless counter.
    #[serde(skip_serializing_if = "Option::is_none")]
    partner_seq: Option<u64>,
    attempts_made: u32,
    /// The attempts on record; a first-time success leaves only its receipt.
    attempts: Vec<Attempt>,
    /// When the next attempt is due.
    #[serde(skip_serializing_if = "Option::is_none")]
    due_at: Option<String>,
    /// Why it failed, is blocked or ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// The command that mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<String>,
    /// How the ACK is evidenced: `body`, `status`, `callback`, `file` or `topic`.
    #[serde(skip_serializing_if = "Option::is_none")]
    evidence: Option<&'static str>,
    /// SHA-256 of the bytes sent, in hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_sha256: Option<String>,
    /// SHA-256 of the bridges, adapters and tables that made them, in hex.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    scripts: Vec<String>,
    /// The event is of priority urgent.
    urgent: bool,
    /// When the event was recorded.
    recorded_at: String,
}

/// A delivery that lacks its ACK.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Unacked {
    #[serde(flatten)]
    delivery: Delivery,
    /// Seconds since the event was recorded.
    age_s: u64,
}

/// One try.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Attempt {
    /// From 1.
    number: u32,
    /// When it began.
    at: String,
    took_ms: u64,
    /// HTTP status, if there was an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    /// `acked`, `received`, `unacknowledged`, `nack`, `failed` or `refused`.
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Delivery {
    /// The wire shape of a delivery.
    pub(crate) fn of(view: DeliveryView) -> Self {
        let is_held = view.paused && !view.state.is_end() && view.state != delivery::State::Sending;
        Self {
            state: if is_held { "paused" } else { view.state.word() },
            event_id: view.event_id.to_string(),
            sequence: view.sequence.0,
            partner: view.partner.to_string(),
            round: view.round,
            replay: view.round > 0,
            test: view.test,
            version: view.version.map(|version| version.0),
            message_id: view.message_id,
            partner_seq: view.partner_seq,
            attempts_made: view.attempts_made,
            attempts: view.attempts.into_iter().map(Attempt::of).collect(),
            due_at: view.due_at.map(|time| time.to_string()),
            reason: view.reason,
            mend: view.mend,
            ended_at: view.ended_at.map(|time| time.to_string()),
            evidence: view.evidence.map(Evidence::word),
            body_sha256: view.body_digest.map(|digest| digest.to_string()),
            scripts: view.scripts.iter().map(ToString::to_string).collect(),
            urgent: view.urgent,
            recorded_at: view.recorded_at.to_string(),
        }
    }
}

impl Attempt {
    fn of(view: AttemptView) -> Self {
        Self {
            number: view.number,
            at: view.at.to_string(),
            took_ms: u64::try_from(view.took.as_millis()).unwrap_or(u64::MAX),
            status: view.status,
            outcome: view.outcome,
            reason: view.reason,
        }
    }
}

/// List what is not acknowledged
///
/// Open deliveries of all partners, oldest first.
#[utoipa::path(
    get,
    path = "/v1/unacked",
    tag = "Deliveries",
    operation_id = "list_unacked",
    params(
        ("after" = Option<String>, Query, description = "The `next` of the page before."),
        ("limit" = Option<u32>, Query, description = "1 to 1000; 100 unless given."),
    ),
    responses((status = 200, description = "A page of deliveries.", body = List<Unacked>)),
)]
pub(crate) async fn list_unacked(State(site): State<Arc<Site>>, caller: Caller, query: Query) -> Answer {
    caller.permit(&Act::Read)?;
    query.only(&["after", "limit"])?;
    let page = site.hub.unacked(query.text("after"), query.limit()?).await?;
    let now = site.hub.time();
    let shape = |view: DeliveryView| {
        let age_s = now.since(view.recorded_at).as_secs();
        Unacked { delivery: Delivery::of(view), age_s }
    };
    ok(List::of(page, shape))
}
