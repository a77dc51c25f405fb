//! `/v1/dead-letters`: list, redrive, discard.

use axum::body::Body;
use axum::extract::State;
use ess_core::access::Act;
use ess_core::id::{EventId, PartnerId};
use ess_core::problem::Problem;
use ess_hub::Hub;
use http::{Request, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::{Answer, json as answer};
use crate::ask::{self, Query, authorize};
use crate::views;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    #[serde(default)]
    partner: Option<String>,
    #[serde(default)]
    event: Option<String>,
    #[serde(default)]
    reason: Option<String>,
}

impl Which {
    fn ids(&self) -> Result<(Option<PartnerId>, Option<EventId>), Problem> {
        let partner = self.partner.as_deref().map(ask::partner_id).transpose();
        let event = self.event.as_deref().map(ask::event_id).transpose();
        Ok((partner.map_err(|wrong| wrong.with_field("partner"))?, event.map_err(|wrong| wrong.with_field("event"))?))
    }
}

pub(crate) async fn list(State(hub): State<Hub>, request: Request<Body>) -> Answer {
    authorize(&hub, request.headers(), &Act::Read)?;
    let mut query = Query::of(&request);
    let (partner, after, limit) = (query.take("partner"), query.take("after"), query.limit()?);
    query.finish()?;
    let partner = partner.as_deref().map(ask::partner_id).transpose()?;
    let page = hub.dead_letters(partner.as_ref(), after.as_deref(), limit).await?;
    answer(StatusCode::OK, &views::page(&page, views::delivery))
}

pub(crate) async fn redrive(State(hub): State<Hub>, request: Request<Body>) -> Answer {
    let caller = authorize(&hub, request.headers(), &Act::Operate)?;
    let header = ask::reason(request.headers())?;
    let which: Which = ask::read(ask::json(request).await?)?;
    let (partner, event) = which.ids()?;
    let count = hub.redrive(partner.as_ref(), event.as_ref(), which.reason.or(header), &caller).await?;
    answer(StatusCode::OK, &json!({"redriven": count}))
}

pub(crate) async fn discard(State(hub): State<Hub>, request: Request<Body>) -> Answer {
    let caller = authorize(&hub, request.headers(), &Act::Operate)?;
    let header = ask::reason(request.headers())?;
    let which: Which = ask::read(ask::json(request).await?)?;
    let (partner, event) = which.ids()?;
    let reason = which.reason.or(header).unwrap_or_default();
    let count = hub.discard(partner.as_ref(), event.as_ref(), reason, &caller).await?;
    answer(StatusCode::OK, &json!({"discarded": count}))
}
