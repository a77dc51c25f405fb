//! `/docs`: the OpenAPI document as a page to read. Works without scripts, without the internet and without anybody else's assets.

use std::sync::Arc;

use askama::Template;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::response::Response;
use bytes::Bytes;
use ess_core::problem::Code;
use serde_json::Value;

use crate::site::Site;

const STYLE: &str = include_str!("../templates/docs.css");
const POLICY: &str =
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The OpenAPI document.
pub(crate) async fn read_openapi(State(site): State<Arc<Site>>) -> Response {
    asset("application/json", site.openapi.clone())
}

/// The page.
pub(crate) async fn read_docs(State(site): State<Arc<Site>>) -> Response {
    asset("text/html; charset=utf-8", site.docs.clone())
}

/// Its style.
pub(crate) async fn read_style() -> Response {
    asset("text/css; charset=utf-8", Bytes::from_static(STYLE.as_bytes()))
}

fn asset(kind: &'static str, bytes: Bytes) -> Response {
    let mut response = Response::new(Body::from(bytes));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=60"));
    response
}

#[derive(Template)]
#[template(path = "docs.html")]
struct Page<'a> {
    version: &'a str,
    about: &'a str,
    groups: Vec<Group<'a>>,
    codes: Vec<(&'static str, u16, &'static str)>,
}

struct Group<'a> {
    name: &'a str,
    anchor: String,
    about: &'a str,
    operations: Vec<Operation<'a>>,
}

struct Operation<'a> {
    id: &'a str,
    method: String,
    path: &'a str,
    summary: &'a str,
    about: Vec<Span<'a>>,
    roles: String,
    parameters: Vec<Parameter<'a>>,
    fields: Vec<Field<'a>>,
    curl: String,
    more_bodies: Vec<(&'a str, String)>,
    answers: Vec<Answered<'a>>,
}

struct Parameter<'a> {
    name: &'a str,
    place: &'a str,
    is_required: bool,
    about: Vec<Span<'a>>,
}

struct Field<'a> {
    name: &'a str,
    is_required: bool,
    about: Vec<Span<'a>>,
}

struct Answered<'a> {
    status: &'a str,
    about: Vec<Span<'a>>,
    example: Option<String>,
}

/// A piece of a text: as it is, or as code.
struct Span<'a> {
    text: &'a str,
    is_code: bool,
}

/// The page of an OpenAPI document.
pub(crate) fn page(document: &Value) -> String {
    let page = Page {
        version: text(&document["info"]["version"]),
        about: text(&document["info"]["description"]),
        groups: items(&document["tags"]).map(|tag| group(document, tag)).collect(),
        codes: Code::ALL.iter().map(|code| (code.word(), code.status(), code.title())).collect(),
    };
    page.render().unwrap_or_else(|error| {
        tracing::error!(%error, "could not render the page of the API");
        String::new()
    })
}

fn group<'a>(document: &'a Value, tag: &'a Value) -> Group<'a> {
    let name = text(&tag["name"]);
    let mut operations = Vec::new();
    for (path, methods) in document["paths"].as_object().into_iter().flatten() {
        let mut methods: Vec<(&String, &Value)> = methods.as_object().into_iter().flatten().collect();
        // What one does first stands first.
        methods.sort_by_key(|(method, _)| ["post", "get", "put", "delete"].iter().position(|known| known == method));
        for (method, described) in methods {
            if items(&described["tags"]).any(|known| known == name) {
                operations.push(operation(document, path, method, described));
            }
        }
    }
    Group {
        name,
        anchor: name.to_lowercase().replace(|c: char| !c.is_alphanumeric(), "-"),
        about: text(&tag["description"]),
        operations,
    }
}

fn operation<'a>(document: &'a Value, path: &'a str, method: &str, described: &'a Value) -> Operation<'a> {
    let roles: Vec<&str> = items(&described["x-hms-roles"]).map(text).collect();
    let parameters = items(&described["parameters"]).map(|parameter| Parameter {
        name: text(&parameter["name"]),
        place: text(&parameter["in"]),
        is_required: parameter["required"] == true,
        about: spans(text(&parameter["description"])),
    });
    let contents = described["requestBody"]["content"].as_object();
    let mut bodies: Vec<(&str, &Value)> =
        contents.into_iter().flatten().map(|(kind, content)| (kind.as_str(), content)).collect();
    // The hub's own shape first.
    bodies.sort_by_key(|(kind, _)| *kind != "application/json");
    let more_bodies = bodies.iter().skip(1).map(|(kind, content)| (*kind, pretty(&content["example"])));
    let answers = described["responses"].as_object().into_iter().flatten();
    let answers = answers.filter(|(_, answer)| answer.get("$ref").is_none()).map(|(status, answer)| {
        let content = answer["content"].as_object().and_then(|content| content.values().next());
        let example = content.and_then(|content| content.get("example")).map(pretty);
        Answered { status, about: spans(text(&answer["description"])), example }
    });
    let example = bodies.first().map(|(_, content)| &content["example"]);
    Operation {
        id: text(&described["operationId"]),
        method: method.to_uppercase(),
        path,
        summary: text(&described["summary"]),
        about: spans(text(&described["description"])),
        roles: roles.join(", "),
        parameters: parameters.collect(),
        fields: bodies.first().map(|(_, content)| fields(document, &content["schema"])).unwrap_or_default(),
        curl: curl(method, path, described, example),
        more_bodies: more_bodies.collect(),
        answers: answers.collect(),
    }
}

