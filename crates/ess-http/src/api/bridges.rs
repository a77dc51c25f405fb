//! `/v1/bridges`: add, list, remove, try.

use axum::body::Body;
use axum::extract::{Path, State};
use ess_core::access::Act;
use ess_core::bridge::{Bridge, Example, FromVersion, Rule};
use ess_core::event::read_version;
use ess_core::id::{Digest, Subject};
use ess_core::partner::Glob;
use ess_core::problem::Problem;
use ess_hub::Hub;
use http::{Request, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{Answer, json as answer, json_text};
use crate::ask::{self, Query, authorize};
use crate::views;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BridgeBody {
    subject: String,
    from: Value,
    to: Value,
    #[serde(default)]
    script: Option<String>,
    #[serde(default)]
    identity: bool,
    #[serde(default)]
    examples: Vec<ExampleBody>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExampleBody {
    input: Value,
    output: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TryBody {
    subject: String,
    from: Value,
    to: Value,
    #[serde(default)]
    script: Option<String>,
    payload: Box<RawValue>,
}

pub(crate) async fn add(State(hub): State<Hub>, request: Request<Body>) -> Answer {
    let caller = authorize(&hub, request.headers(), &Act::Operate)?;
    let mut query = Query::of(&request);
    let replace = query.flag("replace")?;
    query.finish()?;
    let bridge = read_bridge(ask::read(ask::json(request).await?)?)?;
    let id = bridge.id.clone();
    let changed = hub.add_bridge(bridge, replace, &caller).await?;
    let status = if changed { StatusCode::CREATED } else { StatusCode::OK };
    answer(status, &json!({"id": id, "changed": changed}))
}

fn read_bridge(body: BridgeBody) -> Result<Bridge, Problem> {
    let subject = Glob::parse(&body.subject).map_err(|wrong| ask::invalid("subject", &wrong))?;
    let from = read_from(&body.from)?;
    let to = read_version(&body.to.to_string(), "to")?;
    let rule = match (body.script, body.identity) {
        (None, true) => Rule::Identity,
        (Some(text), false) => Rule::Script { digest: Digest::of(text.as_bytes()), text },
        _ => return Err(ask::invalid("script", "expected either a script or \"identity\": true")),
    };
    let examples = body
        .examples
        .into_iter()
        .map(|example| Example { input: example.input.to_string(), output: example.output.to_string() })
        .collect();
    Ok(Bridge { id: Bridge::id_of(&subject, from, to), subject, from, to, rule, examples })
}

fn read_from(from: &Value) -> Result<FromVersion, Problem> {
    let text = from.as_str().map_or_else(|| from.to_string(), str::to_owned);
    FromVersion::parse(&text).map_err(|wrong| ask::invalid("from", &wrong.to_string()))
}

pub(crate) async fn list(State(hub): State<Hub>, request: Request<Body>) -> Answer {
    authorize(&hub, request.headers(), &Act::Read)?;
    Query::of(&request).finish()?;
    let items: Vec<Value> = hub.bridges().await?.iter().map(views::bridge).collect();
    answer(StatusCode::OK, &json!({"items": items}))
}

pub(crate) async fn remove(State(hub): State<Hub>, Path(id): Path<String>, request: Request<Body>) -> Answer {
    let caller = authorize(&hub, request.headers(), &Act::Operate)?;
    let reason = ask::reason(request.headers())?;
    hub.remove_bridge(&id, reason, &caller).await?;
    Ok(json_text(StatusCode::NO_CONTENT, String::new()))
}

pub(crate) async fn attempt(State(hub): State<Hub>, request: Request<Body>) -> Answer {
    authorize(&hub, request.headers(), &Act::Operate)?;
    let body = ask::body(request, ess_core::limits::ADMIN_BYTES_MAX).await?;
    // Read from the text itself: a payload's numbers stay as they were written.
    let body: TryBody = serde_json::from_slice(&body).map_err(|error| {
        Problem::new(ess_core::problem::Code::Invalid, error.to_string())
            .with_hint("send {\"subject\", \"from\", \"to\", \"payload\"} and, to try a script, \"script\"")
    })?;
    let subject = Subject::parse(&body.subject)?;
    let from = read_version(&body.from.to_string(), "from")?;
    let to = read_version(&body.to.to_string(), "to")?;
    let output = hub.try_bridge(&subject, from, to, body.script.as_deref(), body.payload.get()).await?;
    Ok(json_text(StatusCode::OK, format!("{{\"output\":{output}}}")))
}
