//! `/v1/unacked`: what lacks its ACK.

use axum::body::Body;
use axum::extract::State;
use ess_core::access::Act;
use ess_hub::Hub;
use http::{Request, StatusCode};

use super::{Answer, json as answer};
use crate::ask::{Query, authorize};
use crate::views;

pub(crate) async fn unacked(State(hub): State<Hub>, request: Request<Body>) -> Answer {
    authorize(&hub, request.headers(), &Act::Read)?;
    let mut query = Query::of(&request);
    let (after, limit) = (query.take("after"), query.limit()?);
    query.finish()?;
    let page = hub.unacked(after.as_deref(), limit).await?;
    answer(StatusCode::OK, &views::page(&page, views::delivery))
}
