//! The API's description: one table of routes with examples, from which `/openapi.json` and `/docs` are made.

use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde_json::{Map, Value, json};

/// A route, described.
pub(crate) struct Route {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    /// Who may call it.
    pub(crate) who: &'static str,
    pub(crate) summary: &'static str,
    /// Name and meaning of each query parameter.
    pub(crate) query: &'static [(&'static str, &'static str)],
    /// A request body, JSON.
    pub(crate) request: &'static str,
    pub(crate) status: &'static str,
    /// A response body, JSON.
    pub(crate) response: &'static str,
}

const EVENT: &str = r#"{"id":"RULE-COURT-DEADLINE-V3","version":3,"payload":{"deadline":"16:00","timezone":"local"}}"#;
const RECEIPT: &str = r#"{"id":"RULE-COURT-DEADLINE-V3","sequence":1,"subject":"RULE-COURT-DEADLINE","recorded_at":"2026-11-23T16:00:00Z","test":false,"partners":2,"blocked":[]}"#;
const STORED: &str = r#"{"id":"RULE-COURT-DEADLINE-V3","version":3,"subject":"RULE-COURT-DEADLINE","sequence":1,"recorded_at":"2026-11-23T16:00:00Z","priority":"routine","kind":"change","references":[],"test":false,"partners":2,"payload":{"deadline":"16:00","timezone":"local"}}"#;
const DELIVERIES: &str = r#"{"items":[{"event_id":"RULE-COURT-DEADLINE-V3","sequence":1,"partner":"COURT-CAL","round":0,"replay":false,"test":false,"state":"ack","version":1,"message_id":"msg_0199f0","partner_seq":1,"attempts_made":1,"attempts":[],"ended_at":"2026-11-23T16:00:00Z","evidence":"body","body_sha256":"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}]}"#;
const PARTNER: &str =
    r#"{"id":"COURT-CAL","url":"https://api.courtcal.com/update","accepts_version":1,"channel":"webhook"}"#;
const PARTNER_VIEW: &str = r#"{"id":"COURT-CAL","state":"active","config":{"id":"COURT-CAL","url":"https://api.courtcal.com/update","accepts_version":1,"channel":"webhook"},"added_at":"2026-11-23T15:00:00Z","backlog":0,"in_flight":0}"#;
const PARTNER_CHANGE: &str = r#"{"partner":{"id":"COURT-CAL","state":"active"},"changed":true,"secret":"whsec_…"}"#;
const BRIDGE: &str = r#"{"subject":"RULE-COURT-DEADLINE","from":3,"to":1,"script":"{\"due\": deadline}","examples":[{"input":{"deadline":"16:00"},"output":{"due":"16:00"}}]}"#;
const LEDGER: &str = r#"{"items":[{"index":0,"event_id":"RULE-COURT-DEADLINE-V3","sequence":1,"partner":"COURT-CAL","round":0,"word":"ack","at":"2026-11-23T16:00:00Z","attempt":1,"evidence":"body","body_sha256":"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08","chain":"2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"}]}"#;
const HEAD: &str = r#"{"size":1,"chain":"2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"}"#;
const TOKEN: &str = r#"{"id":"tok_3f9a0c12","role":"publisher","subjects":["RULE-*"],"note":"HMS-GOV","created_at":"2026-11-23T15:00:00Z"}"#;
const PAGED: &[(&str, &str)] =
    &[("after", "cursor: the `next` of the page before"), ("limit", "1 to 1000 items, 100 by default")];

macro_rules! route {
    ($method:literal $path:literal, $who:literal, $summary:literal, $query:expr, $request:expr, $status:literal, $response:expr) => {
        Route {
            method: $method,
            path: $path,
            who: $who,
            summary: $summary,
            query: $query,
            request: $request,
            status: $status,
            response: $response,
        }
    };
}

