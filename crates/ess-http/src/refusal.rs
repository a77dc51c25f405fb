//! Refusals on their way to the client: RFC 9457 problem documents. Never says more than the `Problem` does: causes go to the log.

use axum::body::Body;
use axum::http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use ess_core::problem::{Code, Problem};
use serde::Serialize;
use utoipa::ToSchema;

/// A problem as a handler's error. The edge turns it into the document, as only the edge knows the request's id.
#[derive(Debug, Clone)]
pub(crate) struct Refusal(pub(crate) Problem);

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status(self.0.code);
        response.extensions_mut().insert(self);
        response
    }
}

/// The one shape of an error (RFC 9457, media type `application/problem+json`).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemDocument<'a> {
    /// Names the kind of problem.
    #[serde(rename = "type")]
    #[schema(example = "https://hms-ess.invalid/errors/invalid")]
    kind: String,
    /// The kind in words.
    title: &'a str,
    /// The HTTP status again.
    #[schema(example = 422)]
    status: u16,
    /// The word that a program branches on.
    #[schema(example = "invalid")]
    code: &'a str,
    /// What is wrong with this request.
    detail: &'a str,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
    /// The field at fault, as a dotted path.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    /// Where in the text, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<Position>,
    /// The request's id; also in the hub's log.
    request_id: &'a str,
}

/// A place in a text.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Position {
    line: u32,
    column: u32,
}

impl<'a> ProblemDocument<'a> {
    /// The document of a problem in the answer to one request.
    pub(crate) fn of(problem: &'a Problem, request_id: &'a str) -> Self {
        let code = problem.code.word();
        Self {
            kind: format!("https://hms-ess.invalid/errors/{code}"),
            title: problem.code.title(),
            status: problem.code.status(),
            code,
            detail: &problem.detail,
            hint: problem.hint.as_deref(),
            field: problem.field.as_deref(),
            position: problem.position.map(|(line, column)| Position { line, column }),
            request_id,
        }
    }
}

/// The whole answer to a refused request.
pub(crate) fn render(problem: &Problem, request_id: &str, allow: Option<HeaderValue>) -> Response {
    let document = ProblemDocument::of(problem, request_id);
    let body = serde_json::to_vec(&document).unwrap_or_default();
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status(problem.code);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(allow) = allow {
        headers.insert(ALLOW, allow);
    }
    if problem.code == Code::Unauthenticated {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"hms-ess\""));
    }
    if matches!(problem.code, Code::TooLarge | Code::RequestTimeout) {
        // The rest of the body is not read: the connection can't be used again.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let is_temporary = matches!(problem.code, Code::Unavailable | Code::TooManyRequests);
    if is_temporary || problem.retry_after.is_some() {
        // Whole seconds, rounded up: zero would invite the client back at once.
        let seconds = problem.retry_after.map_or(1, |span| span.as_secs() + u64::from(span.subsec_nanos() > 0)).max(1);
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A problem's HTTP status.
pub(crate) fn status(code: Code) -> StatusCode {
    StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_problem_kind_has_its_status_and_says_when_to_come_back() {
        for code in Code::ALL {
            let response = render(&Problem::new(code, "what is wrong"), "req-1", None);
            assert_eq!(response.status().as_u16(), code.status());
            assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
            assert_eq!(response.headers().contains_key(RETRY_AFTER), matches!(code.status(), 429 | 503), "{code:?}");
            assert_eq!(response.headers().contains_key(WWW_AUTHENTICATE), code.status() == 401);
        }
    }

    #[test]
    fn a_wait_is_rounded_up_to_whole_seconds() {
        let problem = Problem::new(Code::Unavailable, "full").with_retry_after(Duration::from_millis(1_200));
        assert_eq!(render(&problem, "req-1", None).headers()[RETRY_AFTER], "2");
    }

    #[test]
    fn a_document_names_field_position_and_request() {
        let problem = Problem::new(Code::Malformed, "not JSON").with_field("payload").with_position(2, 7);
        let document = serde_json::to_value(ProblemDocument::of(&problem, "req-1")).unwrap();
        assert_eq!(
            document,
            serde_json::json!({
                "type": "https://hms-ess.invalid/errors/malformed",
                "title": Code::Malformed.title(),
                "status": 400,
                "code": "malformed",
                "detail": "not JSON",
                "field": "payload",
                "position": {"line": 2, "column": 7},
                "request_id": "req-1",
            })
        );
    }
}
