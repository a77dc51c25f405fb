//! The first and last thing that a request meets: its id, the short way of a publish, the problem document, the log line.
//!
//! Never lets a panic reach the connection, never logs a body, a query or a token.

use std::error::Error;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::ALLOW;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use axum::response::Response;
use bytes::Bytes;
use ess_core::problem::{Code, Problem};
use tower::ServiceExt;

use crate::api::publish;
use crate::caller::Peer;
use crate::limits::REQUEST_ID_BYTES_MAX;
use crate::refusal::{self, Refusal};
use crate::routes;
use crate::site::Site;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of the request that is being answered.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) Arc<str>);

/// Answers requests.
#[derive(Clone)]
pub(crate) struct Edge {
    site: Arc<Site>,
    router: Router,
}

impl Edge {
    /// The edge of a site.
    pub(crate) fn new(site: Arc<Site>) -> Self {
        Self { router: routes::router().with_state(site.clone()), site }
    }

    /// Answers one request, whatever happens.
    pub(crate) async fn answer<B>(&self, peer: SocketAddr, request: Request<B>) -> Response
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let id = own_request_id(request.headers()).unwrap_or_else(|| self.site.request_id());
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let id: Arc<str> = Arc::from(id);
        let mut response = match caught(self.route(peer, id.clone(), request)).await {
            Ok(response) => response,
            Err(said) => {
                tracing::error!(request_id = &*id, %method, path = uri.path(), "a request handler panicked: {said}");
                refuse(Problem::new(Code::Internal, "the hub made a mistake; it is in its log under this request id"))
            }
        };
        if let Some(Refusal(problem)) = response.extensions_mut().remove() {
            log_refusal(&problem, &id, &method, &uri, peer);
            response = refusal::render(&problem, &id, response.headers_mut().remove(ALLOW));
        }
        if let Ok(value) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(REQUEST_ID, value);
        }
        response
    }

    /// A publish is what the hub is for: it goes straight to its handler.
    async fn route<B>(&self, peer: SocketAddr, id: Arc<str>, request: Request<B>) -> Response
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        if request.method() == Method::POST && request.uri().path() == "/v1/events" {
            let (parts, body) = request.into_parts();
            return publish::answer(&self.site, peer.ip(), &id, parts, body).await;
        }
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Peer(peer));
        request.extensions_mut().insert(RequestId(id));
        match self.router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

fn refuse(problem: Problem) -> Response {
    use axum::response::IntoResponse;
    Refusal(problem).into_response()
}

/// Runs a future; a panic inside becomes an error with its words.
async fn caught<F: Future>(future: F) -> Result<F::Output, String> {
    let mut future = pin!(future);
    poll_fn(|ctx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(ctx))) {
        Ok(poll) => poll.map(Ok),
        Err(payload) => {
            let said = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
            Poll::Ready(Err(said.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default()))
        }
    })
    .await
}

/// The caller's own request id, if it is one that can stand in a log.
fn own_request_id(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(REQUEST_ID)?.to_str().ok()?;
    let is_sane = (1..=REQUEST_ID_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    is_sane.then(|| text.to_owned())
}

fn log_refusal(problem: &Problem, id: &str, method: &Method, uri: &Uri, peer: SocketAddr) {
    let (status, code, path) = (problem.code.status(), problem.code.word(), uri.path());
    if status >= 500 {
        tracing::warn!(request_id = id, %method, path, status, code, %peer, "refused: {}", problem.detail);
    } else {
        tracing::info!(request_id = id, %method, path, status, code, %peer, "refused: {}", problem.detail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sane_request_id_is_taken_over() {
        let own = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_str(value).unwrap());
            own_request_id(&headers)
        };
        assert_eq!(own("deploy-42.a_b").as_deref(), Some("deploy-42.a_b"));
        for bad in ["", "a b", "a\"b", &"x".repeat(65)] {
            assert_eq!(own(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn a_panic_becomes_an_error() {
        assert_eq!(caught(async { 1 }).await, Ok(1));
        assert_eq!(caught(async { panic!("on {}", "purpose") }).await, Err::<(), _>("on purpose".to_owned()));
    }
}
