//! Who may do what: without a token, with each role, with a token that ended.

use serde_json::Value;

use crate::support::{TestHub, event};

const OPEN: [&str; 3] = ["/healthz", "/readyz", "/v1/keys"];

/// Every operation that is described: method, path with ids filled in, its description.
fn operations() -> Vec<(String, String, Value)> {
    let document = ess_http::openapi();
    let mut operations = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let path = path.replace("{id}", "COURT-CAL");
            operations.push((method.to_uppercase(), path, operation.clone()));
        }
    }
    operations
}

#[tokio::test]
async fn every_route_but_health_and_keys_refuses_without_a_token() {
    let hub = TestHub::start().await;
    let mut count = 0;
    for (method, path, _) in operations() {
        let reply = hub.ask_as("", &method, &path, &[], b"{}").await;
        if OPEN.contains(&path.as_str()) {
            assert_eq!(reply.status, 200, "{method} {path}");
            continue;
        }
        let problem = reply.problem(401, "unauthenticated");
        assert!(problem["hint"].is_string(), "{method} {path}");
        assert!(reply.header("www-authenticate").unwrap().starts_with("Bearer"));
        let reply = hub.ask_as("hms_admin_0123", &method, &path, &[], b"{}").await;
        reply.problem(401, "unauthenticated");
        count += 1;
    }
    assert!(count > 30, "{count}");
    hub.finish().await;
}

