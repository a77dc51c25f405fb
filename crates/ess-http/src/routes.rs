//! Every route on one screen, by who calls it.

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use ess_core::problem::{Code, Problem};
use ess_hub::Hub;
use http::{Method, StatusCode, Uri, header};

use crate::api::{acks, admin, bridges, dead_letters, deliveries, events, ledger, partners, stream, tokens};
use crate::problem::Refusal;
use crate::{docs, openapi};

/// The API.
pub(crate) fn router(hub: Hub) -> Router {
    Router::new()
        // Publishers
        .route("/v1/events", post(events::publish).get(events::list))
        .route("/v1/events/{id}", get(events::show))
        .route("/v1/events/{id}/status", get(events::status))
        .route("/v1/events/{id}/deliveries", get(events::deliveries))
        // Partners
        .route("/v1/acks", post(acks::take))
        .route("/v1/partners/{id}/events", get(partners::events))
        .route("/v1/partners/{id}/deliveries", get(partners::deliveries))
        .route("/v1/keys", get(admin::keys))
        // Operators
        .route("/v1/events/{id}/replay", post(events::replay))
        .route("/v1/partners", post(partners::add).get(partners::list))
        .route("/v1/partners/{id}", get(partners::show).put(partners::put).delete(partners::remove))
        .route("/v1/partners/{id}/pause", post(partners::pause))
        .route("/v1/partners/{id}/resume", post(partners::resume))
        .route("/v1/partners/{id}/test", post(partners::test))
        .route("/v1/partners/{id}/rotate-secret", post(partners::rotate_secret))
        .route("/v1/bridges", post(bridges::add).get(bridges::list))
        .route("/v1/bridges/try", post(bridges::attempt))
        .route("/v1/bridges/{id}", delete(bridges::remove))
        .route("/v1/dead-letters", get(dead_letters::list))
        .route("/v1/dead-letters/redrive", post(dead_letters::redrive))
        .route("/v1/dead-letters/discard", post(dead_letters::discard))
        .route("/v1/unacked", get(deliveries::unacked))
        .route("/v1/stream", get(stream::follow))
        // Auditors
        .route("/v1/ledger", get(ledger::list))
        .route("/v1/ledger/checkpoint", get(ledger::checkpoint))
        .route("/v1/ledger/verify", post(ledger::verify))
        .route("/v1/audit", get(admin::audit))
        // Admins
        .route("/v1/tokens", post(tokens::create).get(tokens::list))
        .route("/v1/tokens/{id}", delete(tokens::revoke))
        .route("/v1/backup", post(admin::backup))
        // Everyone
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/openapi.json", get(openapi::serve))
        .route("/docs", get(docs::page))
        .route("/docs/style.css", get(docs::style))
        .route("/", get(docs::home))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .with_state(hub)
}

/// The metrics listener's only page.
pub(crate) fn metrics_router(hub: Hub) -> Router {
    Router::new().route("/metrics", get(metrics)).fallback(unknown).with_state(hub)
}

async fn ready(State(hub): State<Hub>) -> Result<&'static str, Refusal> {
    match hub.unready() {
        None => Ok("ready\n"),
        Some(reason) => {
            Err(Problem::new(Code::Unavailable, reason).with_retry_after(std::time::Duration::from_secs(1)).into())
        }
    }
}

async fn metrics(State(hub): State<Hub>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    (StatusCode::OK, [(header::CONTENT_TYPE, kind)], hub.metrics_text()).into_response()
}

async fn unknown(uri: Uri) -> Refusal {
    let shown: String = uri.path().chars().take(100).collect();
    Refusal(Problem::new(Code::NotFound, format!("there is no {shown}")).with_hint("/docs lists every route"))
}

async fn wrong_method(method: Method, uri: Uri) -> Refusal {
    let shown: String = uri.path().chars().take(100).collect();
    let detail = format!("{shown} does not take {method}");
    Refusal(Problem::new(Code::MethodNotAllowed, detail).with_hint("/docs lists what each route takes"))
}
