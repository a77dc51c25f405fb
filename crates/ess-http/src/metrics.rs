//! `/metrics` on its own listener, for Prometheus on this machine. Never part of the public API.

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::Response;
use ess_hub::Hub;

/// Answers scrapes.
#[derive(Clone)]
pub(crate) struct Metrics {
    /// Whose metrics.
    pub(crate) hub: Hub,
}

impl Metrics {
    /// Answers one request.
    pub(crate) async fn answer(&self, method: &Method, path: &str) -> Response {
        let is_read = matches!(*method, Method::GET | Method::HEAD);
        let (status, kind, text) = match path {
            "/metrics" if is_read => {
                (StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", self.hub.scrape().await)
            }
            "/metrics" => (StatusCode::METHOD_NOT_ALLOWED, "text/plain; charset=utf-8", "only GET\n".to_owned()),
            _ => (StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "the metrics are at /metrics\n".to_owned()),
        };
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        response
    }
}
