//! Events that were published: the log, one event, its status, its deliveries, its replay.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use ess_core::access::{Act, Role};
use ess_core::event::{Gone, GoneCause};
use ess_core::id::{EventId, PartnerId, Seq};
use ess_core::problem::{Code, Problem};
use ess_core::search::Sought;
use ess_hub::view::{EventView, ReplayRequest, TextSearch};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::api::deliveries::Delivery;
use crate::api::{Answer, List, OfEvent, answer, ok, read_json};
use crate::caller::{Caller, Reason, need_reason};
use crate::document;
use crate::limits::{REPLAY_PARTNERS_MAX, SMALL_BODY_BYTES_MAX, WAIT_MAX};
use crate::query::Query;
use crate::site::Site;

/// An event as the log holds it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RecordedEvent {
    id: String,
    version: u32,
    subject: String,
    /// Its place in the log.
    sequence: u64,
    recorded_at: String,
    /// Absent when it is gone.
    #[schema(value_type = Option<serde_json::Value>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Arc<RawValue>>,
    /// The payload went when its time was over.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    expired: bool,
    /// An admin took the payload away.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    redacted: bool,
    /// How the payload went.
    #[serde(skip_serializing_if = "Option::is_none")]
    gone: Option<PayloadGone>,
    /// SHA-256 of the content in canonical form, as receipts and proofs name it.
    sha256: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    effective: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
    priority: &'static str,
    references: Vec<String>,
    kind: &'static str,
    test: bool,
    /// How many partners it was for.
    partners: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    docket_id: Option<String>,
}

/// How a payload went.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PayloadGone {
    at: String,
    /// The token's public name; absent when its time was over.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl PayloadGone {
    fn of(gone: &Gone) -> Self {
        let (by, reason) = match &gone.cause {
            GoneCause::Expired => (None, None),
            GoneCause::Redacted { by, reason } => (Some(by.clone()), Some(reason.clone())),
        };
        Self { at: gone.at.to_string(), by, reason }
    }
}

/// Why a payload is taken away.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Redact {
    /// Why; stands beside the event and in the audit trail. May come in `X-HMS-Reason` instead.
    reason: Option<String>,
}

/// What a redaction did.
#[derive(Serialize, ToSchema)]
pub(crate) struct Redacted {
    #[serde(flatten)]
    event: RecordedEvent,
    /// False while somebody still reads from the write-ahead log, such as a back-up: the bytes leave it right after, or at the
    /// hub's next start.
    wiped: bool,
}

impl RecordedEvent {
    fn of(view: EventView) -> Self {
        let event = &view.event;
        let content = &event.content;
        Self {
            id: content.id.to_string(),
            version: content.version.0,
            subject: content.subject.to_string(),
            sequence: event.seq.0,
            recorded_at: event.recorded_at.to_string(),
            payload: event.gone.is_none().then(|| content.payload.clone()),
            expired: event.gone.as_ref().is_some_and(|gone| gone.cause == GoneCause::Expired),
            redacted: event.gone.as_ref().is_some_and(|gone| gone.cause != GoneCause::Expired),
            gone: event.gone.as_ref().map(PayloadGone::of),
            sha256: event.content_digest.to_string(),
            source: content.source.clone(),
            time: content.time.clone(),
            effective: content.effective.clone(),
            expires: content.expires.clone(),
            priority: content.priority.word(),
            references: content.references.iter().map(EventId::to_string).collect(),
            kind: content.kind.word(),
            test: content.test,
            partners: view.partners,
            traceparent: event.trace.traceparent.clone(),
            trace_id: event.trace.trace_id.clone(),
            docket_id: event.trace.docket_id.clone(),
        }
    }
}

