//! Drills: a dry run for chosen partners; and reaching for a partner's address without sending anything.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use ess_core::access::Act;
use ess_core::event::Content;
use ess_core::id::PartnerId;
use ess_core::limits::EVENT_BYTES_MAX;
use ess_core::problem::{Code, Problem};
use ess_hub::view::Probed;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::api::publish::{EventDocument, Receipt};
use crate::api::{Answer, OfPartner, answer, ok, read_json};
use crate::body::Ignored;
use crate::caller::{Caller, Reason};
use crate::document;
use crate::limits::REPLAY_PARTNERS_MAX;
use crate::query::Query;
use crate::site::Site;

/// Room for the event and the names of the partners.
const DRILL_BYTES_MAX: usize = 2 * EVENT_BYTES_MAX;

/// A drill to begin.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Drill {
    /// The event, sent as a dry run under an id of its own; an exercise in each partner's version when absent.
    #[schema(value_type = Option<EventDocument>)]
    event: Option<Box<RawValue>>,
    /// The partners, whatever they subscribed to.
    to: Vec<String>,
}

/// A drill that began.
#[derive(Serialize, ToSchema)]
pub(crate) struct DrillBegun<'a> {
    /// The receipt of each event: one, or one for each version that the partners pinned.
    events: Vec<Receipt<'a>>,
}

/// How far a partner's address was reached.
#[derive(Serialize, ToSchema)]
pub(crate) struct Probe {
    /// Whether it can be reached.
    reached: bool,
    /// What was found: `connected`, `protected` (a trusted certificate was shown), `directory`, `nothing` (it comes by itself).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "protected")]
    found: Option<&'static str>,
    /// Why it can't be reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    took_ms: u64,
}

/// Begin a drill
///
/// Records a dry run (`X-HMS-Test: true`) for these partners alone, whatever they subscribed to; the rest is as for any event:
/// `GET /v1/events/{id}/status?test=true` says who acknowledged.
#[utoipa::path(
    post,
    path = "/v1/drills",
    tag = "Events",
    operation_id = "begin_drill",
    params(("X-HMS-Reason" = Option<String>, Header, description = "Why, for the audit trail.")),
    request_body(content = Drill, example = json!({"event": {"id": "DRILL-2026-11-V1", "version": 1, "payload": {"drill": true}}, "to": ["COURT-CAL"]})),
    responses((status = 202, description = "Recorded; deliveries are under way.", body = DrillBegun<'_>)),
)]
pub(crate) async fn begin_drill(
    State(site): State<Arc<Site>>,
    caller: Caller,
    query: Query,
    Reason(reason): Reason,
    request: Request,
) -> Answer {
    caller.permit(&Act::Operate)?;
    query.only(&[])?;
    let body = read_json(&site, request, DRILL_BYTES_MAX).await?;
    let Drill { event, to } = document::read(&body.bytes)?;
    if to.is_empty() || to.len() > REPLAY_PARTNERS_MAX {
        let detail = format!("a drill names 1 to {REPLAY_PARTNERS_MAX} partners");
        return Err(Problem::new(Code::Invalid, detail).with_field("to").into());
    }
    let to: Result<Vec<PartnerId>, Problem> = to.iter().map(|partner| PartnerId::parse(partner)).collect();
    let to = to.map_err(|problem| problem.with_field("to"))?;
    let is_test = true;
    let content = event.map(|event| Content::from_json(event.get().as_bytes(), is_test)).transpose()?;
    let receipts = site.hub.drill(content, &to, reason, &caller.0).await?;
    answer(StatusCode::ACCEPTED, DrillBegun { events: receipts.iter().map(Receipt::of).collect() })
}

/// Probe a partner
///
/// Reaches for its address - name, network, TLS, directory - and for the one for tests. Nothing is sent, no login is tried.
#[utoipa::path(
    post,
    path = "/v1/partners/{id}/probe",
    tag = "Partners",
    operation_id = "probe_partner",
    params(("id" = String, Path, description = "The partner's id.", example = "COURT-CAL")),
    responses((status = 200, description = "What was found.", body = Probe, example = json!({"reached": true, "found": "protected", "took_ms": 12}))),
)]
pub(crate) async fn probe_partner(
    State(site): State<Arc<Site>>,
    caller: Caller,
    OfPartner(id): OfPartner,
    query: Query,
    _: Ignored,
) -> Answer {
    caller.permit(&Act::Tend(&id))?;
    query.only(&[])?;
    let Probed { reach, took } = site.hub.probe_partner(&id).await?;
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let (found, reason) = match reach {
        Ok(found) => (Some(found), None),
        Err(reason) => (None, Some(reason)),
    };
    ok(Probe { reached: found.is_some(), found, reason, took_ms })
}
