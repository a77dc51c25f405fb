//! `/v1/events`: publish, read, replay.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use ess_core::access::{Act, Principal};
use ess_core::event::{Content, Trace, lines};
use ess_core::id::Seq;
use ess_core::limits::{BULK_BYTES_MAX, BULK_EVENTS_MAX, EVENT_BYTES_MAX};
use ess_core::problem::{Code, Problem};
use ess_hub::Hub;
use ess_hub::view::ReplayRequest;
use http::{HeaderMap, Request, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::{Answer, json as answer, json_text};
use crate::ask::{self, Query, allow, authorize, caller};
use crate::{problem, views};

/// The longest that `?wait=` may ask for.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Events of a bulk body that wait for their commit at once.
const BULK_AT_ONCE: usize = 512;

/// How an event comes.
enum Form {
    Native,
    Structured,
    Binary,
    Batch,
    Ndjson,
}

pub(crate) async fn publish(State(hub): State<Hub>, request: Request<Body>) -> Answer {
    let caller = caller(&hub, request.headers())?;
    let mut query = Query::of(&request);
    let is_plan = query.flag("plan")?;
    query.finish()?;
    let test = is_test(request.headers())?;
    let trace = trace(request.headers());
    let form = form(request.headers())?;
    let content = match form {
        Form::Batch | Form::Ndjson if is_plan => {
            return Err(ask::invalid("plan", "one event at a time can be planned").into());
        }
        Form::Batch => {
            let body = ask::body(request, BULK_BYTES_MAX).await?;
            let events = ess_core::cloudevents::from_batch(&body, test)?;
            return bulk(hub, caller, trace, (1..).zip(events).collect()).await;
        }
        Form::Ndjson => {
            let body = ask::body(request, BULK_BYTES_MAX).await?;
            let events =
                lines(&body).take(BULK_EVENTS_MAX + 1).map(|(line, text)| (line, Content::from_json(text, test)));
            return bulk(hub, caller, trace, events.collect()).await;
        }
        Form::Native => Content::from_json(&ask::body(request, EVENT_BYTES_MAX).await?, test)?,
        Form::Structured => ess_core::cloudevents::from_structured(&ask::body(request, EVENT_BYTES_MAX).await?, test)?,
        Form::Binary => {
            let headers = request.headers().clone();
            let attributes: Vec<(&str, &str)> =
                headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?))).collect();
            ess_core::cloudevents::from_binary(&attributes, &ask::body(request, EVENT_BYTES_MAX).await?, test)?
        }
    };
    allow(&caller, &Act::Publish(&content.subject))?;
    if is_plan {
        return answer(StatusCode::OK, &views::plan(&hub.plan(content).await?));
    }
    let receipt = hub.publish(content, trace, &caller).await?;
    let status = if receipt.duplicate { StatusCode::OK } else { StatusCode::ACCEPTED };
    answer(status, &views::receipt(&receipt))
}

/// Each event stands alone; they are recorded in the order of the body.
async fn bulk(hub: Hub, caller: Principal, trace: Trace, events: Vec<(u32, Result<Content, Problem>)>) -> Answer {
    if events.len() > BULK_EVENTS_MAX {
        let detail = format!("at most {BULK_EVENTS_MAX} events are taken at once");
        return Err(Problem::new(Code::TooLarge, detail).with_hint("send them in several bodies").into());
    }
    let places = Arc::new(Semaphore::new(BULK_AT_ONCE));
    let mut under_way = Vec::with_capacity(events.len());
    for (line, content) in events {
        let content = content.and_then(|content| {
            allow(&caller, &Act::Publish(&content.subject))?;
            Ok(content)
        });
        match content {
            Err(problem) => under_way.push((line, Err(problem))),
            Ok(content) => {
                // Invariant: the semaphore is never closed.
                let place = places.clone().acquire_owned().await;
                let (hub, trace, caller) = (hub.clone(), trace.clone(), caller.clone());
                // Polled once here, so that the events reach the store in the order of the body.
                let mut publishing = Box::pin(async move { hub.publish(content, trace, &caller).await });
                let first = std::future::poll_fn(|cx| std::task::Poll::Ready(publishing.as_mut().poll(cx))).await;
                let task = tokio::spawn(async move {
                    let result = match first {
                        std::task::Poll::Ready(result) => result,
                        std::task::Poll::Pending => publishing.await,
                    };
                    drop(place);
                    result
                });
                under_way.push((line, Ok(task)));
            }
        }
    }
    let (mut results, mut counts) = (Vec::with_capacity(under_way.len()), [0u32; 3]);
    for (line, result) in under_way {
        let result = match result {
            Err(problem) => Err(problem),
            Ok(task) => {
                task.await.unwrap_or_else(|_| Err(Problem::new(Code::Internal, "the hub failed on this event")))
            }
        };
        results.push(match result {
            Ok(receipt) => {
                counts[usize::from(receipt.duplicate)] += 1;
                let status = if receipt.duplicate { 200 } else { 202 };
                json!({"line": line, "status": status, "receipt": views::receipt(&receipt)})
            }
            Err(wrong) => {
                counts[2] += 1;
                let document = problem::document(&wrong, &problem::new_request_id());
                json!({"line": line, "status": wrong.code.status(), "problem": document})
            }
        });
    }
    let [recorded, duplicates, refused] = counts;
    let value = json!({"results": results, "recorded": recorded, "duplicates": duplicates, "refused": refused});
    answer(StatusCode::OK, &value)
}

