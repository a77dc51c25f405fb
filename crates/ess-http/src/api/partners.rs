//! `/v1/partners`: add, show, change, pause, test, remove.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use ess_core::access::Act;
use ess_core::partner::Partner;
use ess_hub::Hub;
use ess_hub::view::PartnerChange;
use http::{Request, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, json as answer, json_text};
use crate::ask::{self, Query, authorize};
use crate::views;

/// How long the old secret signs too when nothing else is asked for.
const OVERLAP: Duration = Duration::from_secs(24 * 3600);
/// Events of one answer by the partner's counter.
const EVENTS_MAX: u64 = 1_000;

pub(crate) async fn add(State(hub): State<Hub>, request: Request<Body>) -> Answer {
    let caller = authorize(&hub, request.headers(), &Act::Operate)?;
    let mut query = Query::of(&request);
    let replace = query.flag("replace")?;
    query.finish()?;
    let reason = ask::reason(request.headers())?;
    let partner = Partner::from_json(&ask::json(request).await?)?;
    changed(&hub.add_partner(partner, replace, reason, &caller).await?)
}

pub(crate) async fn put(State(hub): State<Hub>, Path(id): Path<String>, request: Request<Body>) -> Answer {
    let caller = authorize(&hub, request.headers(), &Act::Operate)?;
    Query::of(&request).finish()?;
    let reason = ask::reason(request.headers())?;
    let partner = Partner::from_json(&ask::json(request).await?)?;
    if partner.id != ask::partner_id(&id)? {
        return Err(ask::invalid("id", &format!("the path names {id}, the document {}", partner.id)).into());
    }
    changed(&hub.add_partner(partner, true, reason, &caller).await?)
}

fn changed(change: &PartnerChange) -> Answer {
    let mut value = json!({"partner": views::partner(&change.partner), "changed": change.changed});
    match &change.secret {
        Some(secret) => {
            value["secret"] = json!(secret);
            answer(StatusCode::CREATED, &value)
        }
        None => answer(StatusCode::OK, &value),
    }
}

pub(crate) async fn list(State(hub): State<Hub>, request: Request<Body>) -> Answer {
    authorize(&hub, request.headers(), &Act::Read)?;
    let mut query = Query::of(&request);
    let (after, limit) = (query.take("after"), query.limit()?);
    query.finish()?;
    let page = hub.partners_page(after.as_deref(), limit).await?;
    answer(StatusCode::OK, &views::page(&page, views::partner))
}

pub(crate) async fn show(State(hub): State<Hub>, Path(id): Path<String>, request: Request<Body>) -> Answer {
    let id = ask::partner_id(&id)?;
    authorize(&hub, request.headers(), &Act::ReadPartner(&id))?;
    Query::of(&request).finish()?;
    answer(StatusCode::OK, &views::partner(&hub.partner(&id).await?))
}

pub(crate) async fn remove(State(hub): State<Hub>, Path(id): Path<String>, request: Request<Body>) -> Answer {
    let caller = authorize(&hub, request.headers(), &Act::Operate)?;
    let reason = ask::reason(request.headers())?;
    hub.remove_partner(&ask::partner_id(&id)?, reason, &caller).await?;
    Ok(json_text(StatusCode::NO_CONTENT, String::new()))
}

pub(crate) async fn pause(State(hub): State<Hub>, Path(id): Path<String>, request: Request<Body>) -> Answer {
    let caller = authorize(&hub, request.headers(), &Act::Operate)?;
    let reason = ask::reason(request.headers())?;
    answer(StatusCode::OK, &views::partner(&hub.pause_partner(&ask::partner_id(&id)?, reason, &caller).await?))
}

pub(crate) async fn resume(State(hub): State<Hub>, Path(id): Path<String>, request: Request<Body>) -> Answer {
    let caller = authorize(&hub, request.headers(), &Act::Operate)?;
    let reason = ask::reason(request.headers())?;
    answer(StatusCode::OK, &views::partner(&hub.resume_partner(&ask::partner_id(&id)?, reason, &caller).await?))
}

pub(crate) async fn test(State(hub): State<Hub>, Path(id): Path<String>, request: Request<Body>) -> Answer {
    let caller = authorize(&hub, request.headers(), &Act::Operate)?;
    let tested = hub.test_partner(&ask::partner_id(&id)?, &caller).await?;
    let mut value = json!({
        "message_id": tested.message_id,
        "acked": tested.acked,
        "took_ms": tested.took.as_secs_f64() * 1e3,
        "reason": tested.reason,
    });
    if let Some(status) = tested.status {
        value["status"] = json!(status);
    }
    answer(StatusCode::OK, &value)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RotateBody {
    #[serde(default)]
    overlap: Option<String>,
}

pub(crate) async fn rotate_secret(State(hub): State<Hub>, Path(id): Path<String>, request: Request<Body>) -> Answer {
    let caller = authorize(&hub, request.headers(), &Act::Operate)?;
    let body: RotateBody = ask::read(ask::json(request).await?)?;
    let overlap = match body.overlap {
        None => OVERLAP,
        Some(text) => ess_core::duration::parse(&text).map_err(|wrong| ask::invalid("overlap", &wrong))?,
    };
    let secret = hub.rotate_secret(&ask::partner_id(&id)?, overlap, &caller).await?;
    let value = json!({"secret": secret, "old_valid_for": ess_core::duration::format(overlap)});
    answer(StatusCode::OK, &value)
}

pub(crate) async fn events(State(hub): State<Hub>, Path(id): Path<String>, request: Request<Body>) -> Answer {
    let id = ask::partner_id(&id)?;
    authorize(&hub, request.headers(), &Act::ReadPartner(&id))?;
    let mut query = Query::of(&request);
    let (from, to) = (query.number("from")?.unwrap_or(1), query.number("to")?);
    query.finish()?;
    let most = from.saturating_add(EVENTS_MAX - 1);
    let found = hub.partner_events(&id, from, to.unwrap_or(most).min(most)).await?;
    let items: Vec<String> = found
        .iter()
        .map(|(number, envelope)| format!("{{\"partner_seq\":{number},\"envelope\":{envelope}}}"))
        .collect();
    Ok(json_text(StatusCode::OK, format!("{{\"items\":[{}]}}", items.join(","))))
}

pub(crate) async fn deliveries(State(hub): State<Hub>, Path(id): Path<String>, request: Request<Body>) -> Answer {
    let id = ask::partner_id(&id)?;
    authorize(&hub, request.headers(), &Act::ReadPartner(&id))?;
    let mut query = Query::of(&request);
    let (after, limit) = (query.take("after"), query.limit()?);
    query.finish()?;
    let page = hub.partner_deliveries(&id, after.as_deref(), limit).await?;
    let value: Value = views::page(&page, views::delivery);
    answer(StatusCode::OK, &value)
}
