//! Signing in with a token, signing out, and the theme.
//!
//! The token is looked at once and never kept; what the browser gets is a random id.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Request, State};
use axum::http::header::{SET_COOKIE, USER_AGENT};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use ess_core::problem::{Code, Problem};
use ess_hub::sessions::SESSION_BOUNDS;

use super::form::Form;
use super::frame::{bare, home, render};
use super::visitor::{Posted, Theme, Visitor, cookie_name, go, need_own_page, peer};
use super::{Screen, trouble};
use crate::limits::SMALL_BODY_BYTES_MAX;
use crate::query::Query;
use crate::refusal::Refusal;
use crate::site::Site;

#[derive(Template)]
#[template(path = "dashboard/sign_in.html")]
struct SignIn<'a> {
    next: &'a str,
    refused: Option<&'a str>,
}

/// The page that asks for a token.
pub(crate) async fn read_sign_in(State(site): State<Arc<Site>>, query: Query, request: Request) -> Screen {
    let (parts, _) = request.into_parts();
    let next = own_path(query.text("next"));
    if let Some(visitor) = Visitor::of(&site, &parts).await? {
        return Ok(go(next.unwrap_or(&home(&visitor.principal().role))));
    }
    show(StatusCode::OK, Theme::of(&parts.headers), next, None)
}

/// Takes a token and begins a session.
pub(crate) async fn sign_in(State(site): State<Arc<Site>>, request: Request) -> Screen {
    let (parts, body) = request.into_parts();
    need_own_page(&parts.headers)?;
    let form = Form::read(&site, &parts.headers, body, SMALL_BODY_BYTES_MAX).await?;
    let next = own_path(form.text("next"));
    let token = form.text("token").map(str::trim).unwrap_or_default();
    let Some((mark, principal)) = site.hub.mark_token(token) else {
        site.count_refused_token(peer(&parts))?;
        let browser = parts.headers.get(USER_AGENT).is_some();
        tracing::info!(peer = %peer(&parts), browser, "refused a sign-in: the token is not known, expired or revoked");
        let refused = "This token is not known, has expired or was revoked.";
        return show(StatusCode::UNAUTHORIZED, Theme::of(&parts.headers), next, Some(refused));
    };
    if let Some(earlier) = Visitor::of(&site, &parts).await? {
        site.desk.sessions.end(&earlier.session).await?;
    }
    let session = site.desk.sessions.begin(mark).await?;
    tracing::info!(peer = %peer(&parts), actor = principal.token_id, "signed in to the dashboard");
    let mut response = go(next.unwrap_or(&home(&principal.role)));
    set_session(&mut response, &site, session.as_str(), SESSION_BOUNDS.age_max.as_secs())?;
    Ok(response)
}

/// Ends the session.
pub(crate) async fn sign_out(State(site): State<Arc<Site>>, posted: Posted) -> Screen {
    site.desk.sessions.end(&posted.visitor.session).await?;
    let mut response = go("/dashboard/sign-in");
    set_session(&mut response, &site, "", 0)?;
    Ok(response)
}

/// Keeps the wish for light or dark in a cookie.
pub(crate) async fn set_theme(State(site): State<Arc<Site>>, request: Request) -> Screen {
    let (parts, body) = request.into_parts();
    need_own_page(&parts.headers)?;
    let form = Form::read(&site, &parts.headers, body, SMALL_BODY_BYTES_MAX).await?;
    let theme = match form.text("theme") {
        Some("light") => "light; Max-Age=31536000",
        Some("dark") => "dark; Max-Age=31536000",
        _ => "auto; Max-Age=0",
    };
    let secure = if site.desk.is_tls { "; Secure" } else { "" };
    let mut response = go(own_path(form.text("back")).unwrap_or(trouble::ROOT));
    set_cookie(&mut response, &format!("hms_theme={theme}; Path=/dashboard; SameSite=Strict; HttpOnly{secure}"))?;
    Ok(response)
}

/// `/` for a browser is the dashboard, for everybody else the description of the API.
pub(crate) async fn go_home(request: Request) -> Response {
    let accepts = request.headers().get("accept").and_then(|accepts| accepts.to_str().ok()).unwrap_or_default();
    let target = if accepts.contains("text/html") { trouble::ROOT } else { "/docs" };
    axum::response::Redirect::temporary(target).into_response()
}

fn show(status: StatusCode, theme: Theme, next: Option<&str>, refused: Option<&str>) -> Screen {
    let main = render(&SignIn { next: next.unwrap_or_default(), refused })?;
    Ok(bare(status, theme, "Sign in", "/dashboard/sign-in", &main)?)
}

/// A path of ours to go on to; never another site's.
fn own_path(path: Option<&str>) -> Option<&str> {
    let path = path?;
    let is_own = (path == "/dashboard" || path.starts_with("/dashboard/") || path.starts_with("/dashboard?"))
        && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
        && !path.contains("/..");
    is_own.then_some(path)
}

fn set_session(response: &mut Response, site: &Site, value: &str, max_age_s: u64) -> Result<(), Refusal> {
    let name = cookie_name(site.desk.is_tls);
    let secure = if site.desk.is_tls { "; Secure" } else { "" };
    set_cookie(response, &format!("{name}={value}; Path=/; Max-Age={max_age_s}; HttpOnly; SameSite=Strict{secure}"))
}

fn set_cookie(response: &mut Response, text: &str) -> Result<(), Refusal> {
    let value =
        HeaderValue::from_str(text).map_err(|_| Problem::new(Code::Internal, "a cookie could not be written"))?;
    response.headers_mut().append(SET_COOKIE, value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_in_leads_on_to_our_own_pages_only() {
        for own in ["/dashboard", "/dashboard/events/A-V1?test=true", "/dashboard?x=1"] {
            assert_eq!(own_path(Some(own)), Some(own));
        }
        for foreign in [
            "",
            "//evil.example",
            "https://evil.example",
            "/dashboardx",
            "/\\evil",
            "/dashboard/\\evil",
            "/dashboard/../v1",
            "/dashboard/\r\nx",
        ] {
            assert_eq!(own_path(Some(foreign)), None, "{foreign}");
        }
    }
}
