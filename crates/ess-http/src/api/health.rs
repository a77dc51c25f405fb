//! Whether the hub lives and can serve. No token, no detail that a stranger should not see.

use std::sync::Arc;

use axum::extract::State;
use ess_core::problem::{Code, Problem};

use crate::api::Answer;
use crate::site::Site;

/// Is it alive?
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "Hub",
    operation_id = "read_health",
    security(()),
    responses((status = 200, description = "The process answers.", body = String, content_type = "text/plain", example = "ok")),
)]
pub(crate) async fn read_health() -> &'static str {
    "ok\n"
}

/// Can it take events?
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "Hub",
    operation_id = "read_readiness",
    security(()),
    responses(
        (status = 200, description = "It can.", body = String, content_type = "text/plain", example = "ready"),
        (status = 503, description = "It can't, or is about to stop (and takes events until it does), and why.", body = crate::refusal::ProblemDocument<'_>, content_type = "application/problem+json"),
    ),
)]
pub(crate) async fn read_readiness(State(site): State<Arc<Site>>) -> Answer {
    use axum::response::IntoResponse;
    // A hub that drains takes publishes all the same: only whoever asks before it chooses a hub is sent elsewhere.
    if site.hub.is_draining() || *site.stopping.borrow() {
        return Err(Problem::new(Code::Unavailable, "the hub is stopping").into());
    }
    match site.hub.unready() {
        None => Ok("ready\n".into_response()),
        Some(reason) => Err(Problem::new(Code::Unavailable, reason).into()),
    }
}
