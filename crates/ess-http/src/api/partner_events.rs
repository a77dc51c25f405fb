//! What a partner asks for with its own token: the events that it missed, and its deliveries.

use std::sync::Arc;

use axum::extract::State;
use ess_core::access::Act;
use ess_core::problem::{Code, Problem};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::api::deliveries::Delivery;
use crate::api::{Answer, List, OfPartner, ok};
use crate::caller::Caller;
use crate::limits::PAGE_ITEMS_MAX;
use crate::query::Query;
use crate::site::Site;

/// An event as a partner was sent it.
#[derive(Serialize, ToSchema)]
pub(crate) struct PartnerEvent {
    /// The partner's gapless counter.
    partner_seq: u64,
    /// What was sent.
    #[schema(value_type = serde_json::Value)]
    envelope: Box<RawValue>,
}

/// Fetch what was missed
///
/// A partner's events by its own gapless counter (`X-HMS-Partner-Seq`), as they are sent to it. At most 1000 at a time.
#[utoipa::path(
    get,
    path = "/v1/partners/{id}/events",
    tag = "Partner's side",
    operation_id = "list_partner_events",
    params(
        ("id" = String, Path, description = "The partner's id.", example = "COURT-CAL"),
        ("from" = Option<u64>, Query, description = "The first counter; 1 unless given.", example = 41),
        ("to" = Option<u64>, Query, description = "The last counter; as far as one answer goes unless given.", example = 44),
    ),
    responses((status = 200, description = "The events.", body = List<PartnerEvent>, example = json!({"items": [{"partner_seq": 41, "envelope": {"id": "RULE-COURT-DEADLINE-V3", "version": 1, "subject": "RULE-COURT-DEADLINE", "time": "2026-11-23T16:00:00Z", "sequence": 97, "payload": {"cutoff": "16:00"}}}]}))),
)]
pub(crate) async fn list_partner_events(
    State(site): State<Arc<Site>>,
    caller: Caller,
    OfPartner(id): OfPartner,
    query: Query,
) -> Answer {
    caller.permit(&Act::ReadPartner(&id))?;
    query.only(&["from", "to"])?;
    let from = query.number("from")?.unwrap_or(1);
    let most = from.saturating_add(u64::from(PAGE_ITEMS_MAX) - 1);
    let to = query.number("to")?.unwrap_or(most);
    if to < from {
        return Err(Problem::new(Code::Invalid, "to must not be lower than from").with_field("to").into());
    }
    let events = site.hub.partner_events(&id, from, to.min(most)).await?;
    let mut items = Vec::with_capacity(events.len());
    for (partner_seq, envelope) in events {
        let envelope = RawValue::from_string(envelope)
            .map_err(|_| Problem::new(Code::Internal, format!("event {partner_seq} of {id} is not JSON")))?;
        items.push(PartnerEvent { partner_seq, envelope });
    }
    ok(List::whole(items))
}

/// List a partner's deliveries
#[utoipa::path(
    get,
    path = "/v1/partners/{id}/deliveries",
    tag = "Partner's side",
    operation_id = "list_partner_deliveries",
    params(
        ("id" = String, Path, description = "The partner's id.", example = "COURT-CAL"),
        ("after" = Option<String>, Query, description = "The `next` of the page before."),
        ("limit" = Option<u32>, Query, description = "1 to 1000; 100 unless given."),
    ),
    responses((status = 200, description = "A page of deliveries.", body = List<Delivery>)),
)]
pub(crate) async fn list_partner_deliveries(
    State(site): State<Arc<Site>>,
    caller: Caller,
    OfPartner(id): OfPartner,
    query: Query,
) -> Answer {
    caller.permit(&Act::ReadPartner(&id))?;
    query.only(&["after", "limit"])?;
    let page = site.hub.partner_deliveries(&id, query.text("after"), query.limit()?).await?;
    ok(List::of(page, Delivery::of))
}
