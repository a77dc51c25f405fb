//! The OpenAPI 3.1 document, made from the code: paths and shapes stand beside their handlers, what all share is added here.

use serde_json::{Value, json};
use utoipa::OpenApi;

use crate::api::{
    acks, audit, backup, bounces, bridges, bulk, dead_letters, deliveries, drills, escalations, events, health, holds,
    inbox, keys, lanes, ledger, ledger_export, nodes, packet, partner_events, partners, publish, schemas, stream,
    tables, targets, tokens,
};
use crate::refusal;
use crate::routes::OPEN;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "HMS-ESS",
        description = "The hub records Change Events and fans them out to outside systems: every partner gets each event in its own version and shape, and acknowledges it.",
        license(name = "MIT or Apache 2.0", identifier = "MIT OR Apache-2.0"),
    ),
    tags(
        (name = "Events", description = "Publish, read the log, ask who has it, send it again."),
        (name = "Partner's side", description = "What a partner calls with its own token."),
        (name = "Partners", description = "Outside systems: where they are, what they want, how they fare."),
        (name = "Bridges", description = "Scripts that turn one version of a payload into another."),
        (name = "Schemas and tables", description = "What payloads must look like, and what scripts look up."),
        (name = "Deliveries", description = "What is still open, and what was given up."),
        (name = "Escalation", description = "Trouble of partners, and where Ops are told of it."),
        (name = "Audit", description = "The Ack Ledger, the audit trail, legal holds."),
        (name = "Tokens", description = "Who may do what."),
        (name = "Hub", description = "The hub itself: its health, its life, its backup."),
    ),
    paths(
        publish::publish_event, events::list_events, events::read_event, events::read_event_status,
        events::list_event_deliveries, events::replay_event, events::redact_event,
        acks::acknowledge, bounces::take_bounce, keys::list_keys, inbox::read_inbox, partner_events::list_partner_events, partner_events::list_partner_deliveries,
        partners::add_partner, partners::list_partners, partners::read_one, partners::set_partner,
        partners::remove_partner, partners::pause_partner, partners::resume_partner, partners::test_partner,
        partners::rotate_secret, drills::probe_partner, drills::begin_drill, lanes::list_lanes,
        bridges::add_bridge, bridges::list_bridges, bridges::remove_bridge, bridges::try_bridge,
        bridges::test_bridges,
        schemas::add_schema, schemas::list_schemas, schemas::remove_schema,
        tables::add_table, tables::list_tables, tables::remove_table,
        deliveries::list_unacked, dead_letters::list_dead_letters, dead_letters::redrive_dead_letters,
        dead_letters::discard_dead_letters,
        escalations::list_escalations, targets::list_targets, targets::test_target, nodes::list_nodes,
        ledger::list_ledger, ledger::read_checkpoint, ledger::make_checkpoint, ledger::prove_receipt,
        ledger::prove_consistency, ledger::verify_ledger, ledger_export::export_ledger, packet::read_packet, audit::list_audit,
        holds::place_hold, holds::list_holds, holds::lift_hold,
        tokens::create_token, tokens::list_tokens, tokens::revoke_token,
        health::read_health, health::read_readiness, stream::follow_stream, backup::back_up,
    ),
    components(schemas(
        publish::EventDocument, publish::Receipt<'static>, publish::PlanDocument<'static>, bulk::BulkResult<'static>,
        refusal::ProblemDocument<'static>,
    )),
)]
struct Document;