/// Read the Event Log
///
/// Events in the order in which they were recorded. A publisher that is limited to subjects sees only these.
#[utoipa::path(
    get,
    path = "/v1/events",
    tag = "Events",
    operation_id = "list_events",
    params(
        ("subject" = Option<String>, Query, description = "Only events of this subject."),
        ("text" = Option<String>, Query, description = "Only events whose payload holds this text, in any case. Each answer looks at a bounded part of the log: it may be short or empty and have a `next`, with which the search goes on."),
        ("after" = Option<u64>, Query, description = "Only events with a higher sequence number."),
        ("limit" = Option<u32>, Query, description = "1 to 1000; 100 unless given."),
    ),
    responses((status = 200, description = "A page of events.", body = List<RecordedEvent>, example = json!({"items": [{"id": "RULE-COURT-DEADLINE-V3", "version": 3, "subject": "RULE-COURT-DEADLINE", "sequence": 41, "recorded_at": "2026-11-23T16:00:00.123456Z", "payload": {"deadline": "16:00", "timezone": "local"}, "priority": "routine", "references": [], "kind": "change", "test": false, "partners": 3}], "next": "41"}))),
)]
pub(crate) async fn list_events(State(site): State<Arc<Site>>, caller: Caller, query: Query) -> Answer {
    caller.permit(&Act::ReadEvents)?;
    query.only(&["subject", "text", "after", "limit"])?;
    let after = Seq(query.number("after")?.unwrap_or(0));
    let (subject, limit) = (query.text("subject"), query.limit()?);
    let mut page = match query.text("text") {
        None => site.hub.events(subject, after, limit).await?,
        Some(text) => {
            let text = Sought::parse(text)?;
            // What is not for the caller's eyes is not even looked into.
            let search = TextSearch { text, subject: subject.map(str::to_owned), within: caller.subjects() };
            site.hub.events_with_text(search, after, limit).await?
        }
    };
    page.items.retain(|view| caller.may_see(&view.event.content.subject));
    ok(List::of(page, RecordedEvent::of))
}

/// Read one event
#[utoipa::path(
    get,
    path = "/v1/events/{id}",
    tag = "Events",
    operation_id = "read_event",
    params(
        ("id" = String, Path, description = "The event's id.", example = "RULE-COURT-DEADLINE-V3"),
        ("test" = Option<bool>, Query, description = "The dry run of this id."),
    ),
    responses((status = 200, description = "The event.", body = RecordedEvent)),
)]
pub(crate) async fn read_event(
    State(site): State<Arc<Site>>,
    caller: Caller,
    OfEvent(id): OfEvent,
    query: Query,
) -> Answer {
    caller.permit(&Act::ReadEvents)?;
    let test = query.only(&["test"])?.flag("test")?;
    let view = site.hub.event(&id, test).await?;
    caller.permit_event(&view.event.content.subject)?;
    ok(RecordedEvent::of(view))
}

/// Ask who has it
///
/// A plain object, partner to status word. With `wait` the answer comes when every delivery has ended, or the time is over.
#[utoipa::path(
    get,
    path = "/v1/events/{id}/status",
    tag = "Events",
    operation_id = "read_event_status",
    params(
        ("id" = String, Path, description = "The event's id.", example = "RULE-COURT-DEADLINE-V3"),
        ("test" = Option<bool>, Query, description = "The dry run of this id."),
        ("wait" = Option<String>, Query, description = "How long to wait for the end of all deliveries, such as `30s`; at most `60s`."),
    ),
    responses((status = 200, description = "Partner to `ack`, `pending`, `retrying`, `awaiting_ack`, `blocked`, `paused`, `dead`, `nack`, `superseded` or `cancelled`.", body = BTreeMap<String, String>, example = json!({"COURT-CAL": "ack", "LAW-FIRM-SYS": "pending"}))),
)]
pub(crate) async fn read_event_status(
    State(site): State<Arc<Site>>,
    caller: Caller,
    OfEvent(id): OfEvent,
    query: Query,
) -> Answer {
    caller.permit(&Act::ReadEvents)?;
    let test = query.only(&["test", "wait"])?.flag("test")?;
    let wait = query.span("wait")?;
    if wait.is_some_and(|wait| wait > WAIT_MAX) {
        return Err(Problem::new(Code::Invalid, "wait may be at most 60s").with_field("wait").into());
    }
    permit_event_of(&site, &caller, &id, test).await?;
    let words = status_within(&site, &id, test, wait).await?;
    ok(words.iter().map(|(partner, word)| (partner.as_str(), *word)).collect::<BTreeMap<_, _>>())
}