/// Every route of the API, by who calls it.
pub(crate) const ROUTES: &[Route] = &[
    route!("post" "/v1/events", "publisher", "Publish an event. Also takes application/x-ndjson, application/cloudevents+json, application/cloudevents-batch+json and binary CloudEvents. Header X-HMS-Test: true makes it a dry run.", &[("plan", "true: say who would get what, record nothing")], EVENT, "202", RECEIPT),
    route!("get" "/v1/events", "publisher, auditor", "The Event Log, in its order.", &[("subject", "only this subject"), ("after", "sequence of the last event seen"), ("limit", "1 to 1000 items, 100 by default")], "", "200", STORED),
    route!("get" "/v1/events/{id}", "publisher, auditor", "One event.", &[("test", "true: the dry run of this id")], "", "200", STORED),
    route!("get" "/v1/events/{id}/status", "publisher, auditor", "Who acknowledged: partner to state.", &[("test", "true: the dry run of this id"), ("wait", "answer when all have ended, or after this span (at most 60s)")], "", "200", r#"{"COURT-CAL":"ack","LAW-FIRM-SYS":"pending"}"#),
    route!("get" "/v1/events/{id}/deliveries", "publisher, auditor", "Every delivery with its attempts.", &[("test", "true: the dry run of this id")], "", "200", DELIVERIES),
    route!("post" "/v1/acks", "partner", "A partner's receipt, or its refusal {\"nack\": id, \"reason\": …}.", &[], r#"{"ack":"RULE-COURT-DEADLINE-V3"}"#, "200", r#"{"ok":true}"#),
    route!("get" "/v1/partners/{id}/events", "partner", "What a partner was to get, by its own gapless counter (X-HMS-Partner-Seq).", &[("from", "first number, 1 by default"), ("to", "last number, at most 1000 further on")], "", "200", r#"{"items":[{"partner_seq":1,"envelope":{"id":"RULE-COURT-DEADLINE-V3","version":1}}]}"#),
    route!("get" "/v1/partners/{id}/deliveries", "partner", "A partner's deliveries, in the order of the log.", PAGED, "", "200", DELIVERIES),
    route!("get" "/v1/keys", "nobody", "The hub's public keys for v1a signatures. Needs no token.", &[], "", "200", r#"{"keys":["whpk_…"]}"#),
    route!("post" "/v1/events/{id}/replay", "operator", "Send an event again.", &[], r#"{"to":["LAW-FIRM-SYS"],"force":false}"#, "202", r#"{"id":"RULE-COURT-DEADLINE-V2","replayed":[{"partner":"LAW-FIRM-SYS","round":1}]}"#),
    route!("post" "/v1/partners", "operator", "Add a partner. The same content again changes nothing.", &[("replace", "true: change it when it is there with other content")], PARTNER, "201", PARTNER_CHANGE),
    route!("get" "/v1/partners", "operator, auditor", "All partners, by id.", PAGED, "", "200", PARTNER_VIEW),
    route!("get" "/v1/partners/{id}", "partner, operator, auditor", "One partner and how it fares.", &[], "", "200", PARTNER_VIEW),
    route!("put" "/v1/partners/{id}", "operator", "Add a partner, or change it.", &[], PARTNER, "200", PARTNER_CHANGE),
    route!("delete" "/v1/partners/{id}", "operator", "Remove a partner; what it was sent stays on record.", &[], "", "204", ""),
    route!("post" "/v1/partners/{id}/pause", "operator", "Send it nothing until it is resumed.", &[], "", "200", PARTNER_VIEW),
    route!("post" "/v1/partners/{id}/resume", "operator", "Let it go on, at once.", &[], "", "200", PARTNER_VIEW),
    route!("post" "/v1/partners/{id}/test", "operator", "Send it one marked message and say what came back.", &[], "", "200", r#"{"message_id":"test_msg_0199f0","status":200,"acked":true,"took_ms":12.5,"reason":"acknowledged"}"#),
    route!("post" "/v1/partners/{id}/rotate-secret", "operator", "A new signing secret; the old one signs too for the overlap.", &[], r#"{"overlap":"24h"}"#, "200", r#"{"secret":"whsec_…","old_valid_for":"24h"}"#),
    route!("post" "/v1/bridges", "operator", "Add a bridge; its examples are run first.", &[("replace", "true: change it when it is there")], BRIDGE, "201", r#"{"id":"RULE-COURT-DEADLINE/3-to-1","changed":true}"#),
    route!("get" "/v1/bridges", "operator, auditor", "All bridges.", &[], "", "200", r#"{"items":[{"id":"RULE-COURT-DEADLINE/3-to-1","subject":"RULE-COURT-DEADLINE","from":3,"to":1,"script":"{\"due\": deadline}","examples":[]}]}"#),
    route!("post" "/v1/bridges/try", "operator", "Convert a payload as the bridges, or this script, would.", &[], r#"{"subject":"RULE-COURT-DEADLINE","from":3,"to":1,"payload":{"deadline":"16:00"}}"#, "200", r#"{"output":{"due":"16:00"}}"#),
    route!("delete" "/v1/bridges/{id}", "operator", "Remove a bridge; its id's slash is written %2F.", &[], "", "204", ""),
    route!("get" "/v1/dead-letters", "operator, auditor", "Deliveries that were given up.", &[("partner", "only this partner"), ("after", "cursor"), ("limit", "1 to 1000 items")], "", "200", DELIVERIES),
    route!("post" "/v1/dead-letters/redrive", "operator", "Try them again: of a partner, of an event, or all.", &[], r#"{"partner":"LAW-FIRM-SYS"}"#, "200", r#"{"redriven":3}"#),
    route!("post" "/v1/dead-letters/discard", "operator", "Give them up for good; they stay on record.", &[], r#"{"partner":"LAW-FIRM-SYS","reason":"contract ended"}"#, "200", r#"{"discarded":3}"#),
    route!("get" "/v1/unacked", "operator, auditor", "Deliveries that lack their ACK, oldest first.", PAGED, "", "200", DELIVERIES),
    route!("get" "/v1/stream", "operator, auditor", "What happens, live: server-sent events, each a CloudEvent.", &[], "", "200", ""),
    route!("get" "/v1/ledger", "auditor", "The Ack Ledger: every receipt with its place in the chain.", &[("after", "index of the last entry seen"), ("limit", "1 to 1000 items")], "", "200", LEDGER),
    route!("get" "/v1/ledger/checkpoint", "auditor", "How many receipts there are, and the head of their chain.", &[], "", "200", HEAD),
    route!("post" "/v1/ledger/verify", "auditor", "Walk the whole chain.", &[], "", "200", r#"{"ok":true,"size":1,"chain":"2c26b46b…"}"#),
    route!("get" "/v1/audit", "auditor", "Every change: who, when, what, why.", PAGED, "", "200", r#"{"items":[{"number":1,"at":"2026-11-23T15:00:00Z","actor":"tok_3f9a0c12","act":"partner.add","object":"COURT-CAL"}]}"#),
    route!("post" "/v1/tokens", "admin", "Make a token; its text is shown this once.", &[], r#"{"role":"publisher","subjects":["RULE-*"],"note":"HMS-GOV","expires_in":"90d"}"#, "201", TOKEN),
    route!("get" "/v1/tokens", "admin", "All tokens, without their texts.", &[], "", "200", TOKEN),
    route!("delete" "/v1/tokens/{id}", "admin", "Revoke a token, at once.", &[], "", "204", ""),
    route!("post" "/v1/backup", "admin", "Copy the store to a file on the hub's machine, while it runs.", &[], r#"{"file":"/var/backups/ess.db"}"#, "200", r#"{"bytes":4096}"#),
    route!("get" "/healthz", "nobody", "Whether the process lives. Needs no token.", &[], "", "200", ""),
    route!("get" "/readyz", "nobody", "Whether it can take events. Needs no token.", &[], "", "200", ""),
];

pub(crate) async fn serve() -> Response {
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (StatusCode::OK, kind, document().to_string()).into_response()
}

/// The OpenAPI 3.1 document.
pub(crate) fn document() -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method] = operation(route);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "HMS-ESS Sync Hub",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Rule changes reach the systems that must obey them, with a receipt from each.",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "hms_<role>_…, made by `hms-ess token create`"}},
            "schemas": {"Problem": problem_schema()},
            "responses": {"Problem": {
                "description": "What is wrong and what to do (RFC 9457)",
                "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
            }},
        },
        "paths": paths,
    })
}

fn operation(route: &Route) -> Value {
    let mut parameters: Vec<Value> = Vec::new();
    if route.path.contains("{id}") {
        parameters.push(json!({"name": "id", "in": "path", "required": true, "schema": {"type": "string"}}));
    }
    for (name, meaning) in route.query {
        parameters.push(json!({"name": name, "in": "query", "description": meaning, "schema": {"type": "string"}}));
    }
    let mut success = json!({"description": "done"});
    if !route.response.is_empty() {
        let example = example(route.response);
        success["content"] = json!({"application/json": {"schema": schema_of(&example), "example": example}});
    }
    let mut operation = json!({
        "summary": route.summary,
        "description": format!("For: {}", route.who),
        "operationId": operation_id(route),
        "parameters": parameters,
        "responses": {route.status: success, "default": {"$ref": "#/components/responses/Problem"}},
    });
    if route.who == "nobody" {
        operation["security"] = json!([]);
    }
    if !route.request.is_empty() {
        let example = example(route.request);
        let required = !matches!(route.path, "/v1/partners/{id}/rotate-secret");
        operation["requestBody"] = json!({
            "required": required,
            "content": {"application/json": {"schema": {"type": "object"}, "example": example}},
        });
    }
    operation
}

fn operation_id(route: &Route) -> String {
    let words = route.path.trim_start_matches("/v1").replace(['{', '}'], "").replace(['/', '-', '.'], "_");
    format!("{}{words}", route.method)
}

fn example(text: &str) -> Value {
    // Invariant: the examples above are JSON; a test reads each.
    serde_json::from_str(text).unwrap_or(Value::Null)
}

/// The shape of an example: types only, so that the schema never says more than what is sent.
fn schema_of(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let properties: Map<String, Value> =
                map.iter().map(|(name, value)| (name.clone(), schema_of(value))).collect();
            json!({"type": "object", "properties": properties})
        }
        Value::Array(items) => match items.first() {
            Some(item) => json!({"type": "array", "items": schema_of(item)}),
            None => json!({"type": "array"}),
        },
        Value::String(_) => json!({"type": "string"}),
        Value::Number(number) if number.is_f64() => json!({"type": "number"}),
        Value::Number(_) => json!({"type": "integer"}),
        Value::Bool(_) => json!({"type": "boolean"}),
        Value::Null => json!({}),
    }
}

fn problem_schema() -> Value {
    json!({
        "type": "object",
        "required": ["type", "title", "status", "code", "detail", "request_id"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "code": {"type": "string", "enum": ess_core::problem::Code::ALL.map(ess_core::problem::Code::word)},
            "detail": {"type": "string", "description": "what is wrong"},
            "hint": {"type": "string", "description": "what to do"},
            "field": {"type": "string"},
            "position": {"type": "object", "properties": {"line": {"type": "integer"}, "column": {"type": "integer"}}},
            "request_id": {"type": "string"},
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_is_json() {
        for route in ROUTES {
            for text in [route.request, route.response] {
                assert!(
                    text.is_empty() || serde_json::from_str::<Value>(text).is_ok(),
                    "{} {}: {text}",
                    route.method,
                    route.path
                );
            }
        }
    }

    #[test]
    fn operations_have_names_of_their_own() {
        let mut ids: Vec<String> = ROUTES.iter().map(operation_id).collect();
        ids.sort();
        let count = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), count);
    }
}
