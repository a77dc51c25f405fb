//! `GET /v1/events/{id}/audit`: the packet for a court.

use std::sync::Arc;

use axum::extract::State;
use ess_core::access::Act;

use crate::api::{Answer, OfEvent};
use crate::caller::Caller;
use crate::packet;
use crate::query::Query;
use crate::site::Site;

/// Fetch the packet for a court
///
/// All that is on record about an event, in a zip file: the event, its conversions, the scripts, every attempt, every receipt with
/// its proof, and a page that a person can read. `hms-ess ledger verify FILE` checks it without a hub.
#[utoipa::path(
    get,
    path = "/v1/events/{id}/audit",
    tag = "Audit",
    operation_id = "read_packet",
    params(
        ("id" = String, Path, description = "The event's id.", example = "RULE-COURT-DEADLINE-V3"),
        ("test" = Option<bool>, Query, description = "The dry run of this id."),
    ),
    responses((status = 200, description = "A zip file.", body = Vec<u8>, content_type = "application/zip")),
)]
pub(crate) async fn read_packet(
    State(site): State<Arc<Site>>,
    caller: Caller,
    OfEvent(id): OfEvent,
    query: Query,
) -> Answer {
    caller.permit(&Act::Read)?;
    let test = query.only(&["test"])?.flag("test")?;
    let audit = site.hub.audit_event(&id, test).await?;
    Ok(packet::answer(site.hub.clone(), audit))
}
