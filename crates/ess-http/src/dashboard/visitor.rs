//! Who looks at a page: the session's cookie, and what its token allows now.
//!
//! A page without a session sends the browser to the sign-in; a changing request is refused unless it comes from a page of ours.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::header::{ACCEPT, COOKIE, HOST, LOCATION, ORIGIN};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use ess_core::access::{Act, Principal};
use ess_core::problem::{Code, Problem};
use ess_hub::TokenMark;

use super::form::{Form, encode};
use super::sessions::{Notice, SessionId};
use crate::caller::{Caller, Peer};
use crate::limits::SMALL_BODY_BYTES_MAX;
use crate::refusal::Refusal;
use crate::site::Site;

/// Marks the script's requests for the part of a page that changes.
const PART: &str = "x-hms-part";

/// Light, dark, or what the machine says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Theme {
    Auto,
    Light,
    Dark,
}

/// Somebody who is signed in.
pub(crate) struct Visitor {
    pub(crate) caller: Caller,
    pub(crate) session: SessionId,
    /// What stands for the token.
    pub(crate) mark: TokenMark,
    pub(crate) csrf: String,
    /// Something is to be told on the next page.
    pub(crate) has_notice: bool,
    pub(crate) theme: Theme,
    /// The page, for the way back.
    pub(crate) path: String,
    /// Only the part that changes is wanted.
    pub(crate) wants_part: bool,
}

/// A form that a signed-in person sent from a page of ours.
pub(crate) struct Posted {
    pub(crate) visitor: Visitor,
    pub(crate) form: Form,
}

/// Why nobody gets to see a page: no session goes on, or a real problem.
pub(crate) enum Turned {
    /// The script's own requests are told so; a person is led there.
    ToSignIn { path: String, wants_part: bool },
    /// The problem is shown.
    Away(Refusal),
}

impl Theme {
    /// The theme that a request asks for.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        match cookie(headers, "hms_theme") {
            Some("light") => Self::Light,
            Some("dark") => Self::Dark,
            _ => Self::Auto,
        }
    }

    /// As in the cookie and on the page.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Light => "light",
            Self::Dark => "dark",
        }
    }
}

impl Visitor {
    /// Who is signed in, if somebody is.
    ///
    /// # Errors
    /// Sessions are in the store, and it can't be asked now.
    pub(crate) async fn of(site: &Site, parts: &Parts) -> Result<Option<Self>, Problem> {
        let headers = &parts.headers;
        let Some(session) = cookie(headers, cookie_name(site.desk.is_tls)).and_then(SessionId::parse) else {
            return Ok(None);
        };
        let Some(found) = site.desk.sessions.find(&session).await? else { return Ok(None) };
        let Some(principal) = site.hub.find_bearer(&found.mark).await? else {
            site.desk.sessions.end(&session).await?;
            return Ok(None);
        };
        let path = parts.uri.path_and_query().map_or("/dashboard", |path| path.as_str()).to_owned();
        Ok(Some(Self {
            caller: Caller(principal),
            csrf: session.form_token(),
            session,
            mark: found.mark,
            has_notice: found.has_notice,
            theme: Theme::of(headers),
            path,
            wants_part: headers.contains_key(PART),
        }))
    }

    /// Who it is.
    pub(crate) fn principal(&self) -> &Principal {
        &self.caller.0
    }

    /// Whether the role allows it: what is not allowed is not shown.
    pub(crate) fn may(&self, act: &Act<'_>) -> bool {
        self.caller.0.role.permits(act)
    }

    /// Leaves word for the next page.
    ///
    /// # Errors
    /// It could not be kept; what it is about was done.
    pub(crate) async fn tell(&self, site: &Site, text: impl Into<String>) -> Result<(), Problem> {
        let notice = Notice { text: text.into(), secret: None, is_good: true };
        site.desk.sessions.leave(&self.session, notice).await
    }
}

impl FromRequestParts<Arc<Site>> for Visitor {
    type Rejection = Turned;

    async fn from_request_parts(parts: &mut Parts, site: &Arc<Site>) -> Result<Self, Turned> {
        let is_stream = parts.headers.get(ACCEPT).is_some_and(|accepts| accepts == "text/event-stream");
        let found = Self::of(site, parts).await.map_err(|problem| Turned::Away(Refusal(problem)))?;
        found.ok_or_else(|| Turned::ToSignIn {
            path: parts.uri.path_and_query().map_or("/dashboard", |path| path.as_str()).to_owned(),
            wants_part: is_stream || parts.headers.contains_key(PART),
        })
    }
}

impl FromRequest<Arc<Site>> for Posted {
    type Rejection = Turned;