/// Waits no longer than the server lives: one that stops answers what is known.
async fn status_within(
    site: &Site,
    id: &EventId,
    test: bool,
    wait: Option<Duration>,
) -> Result<Vec<(PartnerId, &'static str)>, Problem> {
    let mut stopping = site.stopping.clone();
    if wait.is_some() {
        tokio::select! {
            words = site.hub.status(id, test, wait) => return words,
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
    }
    site.hub.status(id, test, None).await
}

/// List an event's deliveries
///
/// One for each partner and round, with the attempts.
#[utoipa::path(
    get,
    path = "/v1/events/{id}/deliveries",
    tag = "Events",
    operation_id = "list_event_deliveries",
    params(
        ("id" = String, Path, description = "The event's id.", example = "RULE-COURT-DEADLINE-V3"),
        ("test" = Option<bool>, Query, description = "The dry run of this id."),
    ),
    responses((status = 200, description = "The deliveries.", body = List<Delivery>, example = json!({"items": [{"event_id": "RULE-COURT-DEADLINE-V3", "sequence": 41, "partner": "LAW-FIRM-SYS", "round": 0, "replay": false, "test": false, "state": "retrying", "version": 3, "message_id": "msg_019ab0de6b2b7e2a9a52f3f0c1d2e3f4", "attempts_made": 1, "attempts": [{"number": 1, "at": "2026-11-23T16:00:00.2Z", "took_ms": 12, "outcome": "failed", "reason": "connect: connection refused"}], "due_at": "2026-11-23T16:00:05.1Z", "reason": "connect: connection refused"}]}))),
)]
pub(crate) async fn list_event_deliveries(
    State(site): State<Arc<Site>>,
    caller: Caller,
    OfEvent(id): OfEvent,
    query: Query,
) -> Answer {
    caller.permit(&Act::ReadEvents)?;
    let test = query.only(&["test"])?.flag("test")?;
    permit_event_of(&site, &caller, &id, test).await?;
    let views = site.hub.deliveries(&id, test).await?;
    ok(List::whole(views.into_iter().map(Delivery::of).collect()))
}

/// Only a limited publisher costs a look at the event.
async fn permit_event_of(site: &Site, caller: &Caller, id: &EventId, test: bool) -> Result<(), Problem> {
    if caller.is_limited() {
        caller.permit_event(&site.hub.event(id, test).await?.event.content.subject)?;
    }
    Ok(())
}

/// To whom to send an event again.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Replay {
    /// The partners; absent or empty means everyone who was to get it.
    #[serde(default)]
    to: Vec<String>,
    /// Also when a newer acknowledged event of the subject has overtaken it.
    #[serde(default)]
    force: bool,
}

/// What a replay set going.
#[derive(Serialize, ToSchema)]
pub(crate) struct Replayed {
    id: String,
    replayed: Vec<ReplayedTo>,
}

/// One partner of a replay.
#[derive(Serialize, ToSchema)]
pub(crate) struct ReplayedTo {
    partner: String,
    /// The number of this sending; the first one had 0.
    round: u32,
}