#[tokio::test]
async fn each_role_may_do_what_the_description_says() {
    let hub = TestHub::start().await;
    let partner = r#"{"id": "COURT-CAL", "url": "https://203.0.113.9/update"}"#;
    assert_eq!(hub.ask("POST", "/v1/partners", partner).await.status, 201);
    for role in ["publisher", "partner", "operator", "auditor"] {
        let limit = if role == "partner" { r#", "partner": "COURT-CAL""# } else { "" };
        let token = hub.token(&format!(r#"{{"role": "{role}"{limit}}}"#)).await;
        for (method, path, operation) in operations() {
            if OPEN.contains(&path.as_str()) || path == "/v1/stream" {
                continue;
            }
            let may = operation["x-hms-roles"].as_array().unwrap().iter().any(|known| known == role);
            // A query that no route knows ends the request right after the role was found to be good, whatever it would do.
            let reply = hub.ask_as(&token, &method, &format!("{path}?nonsense=1"), &[], br#"{"ack": "X"}"#).await;
            if path == "/v1/acks" {
                continue;
            }
            if may {
                assert_eq!(reply.problem(422, "invalid")["field"], "nonsense", "{role}: {method} {path}");
            } else {
                assert_eq!(reply.status, 403, "{role}: {method} {path}");
                assert!(reply.problem(403, "forbidden")["hint"].is_string(), "{role}: {method} {path}");
            }
        }
    }
    hub.finish().await;
}

#[tokio::test]
async fn a_limited_publisher_reaches_its_subjects_only() {
    let hub = TestHub::start().await;
    let token = hub.token(r#"{"role": "publisher", "subjects": ["RULE-*"]}"#).await;
    let publish = async |id: &str| hub.ask_as(&token, "POST", "/v1/events", &[], event(id).as_bytes()).await;
    assert_eq!(publish("RULE-A-V1").await.status, 202);
    assert_eq!(publish("TAX-V1").await.problem(403, "forbidden")["field"], "subject");
    assert_eq!(hub.ask("POST", "/v1/events", &event("TAX-V1")).await.status, 202);
    for path in ["/v1/events/TAX-V1", "/v1/events/TAX-V1/status", "/v1/events/TAX-V1/deliveries"] {
        hub.ask_as(&token, "GET", path, &[], b"").await.problem(403, "forbidden");
    }
    assert_eq!(hub.ask_as(&token, "GET", "/v1/events/RULE-A-V1/status", &[], b"").await.json(), serde_json::json!({}));
    let seen = hub.ask_as(&token, "GET", "/v1/events", &[], b"").await.json();
    let seen: Vec<&str> = seen["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap()).collect();
    assert_eq!(seen, ["RULE-A-V1"]);
    // A retraction goes to those who got what it takes back.
    let retraction =
        r#"{"id": "RULE-B-V1", "version": 1, "payload": null, "kind": "retraction", "references": ["TAX-V1"]}"#;
    hub.ask_as(&token, "POST", "/v1/events", &[], retraction.as_bytes()).await.problem(403, "forbidden");
    // In bulk each line is judged by itself.
    let lines = format!("{}\n{}\n", event("RULE-C-V1").replace('\n', ""), event("TAX-V2"));
    let reply =
        hub.ask_as(&token, "POST", "/v1/events", &["content-type: application/x-ndjson"], lines.as_bytes()).await;
    let results = reply.json();
    assert_eq!((&results["recorded"], &results["refused"]), (&1.into(), &1.into()), "{results}");
    assert_eq!(results["results"][1]["status"], 403);
    hub.finish().await;
}

#[tokio::test]
async fn a_revoked_token_is_refused_at_once() {
    let hub = TestHub::start().await;
    let made =
        hub.ask("POST", "/v1/tokens", r#"{"role": "auditor", "note": "for a day", "expires_in": "24h"}"#).await.json();
    let (token, id) = (made["token"].as_str().unwrap(), made["id"].as_str().unwrap());
    assert!(made["expires_at"].is_string());
    assert_eq!(hub.ask_as(token, "GET", "/v1/partners", &[], b"").await.status, 200);
    let reply =
        hub.ask_as(&hub.admin, "DELETE", &format!("/v1/tokens/{id}"), &["x-hms-reason: left the team"], b"").await;
    assert_eq!((reply.status, reply.body.len()), (204, 0));
    hub.ask_as(token, "GET", "/v1/partners", &[], b"").await.problem(401, "unauthenticated");
    let list = hub.get("/v1/tokens").await;
    assert!(!list.text().contains(token), "a token's text is shown once");
    let trail = hub.get("/v1/audit").await.json();
    let last = trail["items"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["act"], &last["reason"]), (&"token.revoke".into(), &"left the team".into()));
    hub.ask("DELETE", "/v1/tokens/tok_none", "").await.problem(404, "not_found");
    hub.finish().await;
}

#[tokio::test]
async fn every_change_is_recorded_with_its_reason() {
    let hub = TestHub::start().await;
    let changes = [
        ("POST", "/v1/partners", r#"{"id": "P", "url": "https://p.invalid/"}"#, "partner.add"),
        ("PUT", "/v1/partners/P", r#"{"id": "P", "url": "https://p.invalid/2"}"#, "partner.change"),
        ("POST", "/v1/partners/P/pause", "{}", "partner.pause"),
        ("POST", "/v1/partners/P/resume", "{}", "partner.resume"),
        ("POST", "/v1/partners/P/rotate-secret", "{}", "partner.rotate_secret"),
        ("DELETE", "/v1/partners/P", "", "partner.remove"),
        ("POST", "/v1/bridges", r#"{"subject": "A", "from": 2, "to": 1, "identity": true}"#, "bridge.add"),
        ("DELETE", "/v1/bridges/A%2F2-to-1", "", "bridge.remove"),
        ("POST", "/v1/schemas", r#"{"subject": "A", "version": 1, "schema": true}"#, "schema.add"),
        ("DELETE", "/v1/schemas/A%2Fv1", "", "schema.remove"),
        ("POST", "/v1/tables", r#"{"name": "t", "value": []}"#, "table.add"),
        ("DELETE", "/v1/tables/t", "", "table.remove"),
        ("POST", "/v1/tokens", r#"{"role": "auditor"}"#, "token.create"),
    ];
    for (method, path, body, act) in changes {
        let reason = format!("x-hms-reason: because of {act}");
        let reply = hub.ask_as(&hub.admin, method, path, &[&reason], body.as_bytes()).await;
        assert!(reply.status < 300, "{act}: {}", reply.text());
        let trail = hub.get("/v1/audit").await.json();
        let last = trail["items"].as_array().unwrap().last().unwrap();
        assert_eq!((&last["act"], &last["reason"]), (&act.into(), &format!("because of {act}").into()));
    }
    hub.finish().await;
}

#[tokio::test]
async fn whoever_guesses_tokens_is_told_to_wait_and_others_are_not() {
    let hub = TestHub::start().await;
    let mut told = None;
    for _ in 0..200 {
        let reply = hub.ask_as("hms_admin_guess", "GET", "/v1/partners", &[], b"").await;
        if reply.status == 429 {
            assert!(reply.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
            told = Some(reply.problem(429, "too_many_requests"));
            break;
        }
    }
    assert!(told.is_some());
    assert_eq!(hub.get("/v1/partners").await.status, 200);
    hub.finish().await;
}
