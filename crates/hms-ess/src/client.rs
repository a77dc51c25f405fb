//! The client of a hub's HTTP API, at one address or several: the one that answered last is asked first, the next one when
//! that is safe.
//!
//! What changes something is never asked twice: only when nothing was sent does another address get it.

mod link;
mod route;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode};
use hyper::body::Incoming;
use serde_json::Value;

use self::link::{Answer, Link, Miss, Patience, Question};
use self::route::Route;
use crate::config::profile::Target;
use crate::failure::{Failure, Result};

/// What an address has that is the last to be asked, beyond what a request asks the hub to wait.
const CALM: Patience =
    Patience { connect: Duration::from_secs(10), head: Duration::from_secs(60), body: Duration::from_secs(60) };
/// What it has while there is another one.
const HURRY: Patience = Patience { connect: Duration::from_secs(3), head: Duration::from_secs(10), ..CALM };

/// A client of one hub.
pub(crate) struct Client {
    links: Vec<Link>,
    reason: Option<HeaderValue>,
    /// Guards what is known of the addresses; held for one look-up.
    route: Mutex<Route>,
}

/// An answer of the hub that is no problem.
#[derive(Debug)]
pub(crate) struct Reply {
    /// Its status.
    pub(crate) status: StatusCode,
    /// Its body, as it came.
    pub(crate) body: Bytes,
    /// The hub's clock when it answered (RFC 9110 section 6.6.1).
    pub(crate) date: Option<String>,
    /// Which address answered.
    at: usize,
    /// What the addresses before it said.
    missed: Vec<Failure>,
}

/// An answer whose body does not end.
pub(crate) struct Opened {
    /// The body.
    pub(crate) body: Incoming,
    /// Which address it comes from, for [`Client::leave`].
    pub(crate) at: usize,
}

