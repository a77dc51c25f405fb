//! A partner's inbox, for partners that fetch their events: long poll, or server-sent events.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ess_core::access::Act;
use ess_core::id::PartnerId;
use ess_core::message::Message;
use ess_core::problem::{Code, Problem};
use ess_hub::Fetched;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::api::{Answer, List, OfPartner, ok};
use crate::caller::Caller;
use crate::limits::{INBOX_ITEMS_DEFAULT, INBOX_ITEMS_MAX, STREAM_HEARTBEAT, WAIT_MAX};
use crate::pieces::{self, Step};
use crate::query::Query;
use crate::site::Site;

/// A message of the inbox: what a webhook would have brought.
#[derive(Serialize, ToSchema)]
pub(crate) struct InboxMessage {
    /// `webhook-id`: the same each time that it is offered.
    message_id: String,
    event_id: String,
    version: u32,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    test: bool,
    /// How long it is this caller's alone, from the answer on.
    lease_ms: u64,
    /// Header fields of a webhook: signatures, `x-hms-partner-seq`, `x-hms-test`, `content-type`.
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    headers: serde_json::Map<String, Value>,
    /// The body, where it is JSON: its characters are the bytes that the signatures are of.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    envelope: Option<Box<RawValue>>,
    /// The body, where it is another text.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    /// The body, where it is neither, base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

impl InboxMessage {
    fn of(message: Message, lease: Duration) -> Self {
        let is_json = message.content_type.contains("json");
        let text = String::from_utf8(message.body.to_vec());
        // Lines of the stream end at a carriage return too, which would take it away.
        let (mut envelope, mut plain, mut base64) = (None, None, None);
        match text {
            Ok(text) if is_json && !text.contains('\r') => envelope = RawValue::from_string(text).ok(),
            Ok(text) if !is_json => plain = Some(text),
            _ => {}
        }
        if envelope.is_none() && plain.is_none() {
            base64 = Some(STANDARD.encode(&message.body));
        }
        let headers = message.headers.into_iter().chain([("content-type".to_owned(), message.content_type)]);
        Self {
            message_id: message.id,
            event_id: message.event_id.to_string(),
            version: message.version.0,
            test: message.test,
            lease_ms: u64::try_from(lease.as_millis()).unwrap_or(u64::MAX),
            headers: headers.map(|(name, value)| (name, Value::String(value))).collect(),
            envelope,
            text: plain,
            base64,
        }
    }
}

/// Fetch events
///
/// For partners with `channel: pull`: at most `max` messages as soon as there are any, none when `wait` is over. Each is this
/// caller's alone for the partner's `ack.within`; what is not acknowledged by then (`POST /v1/acks`) is offered again.
/// With `Accept: text/event-stream` the messages come one after the other, as they are due.
#[utoipa::path(
    get,
    path = "/v1/partners/{id}/inbox",
    tag = "Partner's side",
    operation_id = "read_inbox",
    params(
        ("id" = String, Path, description = "The partner's id.", example = "COURT-CAL"),
        ("wait" = Option<String>, Query, description = "How long to wait for a message, such as `30s`; at most `60s`; not at all unless given."),
        ("max" = Option<u32>, Query, description = "1 to 100 messages; 16 unless given."),
    ),
    responses((status = 200, description = "The messages.", body = List<InboxMessage>, example = json!({"items": [{"message_id": "msg_019ab0de6b2b7e2a9a52f3f0c1d2e3f4", "event_id": "RULE-COURT-DEADLINE-V3", "version": 1, "lease_ms": 30000, "headers": {"webhook-id": "msg_019ab0de6b2b7e2a9a52f3f0c1d2e3f4", "x-hms-partner-seq": "41", "content-type": "application/json"}, "envelope": {"id": "RULE-COURT-DEADLINE-V3", "version": 1, "subject": "RULE-COURT-DEADLINE", "time": "2026-11-23T16:00:00Z", "sequence": 97, "payload": {"cutoff": "16:00"}}}]}))),
)]
pub(crate) async fn read_inbox(
    State(site): State<Arc<Site>>,
    caller: Caller,
    OfPartner(id): OfPartner,
    query: Query,
    headers: HeaderMap,
) -> Answer {
    // Who takes a message holds it: reading alone does not permit that.
    caller.permit(&Act::Acknowledge(&id))?;
    query.only(&["wait", "max"])?;
    let wait = query.span("wait")?.unwrap_or_default();
    if wait > WAIT_MAX {
        return Err(Problem::new(Code::Invalid, "wait may be at most 60s").with_field("wait").into());
    }
    let most = query.number("max")?.unwrap_or(INBOX_ITEMS_DEFAULT);
    if !(1..=INBOX_ITEMS_MAX).contains(&most) {
        let detail = format!("max must be 1 to {INBOX_ITEMS_MAX}");
        return Err(Problem::new(Code::Invalid, detail).with_field("max").into());
    }
    let most = usize::try_from(most).unwrap_or(1);
    let is_stream = headers.get(ACCEPT).is_some_and(|accept| accept.as_bytes().starts_with(b"text/event-stream"));
    if !is_stream {
        let items = take(&site, &id, most, wait).await?.map(items).unwrap_or_default();
        return ok(List::whole(items));
    }
    // Who has no inbox is told so at once.
    let first = take(&site, &id, most, Duration::ZERO).await?.map(items).unwrap_or_default();
    let mut response = Response::new(pieces::body(Follower { site, id, most, first: Some(first) }, next));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// Waits no longer than the server lives; `None` when it stops.
async fn take(site: &Site, id: &PartnerId, most: usize, wait: Duration) -> Result<Option<Fetched>, Problem> {
    let mut stopping = site.stopping.clone();
    tokio::select! {
        // A message that was taken is answered, whatever else is due.
        biased;
        messages = site.hub.take_from_inbox(id, most, wait) => messages.map(Some),
        _ = stopping.wait_for(|stopping| *stopping) => Ok(None),
    }
}

fn items(fetched: Fetched) -> Vec<InboxMessage> {
    let Fetched { messages, lease } = fetched;
    messages.into_iter().map(|message| InboxMessage::of(message, lease)).collect()
}

/// A stream on its way.
struct Follower {
    site: Arc<Site>,
    id: PartnerId,
    most: usize,
    first: Option<Vec<InboxMessage>>,
}

async fn next(mut follower: Follower) -> Step<Follower> {
    if let Some(first) = follower.first.take() {
        return Ok(Some((Bytes::from(format!(": connected\nretry: 2000\n\n{}", told(first)?)), follower)));
    }
    let taken = take(&follower.site, &follower.id, follower.most, STREAM_HEARTBEAT).await;
    // The partner was removed, or has another channel now: it asks again and is told.
    let Ok(Some(fetched)) = taken else { return Ok(None) };
    let messages = items(fetched);
    let text = if messages.is_empty() { ": alive\n\n".to_owned() } else { told(messages)? };
    Ok(Some((Bytes::from(text), follower)))
}

/// Messages as server-sent events: a line of the message is a `data` line.
fn told(messages: Vec<InboxMessage>) -> io::Result<String> {
    let mut text = String::new();
    for item in messages {
        text.push_str(&format!("id: {}\nevent: message\n", item.message_id));
        for line in serde_json::to_string(&item)?.split('\n') {
            text.push_str(&format!("data: {line}\n"));
        }
        text.push('\n');
    }
    Ok(text)
}
