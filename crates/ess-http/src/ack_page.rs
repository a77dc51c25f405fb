//! `/ack/{token}`: the page behind the link in a mail. It asks before it counts, as mail scanners open links.
//!
//! Only the form's POST is taken as a word. The link is the login: it never stands in a log, a problem or another page's address.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use askama::Template;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ess_core::ack_link::LinkError;
use ess_core::id::Digest;
use ess_core::receipt::words;
use ess_hub::{LinkProblem, LinkView, LinkWord};

use crate::body;
use crate::caller::Peer;
use crate::limits::ACK_FORM_BYTES_MAX;
use crate::site::Site;

const STYLE: &str = include_str!("../templates/ack.css");
const ROBOTS: HeaderName = HeaderName::from_static("x-robots-tag");

#[derive(Template)]
#[template(path = "ack.html")]
struct Page<'a> {
    title: &'static str,
    style: &'static str,
    view: Option<&'a LinkView>,
    lines: Vec<String>,
    /// Its reader is asked for a word.
    asks: bool,
}

/// The page, which changes nothing.
pub(crate) async fn read_ack_link(
    State(site): State<Arc<Site>>,
    Path(token): Path<String>,
    request: Request,
) -> Response {
    match site.hub.link(&token).await {
        Ok(view) => show(&view, Moment::Asked),
        Err(problem) => refuse(&site, &problem, &request),
    }
}

/// The word of who has the link.
pub(crate) async fn answer_ack_link(
    State(site): State<Arc<Site>>,
    Path(token): Path<String>,
    request: Request,
) -> Response {
    // Who has no link is not listened to.
    let view = match site.hub.link(&token).await {
        Ok(view) => view,
        Err(problem) => return refuse(&site, &problem, &request),
    };
    let form = match body::read(&site, request.into_body(), ACK_FORM_BYTES_MAX).await {
        Ok(read) => String::from_utf8_lossy(&read.bytes).into_owned(),
        Err(problem) => {
            let status = StatusCode::from_u16(problem.code.status()).unwrap_or(StatusCode::BAD_REQUEST);
            return plain(status, "Your answer did not arrive", "Please go back and try again.");
        }
    };
    let Some(word) = read_word(&form) else {
        let line = "Please go back; press a button, and when you refuse, say why.";
        return plain(StatusCode::UNPROCESSABLE_ENTITY, "Your answer is not complete", line);
    };
    if view.said.is_some() {
        return show(&view, Moment::Before);
    }
    match site.hub.answer_link(&token, word).await {
        Ok(view) => show(&view, Moment::Now),
        Err(LinkProblem::Link(_)) => plain(StatusCode::GONE, "This link is of no more use", "What it was for is gone."),
        Err(LinkProblem::Unavailable(problem)) => unavailable(&problem.detail),
    }
}

/// When the word was said that a page shows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// Nobody said one with this request.
    Asked,
    /// By this request.
    Now,
    /// The request brought a second one.
    Before,
}

fn show(view: &LinkView, moment: Moment) -> Response {
    let page = |title, lines, asks| Page { title, style: STYLE, view: Some(view), lines, asks };
    let used = "This link was used before; nothing was changed.".to_owned();
    let page = match (&view.said, moment) {
        (None, _) if view.event.is_none() => page(
            "This link works",
            vec!["It is of a test of this address; there is nothing to acknowledge.".to_owned()],
            false,
        ),
        (None, Moment::Asked) => page("Have you received this?", Vec::new(), true),
        (None, _) => page(
            "Your answer was not recorded",
            vec!["This delivery has ended in the meantime. If you still refuse the event, tell the agency.".to_owned()],
            false,
        ),
        (Some(LinkWord::Acknowledged), Moment::Now) => {
            page("Thank you", vec!["Your acknowledgement is recorded. You can close this page.".to_owned()], false)
        }
        (Some(LinkWord::Acknowledged), _) => page("This event is acknowledged already", vec![used], false),
        (Some(LinkWord::Refused { reason }), Moment::Now) => {
            page("Your refusal is recorded", vec![format!("Reason: {reason}")], false)
        }
        (Some(LinkWord::Refused { reason }), _) => {
            page("This event was refused already", vec![format!("Reason: {reason}"), used], false)
        }
    };
    render(StatusCode::OK, &page)
}

fn refuse(site: &Site, problem: &LinkProblem, request: &Request) -> Response {
    let peer = request.extensions().get::<Peer>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip());
    let error = match problem {
        LinkProblem::Unavailable(problem) => return unavailable(&problem.detail),
        LinkProblem::Link(error) => error,
    };
    // Links are guessed no faster than tokens are.
    if let Err(problem) = site.count_refused_token(peer) {
        let mut response = plain(StatusCode::TOO_MANY_REQUESTS, "Too many links that are none", "Try again later.");
        if let Some(after) = problem.retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        return response;
    }
    match error {
        LinkError::Expired => {
            let line = "Tell the agency that sent the mail; it can send the event again.";
            plain(StatusCode::GONE, "This link has expired", line)
        }
        LinkError::Foreign => {
            let line = "Open it from the mail once more: a part of it may be missing.";
            plain(StatusCode::NOT_FOUND, "This link is not valid", line)
        }
    }
}

fn unavailable(detail: &str) -> Response {
    tracing::warn!(detail, "could not look at what a link is for");
    plain(StatusCode::SERVICE_UNAVAILABLE, "The hub can't do it now", "Please try again in a few minutes.")
}

fn plain(status: StatusCode, title: &'static str, line: &str) -> Response {
    render(status, &Page { title, style: STYLE, view: None, lines: vec![line.to_owned()], asks: false })
}

fn render(status: StatusCode, page: &Page<'_>) -> Response {
    let text = page.render().unwrap_or_else(|error| {
        tracing::error!(%error, "could not render the page of a link");
        String::new()
    });
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let style = STANDARD.encode(Digest::of(STYLE.as_bytes()).0);
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    );
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    if let Ok(policy) = HeaderValue::try_from(policy) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(ROBOTS, HeaderValue::from_static("noindex"));
    response
}

/// What the form says; a refusal has a reason.
fn read_word(form: &str) -> Option<LinkWord> {
    let field = |name: &str| {
        let mut pairs = form.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(known, _)| *known == name).map(|(_, value)| decoded(value))
    };
    match field("word")?.as_str() {
        "ack" => Some(LinkWord::Acknowledged),
        "nack" => {
            let reason = words(&field("reason")?);
            (!reason.is_empty()).then_some(LinkWord::Refused { reason })
        }
        _ => None,
    }
}

/// A value of `application/x-www-form-urlencoded`; what is no code stays as it is.
fn decoded(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = (*first == b'%').then(|| after.first_chunk::<2>()).flatten();
        let code = code.and_then(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
        match (first, code) {
            (_, Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            (b'+', None) => {
                bytes.push(b' ');
                rest = after;
            }
            (byte, None) => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_says_ack_or_nack_with_a_reason() {
        let refused = |reason: &str| Some(LinkWord::Refused { reason: reason.to_owned() });
        assert_eq!(read_word("word=ack"), Some(LinkWord::Acknowledged));
        assert_eq!(read_word("reason=no+such+court%21%0A%C3%A9&word=nack"), refused("no such court! é"));
        assert_eq!(read_word("reason=100%&word=nack"), refused("100%"));
        for form in ["", "word=", "word=nack", "word=nack&reason=+", "ack", "word=ACK", "reason=x"] {
            assert_eq!(read_word(form), None, "{form}");
        }
    }
}