/// Send an event again
///
/// To the named partners, marked as a replay. A partner may have its own events sent again, to itself. What a newer acknowledged event of the subject has overtaken needs `force`.
#[utoipa::path(
    post,
    path = "/v1/events/{id}/replay",
    tag = "Events",
    operation_id = "replay_event",
    params(
        ("id" = String, Path, description = "The event's id.", example = "RULE-COURT-DEADLINE-V2"),
        ("X-HMS-Reason" = Option<String>, Header, description = "Why, for the audit trail."),
    ),
    request_body(content = Replay, example = json!({"to": ["LAW-FIRM-SYS"]})),
    responses((status = 202, description = "The replay is under way.", body = Replayed, example = json!({"id": "RULE-COURT-DEADLINE-V2", "replayed": [{"partner": "LAW-FIRM-SYS", "round": 1}]}))),
)]
pub(crate) async fn replay_event(
    State(site): State<Arc<Site>>,
    caller: Caller,
    OfEvent(id): OfEvent,
    query: Query,
    Reason(reason): Reason,
    request: Request,
) -> Answer {
    // A partner may have its own events sent again: that is judged by the body.
    if !matches!(caller.0.role, Role::Partner(_)) {
        caller.permit(&Act::Operate)?;
    }
    query.only(&[])?;
    let body = read_json(&site, request, SMALL_BODY_BYTES_MAX).await?;
    let Replay { to, force } = document::read_optional(&body.bytes)?;
    if to.len() > REPLAY_PARTNERS_MAX {
        let detail = format!("a replay names at most {REPLAY_PARTNERS_MAX} partners");
        return Err(Problem::new(Code::Invalid, detail).with_field("to").into());
    }
    let to: Result<Vec<PartnerId>, Problem> = to.iter().map(|partner| PartnerId::parse(partner)).collect();
    let to = to.map_err(|problem| problem.with_field("to"))?;
    match (&caller.0.role, &to[..]) {
        (Role::Partner(own), [to]) if own == to && !force => site.hub.need_delivery(&id, own).await?,
        _ => caller.permit(&Act::Operate)?,
    }
    let receipt = site.hub.replay(ReplayRequest { event: id, to, force, reason }, &caller.0).await?;
    let replayed =
        receipt.replayed.into_iter().map(|(partner, round)| ReplayedTo { partner: partner.to_string(), round });
    answer(StatusCode::ACCEPTED, Replayed { id: receipt.id.to_string(), replayed: replayed.collect() })
}

/// Redact an event's payload
///
/// Takes the payload away at once and for good, wherever the hub keeps it; who, when and why stand beside the event instead. Its digest stays, so that receipts and proofs still verify. Deliveries that have not ended are cancelled, dead letters discarded. What a partner got is with the partner. Refused under legal hold.
#[utoipa::path(
    post,
    path = "/v1/events/{id}/redact",
    tag = "Events",
    operation_id = "redact_event",
    params(
        ("id" = String, Path, description = "The event's id.", example = "RULE-COURT-DEADLINE-V3"),
        ("test" = Option<bool>, Query, description = "The dry run of this id."),
        ("X-HMS-Reason" = Option<String>, Header, description = "Why, instead of `reason`."),
    ),
    request_body(content = Redact, example = json!({"reason": "order of 2026-11-23: a minor is named"})),
    responses((status = 200, description = "The event as it is now.", body = Redacted, example = json!({"id": "RULE-COURT-DEADLINE-V3", "version": 3, "subject": "RULE-COURT-DEADLINE", "sequence": 41, "recorded_at": "2026-11-23T16:00:00.123456Z", "redacted": true, "gone": {"at": "2026-11-24T09:00:00Z", "by": "tok_3f9a0c12", "reason": "order of 2026-11-23: a minor is named"}, "sha256": "9c56cc51b374c3ba189210d5b6d4bf57790d351c96c47c02190ecf1e430635ab", "priority": "routine", "references": [], "kind": "change", "test": false, "partners": 3, "wiped": true}))),
)]
pub(crate) async fn redact_event(
    State(site): State<Arc<Site>>,
    caller: Caller,
    OfEvent(id): OfEvent,
    query: Query,
    told: Reason,
    request: Request,
) -> Answer {
    caller.permit(&Act::Redact)?;
    let test = query.only(&["test"])?.flag("test")?;
    let body = read_json(&site, request, SMALL_BODY_BYTES_MAX).await?;
    let Redact { reason } = document::read_optional(&body.bytes)?;
    let receipt = site.hub.redact(&id, test, need_reason(reason, told)?, &caller.0).await?;
    ok(Redacted { event: RecordedEvent::of(receipt.event), wiped: receipt.is_wiped })
}