/// The whole document.
pub(crate) fn document() -> Value {
    // Invariant: the document is made of strings, maps and lists.
    let mut document = serde_json::to_value(Document::openapi()).expect("an OpenAPI document serialises");
    document["info"]["version"] = json!(env!("CARGO_PKG_VERSION"));
    document["components"]["securitySchemes"] = json!({
        "token": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer hms_…`; an admin makes tokens with `hms-ess token create`."}
    });
    let problem = json!({"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}});
    document["components"]["responses"] = json!({
        "Problem": {"description": "Refused; `detail` and `hint` say why and what to do.", "content": problem.clone()},
        "Unauthenticated": {"description": "No token, or one that is unknown, expired or revoked.", "content": problem.clone()},
        "Forbidden": {"description": "The token's role does not allow it.", "content": problem},
    });
    if let Some(paths) = document["paths"].as_object_mut() {
        for (path, methods) in paths {
            let is_open = OPEN.contains(&path.as_str());
            for (method, operation) in methods.as_object_mut().into_iter().flatten() {
                complete(operation, is_open);
                operation["x-hms-roles"] = json!(roles(method, path));
            }
        }
    }
    document
}

/// Adds what every operation has: its security, and how it refuses.
fn complete(operation: &mut Value, is_open: bool) {
    let reference = |name: &str| json!({"$ref": format!("#/components/responses/{name}")});
    if is_open {
        operation["security"] = json!([]);
    } else {
        operation["security"] = json!([{"token": []}]);
        operation["responses"]["401"] = reference("Unauthenticated");
        operation["responses"]["403"] = reference("Forbidden");
    }
    operation["responses"]["default"] = reference("Problem");
}

/// Which roles may call it; the handlers decide, a test holds this list to them.
fn roles(method: &str, path: &str) -> &'static [&'static str] {
    match (method, path) {
        (_, path) if OPEN.contains(&path) => &[],
        ("post", "/v1/events") => &["publisher", "operator", "admin"],
        ("get", "/v1/events/{id}/audit") => &["operator", "auditor", "admin"],
        ("get", path) if path.starts_with("/v1/events") => &["publisher", "operator", "auditor", "admin"],
        (
            "post",
            "/v1/partners/{id}/test"
            | "/v1/partners/{id}/probe"
            | "/v1/partners/{id}/rotate-secret"
            | "/v1/events/{id}/replay"
            | "/v1/dead-letters/redrive",
        ) => &["partner", "operator", "admin"],
        ("post", "/v1/acks") => &["partner", "operator", "admin"],
        ("get", "/v1/partners/{id}/inbox") => &["partner", "operator", "admin"],
        ("get", path) if path.starts_with("/v1/partners/{id}") => &["partner", "operator", "auditor", "admin"],
        (_, path) if path.starts_with("/v1/tokens") || path == "/v1/backup" => &["admin"],
        ("post", "/v1/events/{id}/redact") | ("delete", "/v1/holds/{id}") => &["admin"],
        ("get", _) | ("post", "/v1/ledger/verify" | "/v1/ledger/checkpoint") => &["operator", "auditor", "admin"],
        _ => &["operator", "admin"],
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::routes;

    /// Served, but no part of the API.
    const PAGES: [&str; 4] = ["/", "/openapi.json", "/docs", "/docs/style.css"];

    fn operations(document: &Value) -> impl Iterator<Item = (&String, &String, &Value)> {
        let paths = document["paths"].as_object().unwrap();
        paths.iter().flat_map(|(path, methods)| methods.as_object().unwrap().iter().map(move |(m, o)| (path, m, o)))
    }

    #[test]
    fn the_document_describes_every_route_and_no_other() {
        let document = document();
        let described: BTreeSet<(String, String)> =
            operations(&document).map(|(path, method, _)| (method.to_uppercase(), path.clone())).collect();
        let laid: BTreeSet<(String, String)> = routes::routes()
            .laid
            .iter()
            .filter(|(_, path)| !PAGES.contains(path))
            .map(|(method, path)| (method.to_string(), (*path).to_owned()))
            .collect();
        assert_eq!(described, laid);
    }

    #[test]
    fn the_document_is_openapi_3_1_and_says_who_may_do_what() {
        let document = document();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1."));
        let mut ids = BTreeSet::new();
        for (path, method, operation) in operations(&document) {
            let name = format!("{method} {path}");
            assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{name}: its id stands twice");
            assert!(!operation["summary"].as_str().unwrap().is_empty(), "{name}");
            assert!(operation["responses"].get("default").is_some(), "{name}");
            let is_open = OPEN.contains(&path.as_str());
            assert_eq!(operation["security"].as_array().unwrap().is_empty(), is_open, "{name}");
            assert_eq!(operation["responses"].get("401").is_none(), is_open, "{name}");
            if let Some(contents) = operation["requestBody"]["content"].as_object() {
                assert!(contents.values().all(|content| content.get("example").is_some()), "{name}: no example");
            }
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn walk(value: &Value, document: &Value) {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(reference)) = map.get("$ref") {
                        let pointer = reference.strip_prefix('#').unwrap();
                        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
                    }
                    map.values().for_each(|value| walk(value, document));
                }
                Value::Array(items) => items.iter().for_each(|value| walk(value, document)),
                _ => {}
            }
        }
        let document = document();
        walk(&document, &document);
    }
}
