//! Dead letters: deliveries given up, tried again or discarded.

use std::sync::Arc;

use axum::extract::{Request, State};
use ess_core::access::{Act, Role};
use ess_core::id::{EventId, PartnerId};
use ess_core::problem::Problem;
use ess_hub::Letters;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::deliveries::Delivery;
use crate::api::{Answer, List, ok, read_json};
use crate::caller::{Caller, Reason, need_reason};
use crate::document;
use crate::limits::SMALL_BODY_BYTES_MAX;
use crate::query::Query;
use crate::site::Site;

/// Which dead letters: of a partner, of an event, of both, or all.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Redrive {
    partner: Option<String>,
    event: Option<String>,
    /// Only those whose reason holds this text.
    matching: Option<String>,
}

/// Which dead letters to give up for good, and why.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Discard {
    partner: Option<String>,
    event: Option<String>,
    /// Only those whose reason holds this text.
    matching: Option<String>,
    /// Why; stands in the audit trail. May come in `X-HMS-Reason` instead.
    reason: Option<String>,
}

/// How many are tried again.
#[derive(Serialize, ToSchema)]
pub(crate) struct Redriven {
    redriven: u64,
}

/// How many were discarded.
#[derive(Serialize, ToSchema)]
pub(crate) struct Discarded {
    discarded: u64,
}

fn letters(partner: Option<&str>, event: Option<&str>, matching: Option<&str>) -> Result<Letters, Problem> {
    let partner = partner.map(PartnerId::parse).transpose().map_err(|problem| problem.with_field("partner"))?;
    let event = event.map(EventId::parse).transpose().map_err(|problem| problem.with_field("event"))?;
    Ok(Letters { partner, event, matching: matching.map(str::to_owned) })
}

/// List the dead letters
///
/// Deliveries given up, oldest first, with their reasons.
#[utoipa::path(
    get,
    path = "/v1/dead-letters",
    tag = "Deliveries",
    operation_id = "list_dead_letters",
    params(
        ("partner" = Option<String>, Query, description = "Only this partner's."),
        ("event" = Option<String>, Query, description = "Only this event's."),
        ("matching" = Option<String>, Query, description = "Only those whose reason holds this text."),
        ("after" = Option<String>, Query, description = "The `next` of the page before."),
        ("limit" = Option<u32>, Query, description = "1 to 1000; 100 unless given."),
    ),
    responses((status = 200, description = "A page of deliveries.", body = List<Delivery>)),
)]
pub(crate) async fn list_dead_letters(State(site): State<Arc<Site>>, caller: Caller, query: Query) -> Answer {
    caller.permit(&Act::Read)?;
    query.only(&["partner", "event", "matching", "after", "limit"])?;
    let letters = letters(query.text("partner"), query.text("event"), query.text("matching"))?;
    let page = site.hub.dead_letters(&letters, query.text("after"), query.limit()?).await?;
    ok(List::of(page, Delivery::of))
}

/// Try dead letters again
///
/// Of a partner, of an event, with a reason, or all of them when nothing is named. A partner that is given up is tried at once, with
/// new patience. A partner may have its own tried again.
#[utoipa::path(
    post,
    path = "/v1/dead-letters/redrive",
    tag = "Deliveries",
    operation_id = "redrive_dead_letters",
    params(("X-HMS-Reason" = Option<String>, Header, description = "Why, for the audit trail.")),
    request_body(content = Redrive, example = json!({"partner": "LAW-FIRM-SYS"})),
    responses((status = 200, description = "They are on their way.", body = Redriven, example = json!({"redriven": 12}))),
)]
pub(crate) async fn redrive_dead_letters(
    State(site): State<Arc<Site>>,
    caller: Caller,
    query: Query,
    Reason(reason): Reason,
    request: Request,
) -> Answer {
    // A partner may have its own tried again: that is judged by the body.
    if !matches!(caller.0.role, Role::Partner(_)) {
        caller.permit(&Act::Operate)?;
    }
    query.only(&[])?;
    let body = read_json(&site, request, SMALL_BODY_BYTES_MAX).await?;
    let Redrive { partner, event, matching } = document::read_optional(&body.bytes)?;
    let letters = letters(partner.as_deref(), event.as_deref(), matching.as_deref())?;
    caller.permit(&letters.partner.as_ref().map_or(Act::Operate, Act::Tend))?;
    ok(Redriven { redriven: site.hub.redrive(&letters, reason, &caller.0).await? })
}

/// Discard dead letters
///
/// They stay on record as cancelled, with the reason.
#[utoipa::path(
    post,
    path = "/v1/dead-letters/discard",
    tag = "Deliveries",
    operation_id = "discard_dead_letters",
    request_body(content = Discard, example = json!({"partner": "LAW-FIRM-SYS", "reason": "the firm closed"})),
    responses((status = 200, description = "They are given up.", body = Discarded, example = json!({"discarded": 12}))),
)]
pub(crate) async fn discard_dead_letters(
    State(site): State<Arc<Site>>,
    caller: Caller,
    query: Query,
    told: Reason,
    request: Request,
) -> Answer {
    caller.permit(&Act::Operate)?;
    query.only(&[])?;
    let body = read_json(&site, request, SMALL_BODY_BYTES_MAX).await?;
    let Discard { partner, event, matching, reason } = document::read(&body.bytes)?;
    let reason = need_reason(reason, told)?;
    let letters = letters(partner.as_deref(), event.as_deref(), matching.as_deref())?;
    ok(Discarded { discarded: site.hub.discard(&letters, reason, &caller.0).await? })
}
