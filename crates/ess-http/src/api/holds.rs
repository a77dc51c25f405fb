//! Legal holds: place, list, lift.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use ess_core::access::Act;
use ess_core::id::EventId;
use ess_core::partner::Glob;
use ess_core::problem::{Code, Problem};
use ess_hub::view::{HeldThing, HoldView};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::{Answer, List, Named, answer, ok, read_json};
use crate::caller::{Caller, Reason, need_reason};
use crate::document;
use crate::limits::SMALL_BODY_BYTES_MAX;
use crate::query::Query;
use crate::site::Site;

/// A legal hold to place: on an event or on subjects.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewHold {
    /// The event's id; its dry run is held too.
    event: Option<String>,
    /// Subjects, as a glob: what is recorded later is held too.
    subject: Option<String>,
    /// Why. May come in `X-HMS-Reason` instead.
    reason: Option<String>,
}

/// A legal hold.
#[derive(Serialize, ToSchema)]
pub(crate) struct Hold {
    /// From 1.
    id: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    at: String,
    /// The token's public name.
    by: String,
    reason: String,
    /// Its end; absent while it is in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    lifted: Option<Lifted>,
}

/// The end of a legal hold.
#[derive(Serialize, ToSchema)]
pub(crate) struct Lifted {
    at: String,
    /// The token's public name.
    by: String,
    reason: String,
}

impl Hold {
    fn of(view: HoldView) -> Self {
        let HoldView { number, on, at, by, reason, lifted } = view;
        let (event, subject) = match on {
            HeldThing::Event(id) => (Some(id.to_string()), None),
            HeldThing::Subject(glob) => (None, Some(glob.as_str().to_owned())),
        };
        let lifted = lifted.map(|(at, by, reason)| Lifted { at: at.to_string(), by, reason });
        Self { id: number, event, subject, at: at.to_string(), by, reason, lifted }
    }
}

/// Place a legal hold
///
/// Nothing that it covers goes by age or is redacted until an admin lifts it.
#[utoipa::path(
    post,
    path = "/v1/holds",
    tag = "Audit",
    operation_id = "place_hold",
    params(("X-HMS-Reason" = Option<String>, Header, description = "Why, instead of `reason`.")),
    request_body(content = NewHold, example = json!({"subject": "RULE-COURT-*", "reason": "Doe v. County, 26-CV-118"})),
    responses((status = 201, description = "It is in force.", body = Hold, example = json!({"id": 1, "subject": "RULE-COURT-*", "at": "2026-11-23T16:00:00Z", "by": "tok_3f9a0c12", "reason": "Doe v. County, 26-CV-118"}))),
)]
pub(crate) async fn place_hold(
    State(site): State<Arc<Site>>,
    caller: Caller,
    query: Query,
    told: Reason,
    request: Request,
) -> Answer {
    caller.permit(&Act::Operate)?;
    query.only(&[])?;
    let body = read_json(&site, request, SMALL_BODY_BYTES_MAX).await?;
    let NewHold { event, subject, reason } = document::read(&body.bytes)?;
    let on = match (event, subject) {
        (Some(id), None) => HeldThing::Event(EventId::parse(&id).map_err(|problem| problem.with_field("event"))?),
        (None, Some(glob)) => {
            let wrong = |wrong: String| Problem::new(Code::Invalid, format!("subject: {wrong}")).with_field("subject");
            HeldThing::Subject(Glob::parse(&glob).map_err(wrong)?)
        }
        _ => {
            return Err(Problem::new(Code::Invalid, "a hold is on one event or on subjects: give one of the two")
                .with_field("event")
                .with_hint("`event` takes an id, `subject` a glob such as RULE-COURT-*")
                .into());
        }
    };
    let hold = site.hub.place_hold(on, need_reason(reason, told)?, &caller.0).await?;
    answer(StatusCode::CREATED, Hold::of(hold))
}

/// List the legal holds
#[utoipa::path(
    get,
    path = "/v1/holds",
    tag = "Audit",
    operation_id = "list_holds",
    params(("all" = Option<bool>, Query, description = "Lifted ones too.")),
    responses((status = 200, description = "In the order in which they were placed.", body = List<Hold>)),
)]
pub(crate) async fn list_holds(State(site): State<Arc<Site>>, caller: Caller, query: Query) -> Answer {
    caller.permit(&Act::Read)?;
    let all = query.only(&["all"])?.flag("all")?;
    ok(List::whole(site.hub.holds(all).await?.into_iter().map(Hold::of).collect()))
}

/// Lift a legal hold
///
/// It stays on record with who lifted it, when and why; what is older than it is kept goes with the next pass.
#[utoipa::path(
    delete,
    path = "/v1/holds/{id}",
    tag = "Audit",
    operation_id = "lift_hold",
    params(
        ("id" = u64, Path, description = "The hold's number.", example = 1),
        ("X-HMS-Reason" = String, Header, description = "Why; needed here."),
    ),
    responses((status = 204, description = "Lifted.")),
)]
pub(crate) async fn lift_hold(
    State(site): State<Arc<Site>>,
    caller: Caller,
    Named(name): Named,
    query: Query,
    told: Reason,
) -> Answer {
    caller.permit(&Act::Redact)?;
    query.only(&[])?;
    let number = name.parse().map_err(|_| {
        Problem::new(Code::NotFound, format!("no legal hold {name} is in force"))
            .with_hint("`hms-ess hold list` shows those that are")
    })?;
    site.hub.lift_hold(number, need_reason(None, told)?, &caller.0).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
