//! `/v1/tokens`: make, list, revoke.

use axum::body::Body;
use axum::extract::{Path, State};
use ess_core::access::{Act, Role};
use ess_core::partner::Glob;
use ess_core::problem::Problem;
use ess_core::time::Time;
use ess_hub::Hub;
use http::{Request, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, json as answer, json_text};
use crate::ask::{self, Query, authorize};
use crate::views;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenBody {
    role: String,
    #[serde(default)]
    subjects: Vec<String>,
    #[serde(default)]
    partner: Option<String>,
    #[serde(default)]
    note: Option<String>,
    #[serde(default)]
    expires_in: Option<String>,
}

pub(crate) async fn create(State(hub): State<Hub>, request: Request<Body>) -> Answer {
    let caller = authorize(&hub, request.headers(), &Act::Tokens)?;
    let body: TokenBody = ask::read(ask::json(request).await?)?;
    let role = read_role(&body)?;
    let note = body.note.unwrap_or_default();
    if note.len() > 200 {
        return Err(ask::invalid("note", "expected at most 200 bytes").into());
    }
    let expires_at = match &body.expires_in {
        None => None,
        Some(text) => {
            let span = ess_core::duration::parse(text).map_err(|wrong| ask::invalid("expires_in", &wrong))?;
            Some(now().after(span))
        }
    };
    let (text, view) = hub.create_token(role, note, expires_at, &caller).await?;
    let mut value = views::token(&view);
    value["token"] = json!(text);
    answer(StatusCode::CREATED, &value)
}

fn read_role(body: &TokenBody) -> Result<Role, Problem> {
    let role = match body.role.as_str() {
        "publisher" => {
            let subjects =
                body.subjects.iter().map(|glob| Glob::parse(glob).map_err(|wrong| ask::invalid("subjects", &wrong)));
            Role::Publisher { subjects: subjects.collect::<Result<_, _>>()? }
        }
        "partner" => match &body.partner {
            Some(id) => Role::Partner(ask::partner_id(id).map_err(|wrong| wrong.with_field("partner"))?),
            None => return Err(ask::invalid("partner", "a partner's token names its partner")),
        },
        "operator" => Role::Operator,
        "auditor" => Role::Auditor,
        "admin" => Role::Admin,
        _ => return Err(ask::invalid("role", "expected one of publisher, partner, operator, auditor, admin")),
    };
    match (&role, body.subjects.is_empty(), &body.partner) {
        (Role::Publisher { .. }, _, None) | (Role::Partner(_), true, Some(_)) | (_, true, None) => Ok(role),
        (Role::Publisher { .. }, ..) => Err(ask::invalid("partner", "only a partner's token names a partner")),
        _ if !body.subjects.is_empty() => {
            Err(ask::invalid("subjects", "only a publisher's token is limited to subjects"))
        }
        _ => Err(ask::invalid("partner", "only a partner's token names a partner")),
    }
}

pub(crate) async fn list(State(hub): State<Hub>, request: Request<Body>) -> Answer {
    authorize(&hub, request.headers(), &Act::Tokens)?;
    Query::of(&request).finish()?;
    let items: Vec<Value> = hub.tokens().await?.iter().map(views::token).collect();
    answer(StatusCode::OK, &json!({"items": items}))
}

pub(crate) async fn revoke(State(hub): State<Hub>, Path(id): Path<String>, request: Request<Body>) -> Answer {
    let caller = authorize(&hub, request.headers(), &Act::Tokens)?;
    let reason = ask::reason(request.headers())?;
    hub.revoke_token(&id, reason, &caller).await?;
    Ok(json_text(StatusCode::NO_CONTENT, String::new()))
}

fn now() -> Time {
    Time::from_micros(jiff::Timestamp::now().as_microsecond())
}
