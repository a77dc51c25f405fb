//! What the API takes and answers, a file per noun, a function per verb. Wire shapes live here and nowhere else.

pub(crate) mod acks;
pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod bounces;
pub(crate) mod bridges;
pub(crate) mod bulk;
pub(crate) mod dead_letters;
pub(crate) mod deliveries;
pub(crate) mod drills;
pub(crate) mod escalations;
pub(crate) mod events;
pub(crate) mod health;
pub(crate) mod holds;
pub(crate) mod inbox;
pub(crate) mod keys;
pub(crate) mod lanes;
pub(crate) mod ledger;
pub(crate) mod ledger_export;
pub(crate) mod media;
pub(crate) mod nodes;
pub(crate) mod packet;
pub(crate) mod partner_events;
pub(crate) mod partners;
pub(crate) mod publish;
pub(crate) mod schemas;
pub(crate) mod stream;
pub(crate) mod tables;
pub(crate) mod targets;
pub(crate) mod tokens;

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ess_core::id::{EventId, PartnerId};
use ess_core::problem::{Code, Problem};
use ess_hub::view::Page;
use serde::Serialize;
use utoipa::ToSchema;

use crate::body::{self, ReadBody};
use crate::refusal::Refusal;
use crate::site::Site;

/// What a handler answers.
pub(crate) type Answer = Result<Response, Refusal>;

/// One page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct List<T> {
    /// The items.
    pub(crate) items: Vec<T>,
    /// Pass it back as `after` for the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<String>,
}

impl<T> List<T> {
    /// A list that is all there is.
    pub(crate) fn whole(items: Vec<T>) -> Self {
        Self { items, next: None }
    }

    /// The wire shape of a page.
    pub(crate) fn of<V>(page: Page<V>, shape: impl FnMut(V) -> T) -> Self {
        Self { items: page.items.into_iter().map(shape).collect(), next: page.next }
    }
}

/// Answers a JSON document.
pub(crate) fn answer(status: StatusCode, document: impl Serialize) -> Answer {
    let mut response = (status, Json(document)).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Answers a JSON document with 200.
pub(crate) fn ok(document: impl Serialize) -> Answer {
    answer(StatusCode::OK, document)
}

/// The bytes of a JSON request.
pub(crate) async fn read_json(site: &Site, request: Request, bytes_max: usize) -> Result<ReadBody<'_>, Problem> {
    let (parts, body): (Parts, Body) = request.into_parts();
    media::need_json(&parts.headers)?;
    body::read(site, body, bytes_max).await
}

/// The `{id}` of a path: an event's.
#[derive(Debug)]
pub(crate) struct OfEvent(pub(crate) EventId);

impl FromRequestParts<Arc<Site>> for OfEvent {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, site: &Arc<Site>) -> Result<Self, Refusal> {
        let Named(name) = Named::from_request_parts(parts, site).await?;
        Ok(Self(EventId::parse(&name)?))
    }
}

/// The `{id}` of a path: a partner's.
#[derive(Debug)]
pub(crate) struct OfPartner(pub(crate) PartnerId);

impl FromRequestParts<Arc<Site>> for OfPartner {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, site: &Arc<Site>) -> Result<Self, Refusal> {
        let Named(name) = Named::from_request_parts(parts, site).await?;
        Ok(Self(PartnerId::parse(&name)?))
    }
}

/// The `{id}` of a path, decoded: anything's.
#[derive(Debug)]
pub(crate) struct Named(pub(crate) String);

impl FromRequestParts<Arc<Site>> for Named {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, site: &Arc<Site>) -> Result<Self, Refusal> {
        match Path::<String>::from_request_parts(parts, site).await {
            Ok(Path(name)) if name.len() <= crate::limits::QUERY_VALUE_BYTES_MAX => Ok(Self(name)),
            _ => Err(Refusal(Problem::new(Code::NotFound, "the id in the path is none").with_field("id"))),
        }
    }
}
