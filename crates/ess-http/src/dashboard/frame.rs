//! What is the same on every page: head, navigation, notice, footer, and the headers that keep a page to itself.

use askama::Template;
use axum::body::Body;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use ess_core::access::{Act, Role};
use ess_core::problem::{Code, Problem};

use super::Screen;
use super::form::encode;
use super::sessions::Notice;
use super::visitor::{Theme, Visitor};
use crate::refusal::Refusal;
use crate::site::Site;

const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; \
    connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// A place in the navigation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tab {
    Overview,
    Events,
    Partners,
    Bridges,
    DeadLetters,
    Escalations,
    Ledger,
    Holds,
    Audit,
    Nodes,
}

const TABS: [(Tab, &str, &str); 10] = [
    (Tab::Overview, "Overview", "/dashboard"),
    (Tab::Events, "Events", "/dashboard/events"),
    (Tab::Partners, "Partners", "/dashboard/partners"),
    (Tab::Bridges, "Bridges", "/dashboard/bridges"),
    (Tab::DeadLetters, "Dead letters", "/dashboard/dead-letters"),
    (Tab::Escalations, "Escalations", "/dashboard/escalations"),
    (Tab::Ledger, "Ledger", "/dashboard/ledger"),
    (Tab::Holds, "Holds", "/dashboard/holds"),
    (Tab::Audit, "Audit", "/dashboard/audit"),
    (Tab::Nodes, "Hubs", "/dashboard/nodes"),
];

/// What a page brings: both parts are rendered already.
pub(crate) struct Content<'a> {
    pub(crate) title: String,
    pub(crate) tab: Tab,
    /// What changes: the script fetches it anew.
    pub(crate) live: &'a str,
    /// What does not change under the reader's hands: forms.
    pub(crate) fixed: &'a str,
}

#[derive(Template)]
#[template(path = "dashboard/layout.html")]
struct Layout<'a> {
    title: &'a str,
    theme: &'static str,
    themes: [(&'static str, &'static str, bool); 3],
    tabs: Vec<(String, &'static str, bool)>,
    signed_in: Option<SignedIn<'a>>,
    notice: Option<Notice>,
    back: &'a str,
    live: Option<&'a str>,
    fixed: &'a str,
    version: &'static str,
}

struct SignedIn<'a> {
    who: String,
    csrf: &'a str,
}

/// The whole page, or the part of it that changes when that is what was asked for.
pub(crate) async fn page(site: &Site, visitor: &Visitor, content: &Content<'_>) -> Screen {
    if visitor.wants_part {
        return Ok(html(StatusCode::OK, content.live.to_owned()));
    }
    let notice = if visitor.has_notice { site.desk.sessions.take_notice(&visitor.session).await } else { None };
    let layout = Layout {
        title: &content.title,
        theme: visitor.theme.word(),
        themes: themes(visitor.theme),
        tabs: tabs(site, visitor, Some(content.tab)),
        signed_in: Some(SignedIn { who: who(visitor), csrf: &visitor.csrf }),
        notice,
        back: &visitor.path,
        live: Some(content.live),
        fixed: content.fixed,
        version: env!("CARGO_PKG_VERSION"),
    };
    Ok(html(StatusCode::OK, render(&layout)?))
}

/// A page for whoever is not signed in, or was refused.
pub(crate) fn bare(status: StatusCode, theme: Theme, title: &str, back: &str, main: &str) -> Result<Response, Problem> {
    let layout = Layout {
        title,
        theme: theme.word(),
        themes: themes(theme),
        tabs: Vec::new(),
        signed_in: None,
        notice: None,
        back,
        live: None,
        fixed: main,
        version: env!("CARGO_PKG_VERSION"),
    };
    Ok(html(status, render(&layout)?))
}

/// A template's text.
pub(crate) fn render(template: &impl Template) -> Result<String, Problem> {
    template.render().map_err(|error| {
        tracing::error!(%error, "could not render a page");
        Problem::new(Code::Internal, "the page could not be made; the cause is in the hub's log")
    })
}

/// Answers a page, or a part of one.
pub(crate) fn html(status: StatusCode, text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    protect(headers);
    response
}

/// The headers that keep a page to itself.
pub(crate) fn protect(headers: &mut HeaderMap) {
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Not `no-referrer`: browsers then send `Origin: null` with our own forms, and the origin is what we check.
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert("x-frame-options", HeaderValue::from_static("DENY"));
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    headers.insert("permissions-policy", HeaderValue::from_static("camera=(), geolocation=(), microphone=()"));
}

/// Where somebody of this role begins.
pub(crate) fn home(role: &Role) -> String {
    match role {
        Role::Operator | Role::Auditor | Role::Admin => "/dashboard".to_owned(),
        Role::Publisher { .. } => "/dashboard/events".to_owned(),
        Role::Partner(id) => partner_path(id.as_str()),
    }
}

/// The page of a partner.
pub(crate) fn partner_path(id: &str) -> String {
    format!("/dashboard/partners/{}", encode(id))
}

/// The page of an event.
pub(crate) fn event_path(id: &str, test: bool) -> String {
    format!("/dashboard/events/{}{}", encode(id), if test { "?test=true" } else { "" })
}

/// Only what the role may see is shown.
fn tabs(site: &Site, visitor: &Visitor, here: Option<Tab>) -> Vec<(String, &'static str, bool)> {
    if let Role::Partner(own) = &visitor.principal().role {
        return vec![(partner_path(own.as_str()), "Deliveries", here == Some(Tab::Partners))];
    }
    let is_seen = |tab: Tab| match tab {
        Tab::Events => visitor.may(&Act::ReadEvents),
        // A hub that has its store for itself has no others.
        Tab::Nodes => site.hub.is_shared() && visitor.may(&Act::Read),
        _ => visitor.may(&Act::Read),
    };
    let seen = TABS.iter().filter(|(tab, _, _)| is_seen(*tab));
    seen.map(|(tab, name, path)| ((*path).to_owned(), *name, here == Some(*tab))).collect()
}

fn who(visitor: &Visitor) -> String {
    let principal = visitor.principal();
    match &principal.role {
        Role::Partner(own) => format!("partner {own}"),
        role => format!("{} {}", role.word(), principal.token_id),
    }
}

fn themes(theme: Theme) -> [(&'static str, &'static str, bool); 3] {
    [
        ("auto", "Auto", theme == Theme::Auto),
        ("light", "Light", theme == Theme::Light),
        ("dark", "Dark", theme == Theme::Dark),
    ]
}

/// What the role does not allow is refused with the same words as in the API.
pub(crate) fn permit(visitor: &Visitor, act: &Act<'_>) -> Result<(), Refusal> {
    Ok(visitor.caller.permit(act)?)
}
