//! `POST /v1/events`: from bytes to a receipt. The hot path: nothing here waits but the body and the log.

use std::error::Error;
use std::net::IpAddr;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use ess_core::access::Act;
use ess_core::cloudevents;
use ess_core::event::{Content, Kind, Trace};
use ess_core::limits::{BULK_BYTES_MAX, EVENT_BYTES_MAX};
use ess_core::problem::{Code, Problem};
use ess_hub::view::{BlockedPartner, Plan, PublishReceipt};
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::bulk;
use crate::api::media::Media;
use crate::body;
use crate::caller::Caller;
use crate::query::Query;
use crate::refusal::Refusal;
use crate::site::Site;

/// Room for a body around an event of the largest size: blanks, and the names of its other fields.
const BODY_BYTES_MAX: usize = EVENT_BYTES_MAX;

/// An event to publish, in the hub's own shape.
#[derive(ToSchema)]
#[schema(as = Event)]
#[allow(dead_code)]
pub(crate) struct EventDocument {
    /// The publisher's name for the event: 1 to 128 of `A-Z a-z 0-9 . _ : -`. Publishing the same again is safe.
    #[schema(example = "RULE-COURT-DEADLINE-V3")]
    id: String,
    /// Schema version of the payload, 1 at least.
    #[schema(example = 3, minimum = 1)]
    version: u32,
    /// Any JSON value; numbers are kept as written.
    #[schema(value_type = serde_json::Value, example = json!({"deadline": "16:00", "timezone": "local"}))]
    payload: (),
    /// What the event is about; the id less a trailing `-V3` unless given.
    subject: Option<String>,
    /// Who says so.
    source: Option<String>,
    /// When it happened (RFC 3339).
    time: Option<String>,
    /// From when on it holds (RFC 3339).
    effective: Option<String>,
    /// Until when it holds (RFC 3339).
    expires: Option<String>,
    /// `urgent` overtakes routine events of other subjects.
    #[schema(example = "routine")]
    priority: Option<String>,
    /// Events that this one refers to.
    references: Option<Vec<String>>,
    /// `change`, `correction` or `retraction`.
    #[schema(example = "change")]
    kind: Option<String>,
    /// A dry run: partners are told that nothing real changes.
    test: Option<bool>,
}

/// The hub's word to the publisher: the event is durable.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Receipt<'a> {
    /// The event.
    id: &'a str,
    /// Its place in the log.
    sequence: u64,
    /// Its subject.
    subject: &'a str,
    /// When it was recorded (RFC 3339, UTC).
    recorded_at: String,
    /// A dry run.
    test: bool,
    /// How many partners it is for.
    partners: u32,
    /// Those who can't get it yet.
    blocked: Vec<Blocked<'a>>,
    /// True when the same event was recorded before; absent otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    duplicate: Option<bool>,
}

/// A partner that can't get the event yet, why, and the command that mends it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = BlockedPartner)]
pub(crate) struct Blocked<'a> {
    /// The partner.
    partner: &'a str,
    /// Why.
    reason: &'a str,
    /// What to run.
    mend: &'a str,
}

impl<'a> Blocked<'a> {
    fn of(blocked: &'a BlockedPartner) -> Self {
        Self { partner: blocked.partner.as_str(), reason: &blocked.reason, mend: &blocked.mend }
    }
}

impl<'a> Receipt<'a> {
    /// The wire shape of a receipt.
    pub(crate) fn of(receipt: &'a PublishReceipt) -> Self {
        Self {
            id: receipt.id.as_str(),
            sequence: receipt.sequence.0,
            subject: receipt.subject.as_str(),
            recorded_at: receipt.recorded_at.to_string(),
            test: receipt.test,
            partners: receipt.partners,
            blocked: receipt.blocked.iter().map(Blocked::of).collect(),
            duplicate: receipt.duplicate.then_some(true),
        }
    }
}

/// Who would get what.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Plan)]
pub(crate) struct PlanDocument<'a> {
    id: &'a str,
    subject: &'a str,
    version: u32,
    test: bool,
    /// Every partner that it is for.
    partners: Vec<Planned<'a>>,
}

/// What one partner would get.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PlannedDelivery)]
pub(crate) struct Planned<'a> {
    partner: &'a str,
    /// The version that it would get.
    version: u32,
    /// The bridges on the way, by id.
    bridges: &'a [String],
    /// `deliver` or `blocked`.
    outcome: &'static str,
    /// What it would be sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    /// Why it is blocked.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    /// The command that mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<&'a str>,
}

