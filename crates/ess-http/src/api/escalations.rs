//! Trouble of partners that Ops are told of, and who was told.

use std::sync::Arc;

use axum::extract::State;
use ess_core::access::Act;
use ess_core::id::PartnerId;
use ess_hub::view::EscalationView;
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::{Answer, List, ok};
use crate::caller::Caller;
use crate::query::Query;
use crate::site::Site;

/// One partner's trouble by one cause.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Escalation {
    partner: String,
    /// `unacked`, `blocked`, `offline`, `gave_up`, `dead_letter`, `paused` or `unacknowledged`.
    #[schema(example = "unacked")]
    cause: &'static str,
    since: String,
    /// An event of priority urgent is concerned: told at any hour.
    urgent: bool,
    /// How many deliveries are concerned, as far as they were counted.
    deliveries: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_event: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
    /// Commands that show or mend it.
    run: Vec<String>,
    /// Targets that were told.
    told: Vec<String>,
    /// Targets that are yet to be told: in their quiet hours, failing, or told of the same a short while ago.
    waiting: Vec<Waiting>,
}

/// A target that is yet to be told.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Waiting {
    target: String,
    not_before: String,
}

impl Escalation {
    fn of(view: EscalationView) -> Self {
        let waiting = |(target, not_before): (String, ess_core::time::Time)| Waiting {
            target,
            not_before: not_before.to_string(),
        };
        Self {
            partner: view.partner.to_string(),
            cause: view.cause,
            since: view.since.to_string(),
            urgent: view.urgent,
            deliveries: view.deliveries,
            oldest_event: view.oldest_event.map(|id| id.to_string()),
            last_error: view.last_error,
            run: view.run,
            told: view.told,
            waiting: view.waiting.into_iter().map(waiting).collect(),
        }
    }
}

/// List partners' troubles
///
/// What is wrong now, by partner and cause, urgent first, then oldest; and which targets were told.
#[utoipa::path(
    get,
    path = "/v1/escalations",
    tag = "Escalation",
    operation_id = "list_escalations",
    params(("partner" = Option<String>, Query, description = "Only this partner's.")),
    responses((status = 200, description = "All of them.", body = List<Escalation>)),
)]
pub(crate) async fn list_escalations(State(site): State<Arc<Site>>, caller: Caller, query: Query) -> Answer {
    caller.permit(&Act::Read)?;
    query.only(&["partner", "limit"])?;
    let partner = query.text("partner").map(PartnerId::parse).transpose()?;
    let found = site.hub.escalations(partner.as_ref());
    ok(List::whole(found.into_iter().map(Escalation::of).collect()))
}
