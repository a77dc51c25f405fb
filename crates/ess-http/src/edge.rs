//! The first and last thing that a request meets: its id, the short way of a publish, the problem document, the log line.
//!
//! Never lets a panic reach the connection, never logs a body, a query or a token.

use std::borrow::Cow;
use std::error::Error;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::ALLOW;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use ess_core::problem::{Code, Problem};
use ess_hub::Hub;
use tokio::time::timeout;
use tower::ServiceExt;

use crate::api::publish;
use crate::caller::Peer;
use crate::dashboard::trouble;
use crate::limits::REQUEST_ID_BYTES_MAX;
use crate::refusal::{self, Refusal};
use crate::routes;
use crate::site::Site;

const PUBLISH: &str = "/v1/events";
/// How long an answer may take whose database says nothing to anybody: somewhat more than each question to it, and less than clients
/// wait before they ask the next hub. What is asked one after the other may not add up.
const UNANSWERED_MAX: Duration = Duration::from_secs(9);
/// How often it is looked at whether the database hangs, while an answer is being made.
const LOOK_EVERY: Duration = Duration::from_millis(500);
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

    /// Whose edge.
    pub(crate) fn hub(&self) -> &Hub {
        &self.site.hub
    }

    /// Answers one request, whatever happens.
    ///
    /// hyper moves this future into a box for every request, so its size is a cost: what is rare is boxed apart, and the
    /// rest stands in place.
    pub(crate) async fn answer<B>(&self, peer: SocketAddr, request: Request<B>) -> Response
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let id = own_request_id(request.headers()).unwrap_or_else(|| self.site.request_id());
        let method = request.method().clone();
        // A publish is what the hub is for: it goes straight to its handler. Its head is not held on to, so that hyper
        // can use the buffer again while the log is written.
        let is_publish = method == Method::POST && request.uri().path() == PUBLISH;
        let path = if is_publish { Cow::Borrowed(PUBLISH) } else { Cow::Owned(request.uri().path().to_owned()) };
        let is_page = path.starts_with(trouble::ROOT);
        let page_headers = if is_page { request.headers().clone() } else { HeaderMap::new() };
        let outcome = if is_publish {
            let (parts, body) = request.into_parts();
            caught(pin!(publish::answer(&self.site, peer.ip(), &id, parts, body))).await
        } else {
            caught(Box::pin(self.route(peer, &id, request)).as_mut()).await
        };
        let mut response = outcome.unwrap_or_else(|said| {
            tracing::error!(request_id = id, %method, path = &*path, "a request handler panicked: {said}");
            let detail = "the hub made a mistake; it is in its log under this request id";
            Refusal(Problem::new(Code::Internal, detail)).into_response()
        });
        if let Some(Refusal(problem)) = response.extensions_mut().remove() {
            log_refusal(&problem, &id, &method, &path, peer);
            self.site.hub.count_refusal(problem.code);
            let page = if is_page { trouble::page(&problem, &id, &path, &page_headers) } else { None };
            let allow = response.headers_mut().remove(ALLOW);
            response = page.unwrap_or_else(|| refusal::render(&problem, &id, allow));
        }
        if let Ok(value) = HeaderValue::try_from(id) {
            response.headers_mut().insert(REQUEST_ID, value);
        }
        response
    }

    async fn route<B>(&self, peer: SocketAddr, id: &str, request: Request<B>) -> Response
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Peer(peer));
        request.extensions_mut().insert(RequestId(Arc::from(id)));
        let mut answering = pin!(self.router.clone().oneshot(request));
        let began = Instant::now();
        loop {
            match timeout(LOOK_EVERY, &mut answering).await {
                Ok(Ok(response)) => return response,
                Ok(Err(never)) => match never {},
                Err(_) if began.elapsed() < UNANSWERED_MAX => {}
                Err(_) => {
                    if let Some(problem) = self.hub().unanswered() {
                        return Refusal(problem).into_response();
                    }
                }
            }
        }
    }
}

/// Runs a future; a panic inside becomes an error with its words.
async fn caught<F: Future>(mut future: Pin<&mut F>) -> Result<F::Output, String> {
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

fn log_refusal(problem: &Problem, id: &str, method: &Method, path: &str, peer: SocketAddr) {
    let (status, code) = (problem.code.status(), problem.code.word());
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
        assert_eq!(caught(pin!(async { 1 })).await, Ok(1));
        assert_eq!(caught(pin!(async { panic!("on {}", "purpose") })).await, Err::<(), _>("on purpose".to_owned()));
    }
}