pub(crate) async fn list(State(hub): State<Hub>, request: Request<Body>) -> Answer {
    authorize(&hub, request.headers(), &Act::ReadEvents)?;
    let mut query = Query::of(&request);
    let (subject, after, limit) = (query.take("subject"), query.number("after")?, query.limit()?);
    query.finish()?;
    let page = hub.events(subject.as_deref(), Seq(after.unwrap_or(0)), limit).await?;
    let items: Vec<String> = page.items.iter().map(views::event).collect();
    let next = page.next.map(|next| format!(",\"next\":{}", json!(next))).unwrap_or_default();
    Ok(json_text(StatusCode::OK, format!("{{\"items\":[{}]{next}}}", items.join(","))))
}

pub(crate) async fn show(State(hub): State<Hub>, Path(id): Path<String>, request: Request<Body>) -> Answer {
    authorize(&hub, request.headers(), &Act::ReadEvents)?;
    let mut query = Query::of(&request);
    let test = query.flag("test")?;
    query.finish()?;
    let event = hub.event(&ask::event_id(&id)?, test).await?;
    Ok(json_text(StatusCode::OK, views::event(&event)))
}

pub(crate) async fn status(State(hub): State<Hub>, Path(id): Path<String>, request: Request<Body>) -> Answer {
    authorize(&hub, request.headers(), &Act::ReadEvents)?;
    let mut query = Query::of(&request);
    let (test, wait) = (query.flag("test")?, query.span("wait")?);
    query.finish()?;
    if wait.is_some_and(|wait| wait > WAIT_MAX) {
        return Err(ask::invalid("wait", "expected at most 60s; ask again for longer").into());
    }
    let words = hub.status(&ask::event_id(&id)?, test, wait).await?;
    let value: serde_json::Map<String, Value> =
        words.into_iter().map(|(partner, word)| (partner.to_string(), json!(word))).collect();
    answer(StatusCode::OK, &Value::Object(value))
}

pub(crate) async fn deliveries(State(hub): State<Hub>, Path(id): Path<String>, request: Request<Body>) -> Answer {
    authorize(&hub, request.headers(), &Act::ReadEvents)?;
    let mut query = Query::of(&request);
    let test = query.flag("test")?;
    query.finish()?;
    let deliveries = hub.deliveries(&ask::event_id(&id)?, test).await?;
    let items: Vec<Value> = deliveries.iter().map(views::delivery).collect();
    answer(StatusCode::OK, &json!({"items": items}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplayBody {
    #[serde(default)]
    to: Vec<String>,
    #[serde(default)]
    force: bool,
}

pub(crate) async fn replay(State(hub): State<Hub>, Path(id): Path<String>, request: Request<Body>) -> Answer {
    let caller = authorize(&hub, request.headers(), &Act::Operate)?;
    let reason = ask::reason(request.headers())?;
    let body: ReplayBody = ask::read(ask::json(request).await?)?;
    let to = body
        .to
        .iter()
        .map(|id| ask::partner_id(id).map_err(|wrong| wrong.with_field("to")))
        .collect::<Result<_, _>>()?;
    let request = ReplayRequest { event: ask::event_id(&id)?, to, force: body.force, reason };
    let receipt = hub.replay(request, &caller).await?;
    let replayed: Vec<Value> =
        receipt.replayed.iter().map(|(partner, round)| json!({"partner": partner.as_str(), "round": round})).collect();
    answer(StatusCode::ACCEPTED, &json!({"id": receipt.id.as_str(), "replayed": replayed}))
}

fn form(headers: &HeaderMap) -> Result<Form, Problem> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("application/json");
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match kind.as_str() {
        "application/cloudevents+json" => Ok(Form::Structured),
        "application/cloudevents-batch+json" => Ok(Form::Batch),
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Ok(Form::Ndjson),
        "application/json" if headers.contains_key("ce-specversion") => Ok(Form::Binary),
        "application/json" => Ok(Form::Native),
        other => Err(Problem::new(Code::UnsupportedMediaType, format!("content type {other} is not understood")).with_hint(
            "send application/json, application/x-ndjson, application/cloudevents+json or application/cloudevents-batch+json",
        )),
    }
}

fn is_test(headers: &HeaderMap) -> Result<bool, Problem> {
    match headers.get("x-hms-test").map(|value| value.as_bytes().to_ascii_lowercase()) {
        None => Ok(false),
        Some(value) if value == b"true" || value == b"1" => Ok(true),
        Some(value) if value == b"false" || value == b"0" => Ok(false),
        Some(_) => Err(ask::invalid("X-HMS-Test", "expected true or false")),
    }
}

fn trace(headers: &HeaderMap) -> Trace {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    Trace::from_headers(text("traceparent"), text("x-hms-trace-id"), text("x-hms-docket-id"))
}
