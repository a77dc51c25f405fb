//! Problems as responses (RFC 9457): the one shape of an error.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use ess_core::problem::{Code, Problem};
use http::{HeaderValue, header};
use serde_json::json;

/// Where each kind of problem is explained; `invalid` is a name that never resolves (RFC 2606).
const TYPE_BASE: &str = "https://hms-ess.invalid/errors/";

/// A problem on its way out.
#[derive(Debug)]
pub(crate) struct Refusal(pub(crate) Problem);

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

/// A problem's JSON.
pub(crate) fn document(problem: &Problem, request_id: &str) -> serde_json::Value {
    let code = problem.code;
    let mut document = json!({
        "type": format!("{TYPE_BASE}{}", code.word()),
        "title": code.title(),
        "status": code.status(),
        "code": code.word(),
        "detail": problem.detail,
        "request_id": request_id,
    });
    if let Some(hint) = &problem.hint {
        document["hint"] = json!(hint);
    }
    if let Some(field) = &problem.field {
        document["field"] = json!(field);
    }
    if let Some((line, column)) = problem.position {
        document["position"] = json!({"line": line, "column": column});
    }
    document
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self(problem) = self;
        let request_id = new_request_id();
        let status = problem.code.status();
        tracing::info!(
            request.id = request_id,
            http.status = status,
            code = problem.code.word(),
            "refused: {}",
            problem.detail
        );
        let mut response = Response::new(Body::from(document(&problem, &request_id).to_string()));
        *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Ok(value) = HeaderValue::from_str(&request_id) {
            headers.insert("x-request-id", value);
        }
        if problem.code == Code::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"hms-ess\""));
        }
        if problem.code == Code::RequestTimeout {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(span) = problem.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(span.as_secs().max(1)));
        }
        response
    }
}

/// Counts requests of this process: unique enough to find a line in its log.
pub(crate) fn new_request_id() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("req_{:x}_{:x}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
