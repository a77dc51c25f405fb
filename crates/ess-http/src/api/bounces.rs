//! `POST /v1/bounces`: the mail in which a mail server says that a delivery by mail did not arrive.

use std::sync::Arc;

use axum::extract::{Request, State};
use ess_core::access::Act;
use ess_core::ack_link::LinkError;
use ess_core::bounce::Bounce as Report;
use ess_core::problem::{Code, Problem};
use ess_hub::{LinkProblem, LinkWord};
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::{Answer, ok};
use crate::body;
use crate::caller::Caller;
use crate::limits::BOUNCE_BYTES_MAX;
use crate::query::Query;
use crate::site::Site;

/// What a bounce did.
#[derive(Serialize, ToSchema)]
pub(crate) struct Bounce {
    /// The event; absent when the mail was a test of the address.
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<String>,
    partner: String,
    test: bool,
    /// The delivery ended by it.
    counted: bool,
    /// What the mail server said of the recipient that the mail did not reach; absent when it was only late.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// What is on record for the delivery: `ack` or `nack`; absent while nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    said: Option<&'static str>,
}

/// Take a bounce
///
/// The whole mail as it came (RFC 3464), up to 4 MiB of it. A failure ends the delivery as `nack`; a delay, and what was acknowledged before, changes nothing.
#[utoipa::path(
    post,
    path = "/v1/bounces",
    tag = "Partner's side",
    operation_id = "take_bounce",
    request_body(content = String, content_type = "message/rfc822"),
    responses((status = 200, description = "What it did.", body = Bounce, example = json!({"event_id": "RULE-COURT-DEADLINE-V3", "partner": "CLERK-EAST", "test": false, "counted": true, "reason": "bounced for clerk@court.example: 5.1.1 550 no such user", "said": "nack"}))),
)]
pub(crate) async fn take_bounce(
    State(site): State<Arc<Site>>,
    caller: Caller,
    query: Query,
    request: Request,
) -> Answer {
    caller.permit(&Act::Operate)?;
    query.only(&[])?;
    let mail = body::read(&site, request.into_body(), BOUNCE_BYTES_MAX).await?;
    let report = Report::read(&mail.bytes).map_err(|error| {
        Problem::new(Code::Invalid, error.to_string())
            .with_hint("hand over the whole mail as it came, with its head; other mails are for people")
    })?;
    let before = site.hub.link(&report.link).await.map_err(refused)?;
    let after = site.hub.take_bounce(&report).await.map_err(refused)?;
    ok(Bounce {
        event_id: after.event.as_ref().map(|(event, _)| event.to_string()),
        partner: after.partner.to_string(),
        test: after.test,
        counted: before.said != after.said,
        reason: report.failure(),
        said: after.said.as_ref().map(|word| match word {
            LinkWord::Acknowledged => "ack",
            LinkWord::Refused { .. } => "nack",
        }),
    })
}

fn refused(problem: LinkProblem) -> Problem {
    match problem {
        LinkProblem::Unavailable(problem) => problem,
        LinkProblem::Link(error @ LinkError::Expired) => Problem::new(Code::NotFound, error.to_string())
            .with_hint("the mail is older than 30 days: its delivery was escalated long ago"),
        LinkProblem::Link(error @ LinkError::Foreign) => Problem::new(Code::NotFound, error.to_string())
            .with_hint("the mail was sent by another hub, or its partner was removed"),
    }
}
