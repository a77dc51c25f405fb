//! `/docs`: the API on one page, without anything from elsewhere.

use std::fmt::Write as _;

use axum::response::{IntoResponse, Redirect, Response};
use http::{StatusCode, header};
use serde_json::Value;

use crate::openapi::{ROUTES, Route};

/// Nothing but the page's own style sheet.
const POLICY: &str =
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(crate) async fn home() -> Redirect {
    Redirect::temporary("/docs")
}

pub(crate) async fn style() -> Response {
    let headers = [(header::CONTENT_TYPE, "text/css; charset=utf-8"), (header::CACHE_CONTROL, "max-age=3600")];
    (StatusCode::OK, headers, include_str!("docs.css")).into_response()
}

pub(crate) async fn page() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (StatusCode::OK, headers, html()).into_response()
}

fn html() -> String {
    let (mut menu, mut body) = (String::new(), String::new());
    for (title, routes) in sections() {
        let anchor = title.to_ascii_lowercase().replace(' ', "-");
        let _ = write!(menu, "<li><a href=\"#{anchor}\">{title}</a></li>");
        let _ = write!(body, "<section aria-labelledby=\"{anchor}\"><h2 id=\"{anchor}\">{title}</h2>");
        for route in routes {
            write_route(route, &mut body);
        }
        body.push_str("</section>");
    }
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>HMS-ESS Sync Hub: the API</title><link rel=\"stylesheet\" href=\"/docs/style.css\"></head>\
         <body><a class=\"skip\" href=\"#main\">Skip to the routes</a>\
         <header><p class=\"eyebrow\">HMS-ESS {version}</p><h1>The Sync Hub's API</h1>\
         <p>Publish a rule change once; every partner gets it in its own version and shape, and its receipt is kept.</p>\
         <p>Every route but those marked <em>no token</em> wants <code>Authorization: Bearer &lt;token&gt;</code>. \
         Errors are <code>application/problem+json</code>: <code>detail</code> says what is wrong, <code>hint</code> what to do. \
         The same as a document for machines: <a href=\"/openapi.json\">openapi.json</a>.</p></header>\
         <nav aria-label=\"Sections\"><ul>{menu}</ul></nav><main id=\"main\">{body}</main></body></html>",
        version = env!("CARGO_PKG_VERSION"),
    )
}

fn sections() -> Vec<(&'static str, Vec<&'static Route>)> {
    let of = |prefixes: &[&str]| {
        ROUTES.iter().filter(|route| prefixes.iter().any(|prefix| route.path.starts_with(prefix))).collect()
    };
    vec![
        ("Events", of(&["/v1/events"])),
        ("Receipts", of(&["/v1/acks", "/v1/unacked", "/v1/dead-letters"])),
        ("Partners", of(&["/v1/partners", "/v1/keys"])),
        ("Bridges", of(&["/v1/bridges"])),
        ("Ledger and audit", of(&["/v1/ledger", "/v1/audit", "/v1/stream"])),
        ("Administration", of(&["/v1/tokens", "/v1/backup", "/healthz", "/readyz"])),
    ]
}

fn write_route(route: &Route, out: &mut String) {
    let method = route.method.to_ascii_uppercase();
    let who = if route.who == "nobody" { "no token" } else { route.who };
    let _ = write!(
        out,
        "<article><h3><span class=\"method {}\">{method}</span> <code>{}</code></h3><p class=\"who\">{}</p><p>{}</p>",
        route.method,
        escaped(route.path),
        escaped(who),
        escaped(route.summary),
    );
    if !route.query.is_empty() {
        out.push_str("<dl>");
        for (name, meaning) in route.query {
            let _ = write!(out, "<dt><code>?{name}=</code></dt><dd>{}</dd>", escaped(meaning));
        }
        out.push_str("</dl>");
    }
    let _ = write!(out, "<pre tabindex=\"0\"><code>{}</code></pre>", escaped(&curl(route)));
    if !route.response.is_empty() {
        let _ = write!(
            out,
            "<details><summary>Answers {}</summary><pre tabindex=\"0\"><code>{}</code></pre></details>",
            route.status,
            escaped(&pretty(route.response)),
        );
    }
    out.push_str("</article>");
}

/// A line to paste; `$HUB`, `$TOKEN` and `$CA` are the reader's.
fn curl(route: &Route) -> String {
    let mut line = String::from("curl --cacert $CA");
    if route.method != "get" {
        let _ = write!(line, " -X {}", route.method.to_ascii_uppercase());
    }
    let id = if route.path.starts_with("/v1/events") {
        "RULE-COURT-DEADLINE-V3"
    } else if route.path.starts_with("/v1/bridges") {
        "RULE-COURT-DEADLINE%2F3-to-1"
    } else if route.path.starts_with("/v1/tokens") {
        "tok_3f9a0c12"
    } else {
        "COURT-CAL"
    };
    let _ = write!(line, " $HUB{}", route.path.replace("{id}", id));
    if route.who != "nobody" {
        line.push_str(" \\\n  -H \"Authorization: Bearer $TOKEN\"");
    }
    if !route.request.is_empty() {
        let _ = write!(line, " \\\n  -H 'Content-Type: application/json' \\\n  -d '{}'", route.request);
    }
    line
}

fn pretty(text: &str) -> String {
    serde_json::from_str::<Value>(text).map_or_else(|_| text.to_owned(), |value| format!("{value:#}"))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