/// A request's body.
pub(crate) enum Body<'a> {
    /// None.
    Empty,
    /// A JSON value.
    Json(&'a Value),
    /// Bytes of this media type.
    Bytes(&'a str, Bytes),
}

impl Client {
    /// A client of the hub at these addresses; nothing is dialled yet.
    pub(crate) fn new(targets: Vec<Target>, reason: Option<&str>) -> Result<Self> {
        let reason = match reason {
            Some(text) => Some(
                HeaderValue::from_bytes(text.as_bytes())
                    .map_err(|_| Failure::usage("--reason must be a single line of text"))?,
            ),
            None => None,
        };
        let links = targets.into_iter().map(Link::new).collect::<Result<Vec<Link>>>()?;
        let route = Mutex::new(Route::new(links.len()));
        Ok(Self { links, reason, route })
    }

    /// A client for each address by itself, to look at one after the other.
    pub(crate) fn each(&self) -> Result<Vec<Self>> {
        self.links.iter().map(|link| Self::new(vec![link.target().clone()], None)).collect()
    }

    /// The URL that is asked first.
    pub(crate) fn hub(&self) -> &str {
        self.order().first().map_or("", |at| &self.links[*at].target().hub)
    }

    /// Whether there is another address.
    pub(crate) fn has_choice(&self) -> bool {
        self.links.len() > 1
    }

    /// Leaves an address whose stream ended; the next request goes elsewhere if it can.
    pub(crate) fn leave(&self, at: usize) {
        self.known().note_failure(at, Instant::now());
    }

    /// What `--reason` said.
    pub(crate) fn reason(&self) -> Option<String> {
        self.reason.as_ref().map(|reason| String::from_utf8_lossy(reason.as_bytes()).into_owned())
    }

    /// `GET`, decoded.
    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        self.ask(Method::GET, path, Body::Empty).await?.value()
    }

    /// `POST` of a JSON value.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Reply> {
        self.ask(Method::POST, path, Body::Json(body)).await
    }

    /// All items of a paged list, at most `most`.
    pub(crate) async fn list(&self, path: &str, most: usize) -> Result<Vec<Value>> {
        let mut items = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let join = if path.contains('?') { '&' } else { '?' };
            let limit = (most - items.len()).min(1_000);
            let page = match &after {
                Some(cursor) => format!("{path}{join}limit={limit}&after={}", encode(cursor)),
                None => format!("{path}{join}limit={limit}"),
            };
            let mut page = self.get(&page).await?;
            if let Some(Value::Array(found)) = page.get_mut("items").map(Value::take) {
                items.extend(found);
            }
            after = match page.get("next") {
                Some(Value::String(cursor)) => Some(cursor.clone()),
                Some(Value::Number(cursor)) => Some(cursor.to_string()),
                _ => return Ok(items),
            };
            if items.len() >= most {
                return Ok(items);
            }
        }
    }

    /// One request; an answer of 400 or more is a failure with the hub's own words.
    pub(crate) async fn ask(&self, method: Method, path: &str, body: Body<'_>) -> Result<Reply> {
        self.ask_with(method, path, body, &[], Duration::ZERO).await
    }

    /// One request with more header fields, where the hub may take `patience` longer to answer.
    pub(crate) async fn ask_with(
        &self,
        method: Method,
        path: &str,
        body: Body<'_>,
        headers: &[(&str, &str)],
        patience: Duration,
    ) -> Result<Reply> {
        self.taken(self.send(method, path, body, headers, patience).await?)
    }

    /// The answer, unless it is a refusal.
    pub(crate) fn taken(&self, reply: Reply) -> Result<Reply> {
        if reply.status.as_u16() < 400 {
            return Ok(reply);
        }
        let refused = self.links[reply.at].problem(reply.status, &reply.body);
        if reply.missed.is_empty() || !route::passes_on(reply.status) {
            return Err(refused);
        }
        let mut missed = reply.missed;
        missed.push(self.told(reply.at, reply.status, refused));
        Err(summed(missed))
    }

    /// The same, whatever the answer is: only its absence is a failure.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Body<'_>,
        headers: &[(&str, &str)],
        patience: Duration,
    ) -> Result<Reply> {
        let (media_type, body) = body.written();
        let reason = self.reason.as_ref();
        let question = Question { method, path, media_type, body, headers, reason };
        let repeats = route::is_repeatable(&question.method, path);
        let order = self.order();
        let mut missed = Vec::new();
        for (turn, at) in order.iter().copied().enumerate() {
            let is_last = turn + 1 == order.len();
            let mut bound = if is_last { CALM } else { HURRY };
            // Nobody else is asked once it was sent, so there is no hurry.
            bound.head = patience + if repeats { bound.head } else { CALM.head };
            bound.body += patience;
            let miss = match self.links[at].ask(&question, bound).await {
                Ok(Answer { status, body, date }) => {
                    let passes_on = route::passes_on(status);
                    self.note(at, passes_on);
                    if is_last || !repeats || !passes_on {
                        return Ok(Reply { status, body, date, at, missed });
                    }
                    missed.push(self.told(at, status, self.links[at].problem(status, &body)));
                    continue;
                }
                Err(miss) => miss,
            };
            self.leave(at);
            match miss {
                Miss::NotSent(failure) => missed.push(failure),
                Miss::Unanswered(failure) if repeats => missed.push(failure),
                Miss::Unanswered(failure) => {
                    let hint = "it may have been done, so no other address was asked; look before you run it again";
                    missed.push(if self.has_choice() { failure.with_hint(hint) } else { failure });
                    break;
                }
            }
        }
        Err(summed(missed))
    }

    /// Opens a connection of its own and answers a body that does not end, such as `/v1/stream`.
    pub(crate) async fn open(&self, path: &str) -> Result<Opened> {
        let (method, reason) = (Method::GET, self.reason.as_ref());
        let question = Question { method, path, media_type: None, body: Bytes::new(), headers: &[], reason };
        let order = self.order();
        let mut missed = Vec::new();
        for (turn, at) in order.iter().copied().enumerate() {
            let bound = if turn + 1 == order.len() { CALM } else { HURRY };
            match self.links[at].open(&question, bound).await {
                Ok(Ok(body)) => {
                    self.known().note_answer(at, Instant::now());
                    return Ok(Opened { body, at });
                }
                Ok(Err(Answer { status, body, .. })) => {
                    let refused = self.links[at].problem(status, &body);
                    self.note(at, route::passes_on(status));
                    if !self.has_choice() || !route::passes_on(status) {
                        return Err(refused);
                    }
                    missed.push(self.told(at, status, refused));
                }
                Err(Miss::NotSent(failure) | Miss::Unanswered(failure)) => {
                    self.leave(at);
                    missed.push(failure);
                }
            }
        }
        Err(summed(missed))
    }

    /// The certificate that the hub shows, once it is trusted and bears the hub's name; `None` without TLS.
    pub(crate) async fn certificate(&self) -> Result<Option<Vec<u8>>> {
        match self.order().first() {
            Some(at) => self.links[*at].certificate(CALM).await,
            None => Ok(None),
        }
    }

    fn order(&self) -> Vec<usize> {
        self.known().order(Instant::now())
    }

    fn note(&self, at: usize, passes_on: bool) {
        match passes_on {
            true => self.known().note_failure(at, Instant::now()),
            false => self.known().note_answer(at, Instant::now()),
        }
    }

    fn known(&self) -> MutexGuard<'_, Route> {
        self.route.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A refusal with the address that it came from, as one of several.
    fn told(&self, at: usize, status: StatusCode, refused: Failure) -> Failure {
        let hub = &self.links[at].target().hub;
        if refused.detail.starts_with(hub) {
            return refused;
        }
        Failure { detail: format!("{hub} answered {}: {}", status.as_u16(), refused.detail), ..refused }
    }
}

impl<'a> Body<'a> {
    fn written(self) -> (Option<&'a str>, Bytes) {
        match self {
            Self::Empty => (None, Bytes::new()),
            Self::Json(value) => (Some("application/json"), Bytes::from(value.to_string())),
            Self::Bytes(media_type, bytes) => (Some(media_type), bytes),
        }
    }
}

impl Reply {
    /// The body, decoded.
    pub(crate) fn value(&self) -> Result<Value> {
        if self.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&self.body)
            .map_err(|error| Failure::refused(format!("the hub's answer is no JSON: {error}")))
    }
}

/// One address' own words, or those of each; a hub's problem keeps its code.
fn summed(mut missed: Vec<Failure>) -> Failure {
    let details: Vec<String> = missed.iter().map(|failure| failure.detail.clone()).collect();
    let Some(mut last) = missed.pop() else { return Failure::refused("no hub is named") };
    if missed.is_empty() {
        return last;
    }
    last.detail = format!("none of {} addresses did it: {}", details.len(), details.join("; "));
    if last.problem.is_none() {
        last.problem = missed.iter_mut().rev().find_map(|failure| failure.problem.take());
    }
    if let Some(fields) = last.problem.as_mut().and_then(|problem| problem.as_object_mut()) {
        fields.insert("detail".to_owned(), last.detail.clone().into());
    }
    last
}

/// A path segment or query value, percent-encoded.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
