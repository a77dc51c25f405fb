//! `/v1/ledger`: every receipt, and whether their chain holds.

use axum::body::Body;
use axum::extract::State;
use ess_core::access::Act;
use ess_hub::Hub;
use ess_hub::view::LedgerHead;
use http::{Request, StatusCode};
use serde_json::{Value, json};

use super::{Answer, json as answer};
use crate::ask::{Query, authorize};
use crate::views;

pub(crate) async fn list(State(hub): State<Hub>, request: Request<Body>) -> Answer {
    authorize(&hub, request.headers(), &Act::Read)?;
    let mut query = Query::of(&request);
    let (after, limit) = (query.number("after")?, query.limit()?);
    query.finish()?;
    let page = hub.ledger(after, limit).await?;
    answer(StatusCode::OK, &views::page(&page, views::ledger))
}

pub(crate) async fn checkpoint(State(hub): State<Hub>, request: Request<Body>) -> Answer {
    authorize(&hub, request.headers(), &Act::Read)?;
    Query::of(&request).finish()?;
    answer(StatusCode::OK, &head(&hub.ledger_head().await?))
}

pub(crate) async fn verify(State(hub): State<Hub>, request: Request<Body>) -> Answer {
    authorize(&hub, request.headers(), &Act::Read)?;
    let mut value = head(&hub.verify_ledger().await?);
    value["ok"] = json!(true);
    answer(StatusCode::OK, &value)
}

fn head(head: &LedgerHead) -> Value {
    json!({"size": head.size, "chain": head.chain.to_string()})
}