    async fn from_request(request: Request, site: &Arc<Site>) -> Result<Self, Turned> {
        let (mut parts, body) = request.into_parts();
        let away = |problem: Problem| Turned::Away(Refusal(problem));
        need_own_page(&parts.headers).map_err(away)?;
        let visitor = Visitor::from_request_parts(&mut parts, site).await.map_err(|turned| match turned {
            // What was to be done is not done after a sign-in: the person sees the page again first.
            Turned::ToSignIn { path, wants_part } => {
                let page = path.rsplit_once('/').map_or("/dashboard", |(page, _)| page).to_owned();
                Turned::ToSignIn { path: page, wants_part }
            }
            other => other,
        })?;
        let form = Form::read(site, &parts.headers, body, SMALL_BODY_BYTES_MAX).await.map_err(away)?;
        if !is_same(form.text("csrf"), &visitor.csrf) {
            return Err(away(not_our_page()));
        }
        Ok(Self { visitor, form })
    }
}

impl IntoResponse for Turned {
    fn into_response(self) -> Response {
        match self {
            Self::Away(refusal) => refusal.into_response(),
            Self::ToSignIn { wants_part: true, .. } => StatusCode::UNAUTHORIZED.into_response(),
            Self::ToSignIn { path, .. } if path == "/dashboard" => go("/dashboard/sign-in"),
            Self::ToSignIn { path, .. } => go(&format!("/dashboard/sign-in?next={}", encode(&path))),
        }
    }
}

/// Sends the browser to another page of ours, with GET.
pub(crate) fn go(path: &str) -> Response {
    let mut response = StatusCode::SEE_OTHER.into_response();
    let target = HeaderValue::from_str(path).unwrap_or(HeaderValue::from_static("/dashboard"));
    response.headers_mut().insert(LOCATION, target);
    response.headers_mut().insert("cache-control", HeaderValue::from_static("no-store"));
    response
}

/// The cookie's name; over TLS one that browsers take from this host and over TLS only.
pub(crate) fn cookie_name(is_tls: bool) -> &'static str {
    if is_tls { "__Host-hms_session" } else { "hms_session" }
}

/// The value of a cookie.
pub(crate) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(known, _)| *known == name)
        .map(|(_, value)| value)
}

/// Where a request came from.
pub(crate) fn peer(parts: &Parts) -> IpAddr {
    parts.extensions.get::<Peer>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip())
}

/// Refuses a changing request that a page of somebody else's sent: browsers name the page's origin with each.
pub(crate) fn need_own_page(headers: &HeaderMap) -> Result<(), Problem> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let is_foreign_fetch = text("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none");
    let is_foreign_origin = headers.get(ORIGIN).is_some_and(|origin| {
        let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        origin.is_none() || host.is_none() || !origin.zip(host).is_some_and(|(a, b)| a.eq_ignore_ascii_case(b))
    });
    if is_foreign_fetch || is_foreign_origin { Err(not_our_page()) } else { Ok(()) }
}

fn not_our_page() -> Problem {
    Problem::new(Code::Forbidden, "this was not sent from a page of the dashboard's own session; nothing was changed")
        .with_hint("open the page again and send it from there")
}

/// Compares without telling by its time how much fits.
fn is_same(given: Option<&str>, known: &str) -> bool {
    let given = given.unwrap_or_default().as_bytes();
    given.len() == known.len() && given.iter().zip(known.as_bytes()).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| ((*name).parse().unwrap(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn a_foreign_page_can_not_send_forms() {
        let own = [("host", "hub.gov:8443"), ("origin", "https://hub.gov:8443"), ("sec-fetch-site", "same-origin")];
        assert!(need_own_page(&headers(&own)).is_ok());
        assert!(need_own_page(&headers(&[("host", "hub.gov")])).is_ok(), "an old browser names no origin");
        for (name, value) in [
            ("origin", "https://evil.example"),
            ("origin", "null"),
            ("origin", "https://hub.gov:8443.evil.example"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            assert!(need_own_page(&headers(&[("host", "hub.gov:8443"), (name, value)])).is_err(), "{name}: {value}");
        }
    }

    #[test]
    fn a_cookie_is_found_among_others() {
        let headers = headers(&[("cookie", "a=1; hms_theme=dark;hms_session=xyz")]);
        assert_eq!(cookie(&headers, "hms_session"), Some("xyz"));
        assert_eq!(cookie(&headers, "session"), None);
        assert_eq!(Theme::of(&headers), Theme::Dark);
    }

    #[test]
    fn a_token_of_another_length_or_text_is_not_the_same() {
        assert!(is_same(Some("abc"), "abc"));
        for bad in [None, Some(""), Some("ab"), Some("abd"), Some("abcd")] {
            assert!(!is_same(bad, "abc"), "{bad:?}");
        }
    }
}
