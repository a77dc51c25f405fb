//! `/dashboard/live`: tells a page that something changed, so that its script fetches what it shows anew.
//!
//! It carries no content, and it listens to commits, not to happenings: two hundred open pages put nothing into words. A page
//! hears of a burst once.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::Response;
use bytes::Bytes;
use ess_core::problem::{Code, Problem};
use ess_hub::TokenMark;
use ess_hub::metrics::Limit;
use http_body::Frame;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::sessions::SessionId;
use super::visitor::Visitor;
use super::{PART_AGE_MAX, Screen};
use crate::limits::{DASHBOARD_STREAMS_MAX, STREAM_HEARTBEAT};
use crate::site::Site;

/// The least between two words to one page: with the settling below, an ACK is seen within a second.
const GAP: Duration = Duration::from_millis(600);
/// How long a burst may settle. Not shorter than a rendered part lives, so that what is fetched then is newer than the change.
const SETTLE: Duration = PART_AGE_MAX;

/// A stream without end, as long as the session goes on.
pub(crate) async fn follow_changes(State(site): State<Arc<Site>>, visitor: Visitor) -> Screen {
    if site.desk.streams.fetch_add(1, Ordering::Relaxed) >= DASHBOARD_STREAMS_MAX {
        site.desk.streams.fetch_sub(1, Ordering::Relaxed);
        site.hub.count_limit(Limit::DashboardStreams);
        let problem = Problem::new(Code::Unavailable, "too many pages are open");
        return Err(problem.with_hint("pages go on without live updates; reload to see what is new").into());
    }
    let mut commits = site.hub.changes();
    commits.mark_unchanged();
    let stopping = site.stopping.clone();
    let Visitor { session, mark, .. } = visitor;
    let now = Instant::now();
    let listener = Listener { place: Place(site), session, mark, commits, stopping, told: now, looked: now };
    let greeting = async move { Some((": connected\nretry: 2000\n\n", listener)) };
    let mut response = Response::new(Body::new(Stream { step: Box::pin(greeting) }));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that collect answers would hold the stream back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// One of the streams that there may be; given back at the end.
struct Place(Arc<Site>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.desk.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Listener {
    place: Place,
    session: SessionId,
    mark: TokenMark,
    commits: watch::Receiver<u64>,
    stopping: watch::Receiver<bool>,
    told: Instant,
    /// When it was last looked whether the session goes on.
    looked: Instant,
}

impl Listener {
    /// A word, after a change or as a sign of life; `None` when the session has ended or the hub stops.
    async fn next(mut self) -> Option<(&'static str, Self)> {
        let told = self.told;
        let changed = async {
            let is_changed = timeout(STREAM_HEARTBEAT, self.commits.changed()).await;
            sleep_until((Instant::now() + SETTLE).max(told + GAP)).await;
            self.commits.mark_unchanged();
            matches!(is_changed, Ok(Ok(())))
        };
        let is_change = tokio::select! {
            is_change = changed => is_change,
            _ = self.stopping.wait_for(|stopping| *stopping) => return None,
        };
        let site = &self.place.0;
        site.hub.still_bears(&self.mark)?;
        self.told = Instant::now();
        if self.told >= self.looked + site.desk.sessions.look_every() {
            // What can't be asked now is asked next time: the stream carries nothing, and the page asks for itself.
            if !site.desk.sessions.goes_on(&self.session).await.unwrap_or(true) {
                return None;
            }
            self.looked = self.told;
        }
        // Without a change the page's ages grow all the same.
        Some((if is_change { "event: change\ndata: 1\n\n" } else { "event: tick\ndata: 1\n\n" }, self))
    }
}

type Step = Option<(&'static str, Listener)>;

/// The body of a stream: one word after the other.
struct Stream {
    step: Pin<Box<dyn Future<Output = Step> + Send>>,
}

impl http_body::Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match ready!(self.step.as_mut().poll(ctx)) {
            None => {
                self.step = Box::pin(async { None });
                Poll::Ready(None)
            }
            Some((text, listener)) => {
                self.step = Box::pin(listener.next());
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(text.as_bytes())))))
            }
        }
    }
}
