//! Lanes: how each partner stands now, as `hms-ess top` shows it. Asks memory only, so that looking costs deliveries nothing.

use std::sync::Arc;

use axum::extract::State;
use ess_core::access::Act;
use ess_core::time::Time;
use ess_hub::overview::{Condition, PartnerStanding, Search};
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::{Answer, List, ok};
use crate::caller::Caller;
use crate::query::Query;
use crate::site::Site;

/// A partner's line of deliveries.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Lane {
    #[schema(example = "COURT-CAL")]
    partner: String,
    #[schema(example = "webhook")]
    channel: &'static str,
    /// `blocked`, `given_up`, `offline`, `unacknowledged`, `retrying`, `slow`, `paused` or `well`.
    #[schema(example = "well")]
    state: &'static str,
    /// Nothing is sent to it until it is resumed.
    paused: bool,
    /// Open deliveries that are in memory.
    open: u32,
    /// More lie in the store.
    more: bool,
    /// Attempts under way.
    in_flight: u32,
    /// Of the open ones: another attempt is due.
    retrying: u32,
    /// Of the open ones: delivered, receipt outstanding.
    awaiting_ack: u32,
    /// Of the open ones: no bridge or script result.
    blocked: u32,
    /// The oldest event without its ACK.
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_event: Option<String>,
    /// Seconds since it was recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_age_s: Option<u64>,
    /// ACKs in the last minute.
    acks_per_minute: f64,
    /// Half of its last ACKs came within so many milliseconds of the recording.
    #[serde(skip_serializing_if = "Option::is_none")]
    p50_ms: Option<f64>,
    /// 99 in 100 of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    p99_ms: Option<f64>,
    /// Its last failure since the hub began.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
    /// The command that mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

impl Lane {
    fn of(standing: PartnerStanding, now: Time) -> Self {
        let PartnerStanding { partner, condition, standing, paused_since, last_error, oldest, pace, .. } = standing;
        let ms = |span: std::time::Duration| (span.as_secs_f64() * 1e4).round() / 10.0;
        Self {
            partner: partner.id.to_string(),
            channel: partner.channel.word(),
            state: word(condition),
            paused: paused_since.is_some(),
            open: standing.open,
            more: standing.has_more,
            in_flight: standing.in_flight,
            retrying: standing.retrying,
            awaiting_ack: standing.awaiting_ack,
            blocked: standing.blocked,
            oldest_age_s: oldest.as_ref().map(|oldest| now.since(oldest.recorded_at).as_secs()),
            oldest_event: oldest.map(|oldest| oldest.event.to_string()),
            acks_per_minute: (pace.per_minute * 10.0).round() / 10.0,
            p50_ms: pace.p50.map(ms),
            p99_ms: pace.p99.map(ms),
            mend: standing.speaker.as_ref().and_then(|speaker| speaker.mend.clone()),
            last_error: standing.speaker.and_then(|speaker| speaker.reason).or(last_error),
        }
    }
}

fn word(condition: Condition) -> &'static str {
    match condition {
        Condition::Blocked => "blocked",
        Condition::GivenUp => "given_up",
        Condition::Offline => "offline",
        Condition::Unacknowledged => "unacknowledged",
        Condition::Retrying => "retrying",
        Condition::Slow => "slow",
        Condition::Paused => "paused",
        Condition::Well => "well",
    }
}

/// List the lanes
///
/// How each partner stands now: what is open and how old, how quickly it acknowledged of late, and why it does not.
#[utoipa::path(
    get,
    path = "/v1/lanes",
    tag = "Deliveries",
    operation_id = "list_lanes",
    params(
        ("text" = Option<String>, Query, description = "Only partners whose id or address holds it."),
        ("after" = Option<String>, Query, description = "The `next` of the page before."),
        ("limit" = Option<u32>, Query, description = "1 to 1000; 100 unless given."),
    ),
    responses((status = 200, description = "A page of lanes, by partner.", body = List<Lane>)),
)]
pub(crate) async fn list_lanes(State(site): State<Arc<Site>>, caller: Caller, query: Query) -> Answer {
    caller.permit(&Act::Read)?;
    query.only(&["text", "after", "limit"])?;
    let search = Search { text: query.text("text").unwrap_or_default().to_owned(), condition: None };
    let limit = query.limit()? as usize;
    let (page, _) = site.hub.partner_standings(&search, query.text("after"), limit).await?;
    let next = (page.len() == limit).then(|| page.last().map(|last| last.partner.id.to_string())).flatten();
    let now = site.hub.time();
    ok(List { items: page.into_iter().map(|standing| Lane::of(standing, now)).collect(), next })
}