impl<'a> PlanDocument<'a> {
    fn of(plan: &'a Plan) -> Self {
        let partners = plan.partners.iter().map(|entry| {
            let (outcome, body, blocked) = match &entry.outcome {
                Ok(body) => ("deliver", Some(body.as_str()), None),
                Err(blocked) => ("blocked", None, Some(blocked)),
            };
            Planned {
                partner: entry.partner.as_str(),
                version: entry.version.0,
                bridges: &entry.bridges,
                outcome,
                body,
                reason: blocked.map(|blocked| blocked.reason.as_str()),
                mend: blocked.map(|blocked| blocked.mend.as_str()),
            }
        });
        Self {
            id: plan.id.as_str(),
            subject: plan.subject.as_str(),
            version: plan.version.0,
            test: plan.test,
            partners: partners.collect(),
        }
    }
}

/// Publish an event
///
/// Records a Change Event and fans it out. The answer comes when the event is durable. Publishing the same event again
/// answers 200 with the first receipt. Also takes CloudEvents 1.0 (structured, binary, batch) and NDJSON: many events at once
/// answer 200 with a result per line.
#[utoipa::path(
    post,
    path = "/v1/events",
    tag = "Events",
    operation_id = "publish_event",
    params(
        ("plan" = Option<bool>, Query, description = "Show who would get what; record and send nothing."),
        ("X-HMS-Test" = Option<bool>, Header, description = "A dry run: delivered with a mark, never counted."),
        ("traceparent" = Option<String>, Header, description = "W3C trace context; travels to every partner."),
        ("x-hms-trace-id" = Option<String>, Header, description = "Travels to every partner and log line."),
        ("x-hms-docket-id" = Option<String>, Header, description = "Travels to every partner and log line."),
    ),
    request_body(content(
        (EventDocument = "application/json", example = json!({"id": "RULE-COURT-DEADLINE-V3", "version": 3, "payload": {"deadline": "16:00", "timezone": "local"}})),
        (serde_json::Value = "application/cloudevents+json", example = json!({"specversion": "1.0", "id": "RULE-COURT-DEADLINE-V3", "source": "hms-gov", "type": "gov.rule.changed", "subject": "RULE-COURT-DEADLINE", "hmsversion": 3, "data": {"deadline": "16:00", "timezone": "local"}})),
        (Vec<serde_json::Value> = "application/cloudevents-batch+json", example = json!([{"specversion": "1.0", "id": "RULE-COURT-DEADLINE-V3", "source": "hms-gov", "type": "gov.rule.changed", "hmsversion": 3, "data": {"deadline": "16:00"}}])),
        (String = "application/x-ndjson", example = "{\"id\": \"A-V1\", \"version\": 1, \"payload\": {}}\n{\"id\": \"B-V1\", \"version\": 1, \"payload\": {}}\n"),
    )),
    responses(
        (status = 202, description = "Recorded; deliveries are under way.", body = Receipt<'_>, example = json!({"id": "RULE-COURT-DEADLINE-V3", "sequence": 41, "subject": "RULE-COURT-DEADLINE", "recorded_at": "2026-11-23T16:00:00.123456Z", "test": false, "partners": 3, "blocked": [{"partner": "COUNTY-KIOSK", "reason": "no bridge leads from version 3 to 2 for RULE-COURT-DEADLINE", "mend": "hms-ess bridge add 3-to-2.jsonata --subject RULE-COURT-DEADLINE --from 3 --to 2"}]})),
        (status = 200, description = "The same event was recorded before (the first receipt with `duplicate: true`); or the plan; or the results of many events.", body = Receipt<'_>, example = json!({"id": "RULE-COURT-DEADLINE-V3", "sequence": 41, "subject": "RULE-COURT-DEADLINE", "recorded_at": "2026-11-23T16:00:00.123456Z", "test": false, "partners": 3, "blocked": [], "duplicate": true})),
        (status = 409, description = "The id is taken by an event with other content; nothing changes.", body = crate::refusal::ProblemDocument<'_>, content_type = "application/problem+json", example = json!({"type": "https://hms-ess.invalid/errors/event_conflict", "title": "The id is taken by an event with other content", "status": 409, "code": "event_conflict", "detail": "event RULE-COURT-DEADLINE-V3 was recorded at 2026-11-23T16:00:00Z with other content; nothing was changed", "hint": "an event never changes: publish the new content under a new id, such as the next `-V` number", "field": "id", "request_id": "5f0e8a1c9d2b7e43-1a"})),
        (status = 503, description = "The hub can't take it now; nothing was recorded. Try again with the same id after `Retry-After` seconds.", body = crate::refusal::ProblemDocument<'_>, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn publish_event(
    axum::extract::State(site): axum::extract::State<std::sync::Arc<Site>>,
    axum::extract::Extension(crate::caller::Peer(peer)): axum::extract::Extension<crate::caller::Peer>,
    axum::extract::Extension(crate::edge::RequestId(id)): axum::extract::Extension<crate::edge::RequestId>,
    request: axum::extract::Request,
) -> Response {
    let (parts, body) = request.into_parts();
    answer(&site, peer.ip(), &id, parts, body).await
}

/// Answers a publish, whatever brought it.
pub(crate) async fn answer<B>(site: &Site, peer: IpAddr, request_id: &str, parts: Parts, body: B) -> Response
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    match publish(site, peer, request_id, parts, body).await {
        Ok(response) => response,
        Err(problem) => Refusal(problem).into_response(),
    }
}

async fn publish<B>(site: &Site, peer: IpAddr, request_id: &str, parts: Parts, body: B) -> Result<Response, Problem>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let headers = &parts.headers;
    let caller = Caller::identify(site, headers, peer)?;
    caller.permit_publishing()?;
    let is_plan = match parts.uri.query() {
        None => false,
        query => Query::parse(query)?.only(&["plan"])?.flag("plan")?,
    };
    let media = Media::of(headers)?;
    let test = is_test(headers)?;
    let trace = trace(headers);
    if media.is_bulk() {
        if is_plan {
            return Err(Problem::new(Code::Invalid, "a plan is made for one event at a time").with_field("plan"));
        }
        let body = body::read(site, body, BULK_BYTES_MAX).await?;
        return Box::pin(bulk::publish(site, &caller, request_id, media, &body.bytes, test, &trace)).await;
    }
    let content = {
        let body = body::read(site, body, BODY_BYTES_MAX).await?;
        read_one(media, headers, &body.bytes, test)?
    };
    // The head and the body lie in the connection's buffer: it is free again before the log is waited for.
    drop(parts);
    permit(site, &caller, &content).await?;
    if is_plan {
        let plan = Box::pin(site.hub.plan(content)).await?;
        return Ok(json(StatusCode::OK, &PlanDocument::of(&plan)));
    }
    let receipt = site.hub.publish(content, trace, &caller.0).await?;
    Ok(json(status(&receipt), &Receipt::of(&receipt)))
}

/// The status of a receipt: 202 when recorded now, 200 when it was there.
pub(crate) fn status(receipt: &PublishReceipt) -> StatusCode {
    if receipt.duplicate { StatusCode::OK } else { StatusCode::ACCEPTED }
}

/// Refuses what the caller may not publish. A retraction reaches whoever got what it takes back: that must be the caller's, too.
pub(crate) async fn permit(site: &Site, caller: &Caller, content: &Content) -> Result<(), Problem> {
    caller.permit(&Act::Publish(&content.subject))?;
    if content.kind == Kind::Retraction && caller.is_limited() {
        Box::pin(permit_retraction(site, caller, content)).await?;
    }
    Ok(())
}

async fn permit_retraction(site: &Site, caller: &Caller, content: &Content) -> Result<(), Problem> {
    for id in &content.references {
        let found = site.hub.event(id, content.test).await;
        let taken_back = found.map_err(|problem| problem.with_field("references"))?;
        caller.permit(&Act::Publish(&taken_back.event.content.subject))?;
    }
    Ok(())
}

fn read_one(media: Media, headers: &HeaderMap, body: &[u8], test: bool) -> Result<Content, Problem> {
    match media {
        Media::CloudEvent => cloudevents::from_structured(body, test),
        Media::CloudEventBinary => {
            let attributes: Vec<(&str, &str)> = headers
                .iter()
                .filter(|(name, _)| name.as_str().starts_with("ce-"))
                .filter_map(|(name, value)| Some((name.as_str(), std::str::from_utf8(value.as_bytes()).ok()?)))
                .collect();
            cloudevents::from_binary(&attributes, body, test)
        }
        Media::Native | Media::Lines | Media::CloudEventBatch => Content::from_json(body, test),
    }
}

fn is_test(headers: &HeaderMap) -> Result<bool, Problem> {
    match headers.get("x-hms-test").map(|value| value.as_bytes().to_ascii_lowercase()).as_deref() {
        None | Some(b"false") => Ok(false),
        Some(b"true") => Ok(true),
        // A dry run that is taken for a real event would be worse than a refusal.
        Some(_) => Err(Problem::new(Code::Invalid, "X-HMS-Test must be true or false").with_field("x-hms-test")),
    }
}

fn trace(headers: &HeaderMap) -> Trace {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    Trace::from_headers(text("traceparent"), text("x-hms-trace-id"), text("x-hms-docket-id"))
}

fn json(status: StatusCode, document: &impl Serialize) -> Response {
    let mut response = Response::new(Body::from(serde_json::to_vec(document).unwrap_or_default()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