/// The fields of a request's shape.
fn fields<'a>(document: &'a Value, schema: &'a Value) -> Vec<Field<'a>> {
    let referred = schema["$ref"].as_str().and_then(|reference| document.pointer(reference.strip_prefix('#')?));
    let schema = referred.unwrap_or(schema);
    let is_required = |name: &str| items(&schema["required"]).any(|known| known == name);
    let properties = schema["properties"].as_object().into_iter().flatten();
    properties
        .map(|(name, property)| Field {
            name,
            is_required: is_required(name),
            about: spans(text(&property["description"])),
        })
        .collect()
}

/// A command to copy: with the profile's variables, and the examples of path and query filled in.
fn curl(method: &str, path: &str, described: &Value, example: Option<&Value>) -> String {
    let mut path = path.to_owned();
    let mut query = String::new();
    for parameter in items(&described["parameters"]) {
        let (name, example) = (text(&parameter["name"]), &parameter["example"]);
        let example = example.as_str().map_or_else(|| example.to_string(), str::to_owned);
        match text(&parameter["in"]) {
            "path" => path = path.replace(&format!("{{{name}}}"), &example),
            "query" if !parameter["example"].is_null() => {
                query.push_str(&format!("{}{name}={example}", if query.is_empty() { '?' } else { '&' }));
            }
            _ => {}
        }
    }
    let is_open = items(&described["security"]).next().is_none();
    let mut command = String::from("curl --cacert \"$HMS_ESS_CA\"");
    if !is_open {
        command.push_str(" -H \"Authorization: Bearer $HMS_ESS_TOKEN\"");
    }
    if path == "/v1/stream" {
        command.push_str(" --no-buffer");
    }
    if method != "get" && !(method == "post" && example.is_some()) {
        command.push_str(&format!(" -X {}", method.to_uppercase()));
    }
    if let Some(example) = example {
        let mut text = example.to_string();
        if text.len() > 80 {
            // Too long for a line: one field a line.
            text = pretty(example).replace('\n', "\n      ");
        }
        let text = text.replace('\'', "'\\''");
        command.push_str(&format!(" \\\n  -H 'Content-Type: application/json' \\\n  -d '{text}'"));
    }
    format!("{command} \\\n  \"$HMS_ESS_HUB{path}{query}\"")
}

fn pretty(example: &Value) -> String {
    match example {
        Value::String(text) => text.clone(),
        other => serde_json::to_string_pretty(other).unwrap_or_default(),
    }
}

/// Splits a text at its backquotes.
fn spans(text: &str) -> Vec<Span<'_>> {
    let pieces = text.split('`').zip([false, true].into_iter().cycle());
    pieces.filter(|(text, _)| !text.is_empty()).map(|(text, is_code)| Span { text, is_code }).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_every_operation_and_fetches_nothing_foreign() {
        let document = crate::openapi::document();
        let page = page(&document);
        for methods in document["paths"].as_object().unwrap().values() {
            for operation in methods.as_object().unwrap().values() {
                let id = operation["operationId"].as_str().unwrap();
                assert!(page.contains(&format!("id=\"{id}\"")), "{id} is not on the page");
            }
        }
        for foreign in ["<script", "style=", "src=", "href=\"http", "@import", "url("] {
            assert!(!page.contains(foreign) && !STYLE.contains(foreign), "{foreign}");
        }
    }

    #[test]
    fn a_command_is_ready_to_copy() {
        let document = crate::openapi::document();
        let described = &document["paths"]["/v1/partners/{id}/events"]["get"];
        assert_eq!(
            curl("get", "/v1/partners/{id}/events", described, None),
            "curl --cacert \"$HMS_ESS_CA\" -H \"Authorization: Bearer $HMS_ESS_TOKEN\" \\\n  \"$HMS_ESS_HUB/v1/partners/COURT-CAL/events?from=41&to=44\""
        );
    }
}
