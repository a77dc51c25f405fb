//! The audit trail, back-ups, public keys.

use axum::body::Body;
use axum::extract::State;
use ess_core::access::Act;
use ess_core::problem::{Code, Problem};
use ess_hub::Hub;
use http::{Request, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, json as answer};
use crate::ask::{self, Query, authorize};
use crate::views;

pub(crate) async fn keys(State(hub): State<Hub>) -> Answer {
    answer(StatusCode::OK, &json!({"keys": hub.public_keys()}))
}

pub(crate) async fn audit(State(hub): State<Hub>, request: Request<Body>) -> Answer {
    authorize(&hub, request.headers(), &Act::Read)?;
    let mut query = Query::of(&request);
    let (after, limit) = (query.number("after")?, query.limit()?);
    query.finish()?;
    let page = hub.audit_trail(after, limit).await?;
    let value = views::page(&page, |line| {
        let mut value = json!({
            "number": line.number,
            "at": line.at.to_string(),
            "actor": line.actor,
            "act": line.act,
            "object": line.object,
        });
        if let Some(reason) = &line.reason {
            value["reason"] = Value::from(reason.as_str());
        }
        value
    });
    answer(StatusCode::OK, &value)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BackupBody {
    file: String,
}

pub(crate) async fn backup(State(hub): State<Hub>, request: Request<Body>) -> Answer {
    // It writes files with the hub's rights: for those who may do everything.
    let caller = authorize(&hub, request.headers(), &Act::Tokens)?;
    let body: BackupBody = ask::read(ask::json(request).await?)?;
    let file = std::path::Path::new(&body.file);
    if !file.is_absolute() {
        return Err(Problem::new(Code::Invalid, "file must be an absolute path on the hub's machine")
            .with_field("file")
            .into());
    }
    let bytes = hub.backup(file, &caller).await?;
    answer(StatusCode::OK, &json!({"bytes": bytes}))
}
