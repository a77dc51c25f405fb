//! Schemas and lookup tables: what they refuse, hold back and let go.

use serde_json::{Value, json};

use crate::support::{Reply, TestHub, event};

async fn add(hub: &TestHub, path: &str, document: &Value) -> Reply {
    let reply = hub.ask("POST", path, &document.to_string()).await;
    assert!(matches!(reply.status, 200 | 201), "{}", reply.text());
    reply
}

/// A partner on version 1 that is never reached: what is made for it is seen in the plan and in what is blocked.
async fn partner(hub: &TestHub, adapter: Option<&str>) {
    let mut document = json!({"id": "P", "url": "https://partner.invalid/", "accepts_version": 1});
    if let Some(adapter) = adapter {
        document["adapter"] = adapter.into();
    }
    add(hub, "/v1/partners", &document).await;
}

async fn publish(hub: &TestHub, id: &str, payload: &str) -> Value {
    let body = format!(r#"{{"id": "{id}", "version": 3, "payload": {payload}}}"#);
    let reply = hub.ask("POST", "/v1/events", &body).await;
    assert_eq!(reply.status, 202, "{}", reply.text());
    reply.json()
}

#[tokio::test]
async fn a_schema_refuses_what_does_not_fit_and_names_the_path() {
    let hub = TestHub::start().await;
    publish(&hub, "RULE-A-V0", r#"{"fees": [{"amount": "x"}]}"#).await;
    let schema = json!({"properties": {"fees": {"items": {"properties": {"amount": {"type": "integer"}}}}}});
    let document = json!({"subject": "RULE-*", "version": 3, "schema": schema});
    assert_eq!(add(&hub, "/v1/schemas", &document).await.status, 201);
    assert_eq!(add(&hub, "/v1/schemas", &document).await.status, 200);
    let wrong = r#"{"id": "RULE-A-V1", "version": 3, "payload": {"fees": [{"amount": 1}, {"amount": "x"}]}}"#;
    let refused = hub.ask("POST", "/v1/events", wrong).await;
    assert_eq!(refused.json()["field"], "payload.fees.1.amount", "{}", refused.text());
    refused.problem(422, "schema_violation");
    assert_eq!(hub.get("/v1/events/RULE-A-V1").await.status, 404);
    // Its publisher asks for the receipt of what is recorded already.
    let again = r#"{"id": "RULE-A-V0", "version": 3, "payload": {"fees": [{"amount": "x"}]}}"#;
    let again = hub.ask("POST", "/v1/events", again).await;
    assert_eq!((again.status, &again.json()["duplicate"]), (200, &json!(true)));
    // Line by line in bulk.
    let lines = format!("{}\n{wrong}\n", event("RULE-A-V2").replace('\n', " "));
    let bulk = ["content-type: application/x-ndjson"];
    let bulk = hub.ask_as(&hub.admin, "POST", "/v1/events", &bulk, lines.as_bytes()).await.json();
    assert_eq!((&bulk["recorded"], &bulk["refused"]), (&json!(1), &json!(1)), "{bulk}");
    // Other subjects and versions are free.
    for free in [wrong.replace("RULE-A", "FEE-A"), wrong.replace(r#""version": 3"#, r#""version": 2"#)] {
        assert_eq!(hub.ask("POST", "/v1/events", &free).await.status, 202);
    }
    hub.ask("POST", "/v1/schemas", &json!({"subject": "RULE-*", "version": 3, "schema": true}).to_string())
        .await
        .problem(409, "conflict");
    assert_eq!(hub.ask("DELETE", "/v1/schemas/RULE-%2A%2Fv3", "").await.status, 204);
    assert_eq!(hub.ask("POST", "/v1/events", &wrong.replace("A-V1", "A-V3")).await.status, 202);
    hub.finish().await;
}

#[tokio::test]
async fn a_schema_that_is_none_or_endless_hurts_nobody() {
    let hub = TestHub::start().await;
    for schema in [json!({"type": "strin"}), json!({"$ref": "https://elsewhere.gov/s.json"}), json!(3)] {
        let document = json!({"subject": "A", "version": 1, "schema": schema}).to_string();
        hub.ask("POST", "/v1/schemas", &document).await.problem(422, "schema_violation");
    }
    // One that never comes to an end: refused when it is added, or when it is used; either way the hub answers.
    let endless = json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"});
    let document = json!({"subject": "A", "version": 1, "schema": endless}).to_string();
    let added = hub.ask("POST", "/v1/schemas", &document).await;
    if added.status == 201 {
        let body = r#"{"id": "A-V1", "version": 1, "payload": 1}"#;
        let reply = hub.ask("POST", "/v1/events", body).await;
        assert!(matches!(reply.status, 202 | 422), "{}", reply.text());
    }
    assert_eq!(hub.get("/healthz").await.status, 200);
    hub.finish().await;
}

#[tokio::test]
async fn what_a_bridge_makes_is_held_back_when_its_schema_forbids_it() {
    let hub = TestHub::start().await;
    partner(&hub, None).await;
    let schema = json!({"properties": {"cutoff": {"type": "string"}}, "required": ["cutoff"]});
    add(&hub, "/v1/schemas", &json!({"subject": "RULE-A", "version": 1, "schema": schema})).await;
    let bridge = |script: &str| json!({"subject": "RULE-A", "from": 3, "to": 1, "script": script});
    add(&hub, "/v1/bridges", &bridge("{'cutoff': deadline}")).await;
    let receipt = publish(&hub, "RULE-A-V1", r#"{"deadline": 16}"#).await;
    let reason =
        r#"bridge RULE-A/3-to-1: its output does not fit schema RULE-A/v1: cutoff: value is not of type "string""#;
    assert_eq!(receipt["blocked"][0]["reason"], reason, "{receipt}");
    assert!(receipt["blocked"][0]["mend"].as_str().unwrap().contains("--replace"), "{receipt}");
    assert_eq!(publish(&hub, "RULE-A-V2", r#"{"deadline": "16:00"}"#).await["blocked"], json!([]));
    // An example is held to it as well.
    let mut document = bridge("{'cutoff': deadline }");
    document["examples"] = json!([{"input": {"deadline": 1}, "output": {"cutoff": 1}}]);
    let refused = hub.ask("POST", "/v1/bridges?replace=true", &document.to_string()).await;
    refused.problem(422, "script_failed");
    hub.finish().await;
}

#[tokio::test]
async fn a_bridge_without_a_script_is_offered_where_the_payload_fits_and_mends() {
    let hub = TestHub::start().await;
    partner(&hub, None).await;
    for version in [1, 3] {
        let schema = json!({"required": ["deadline"]});
        add(&hub, "/v1/schemas", &json!({"subject": "RULE-A", "version": version, "schema": schema})).await;
    }
    let receipt = publish(&hub, "RULE-A-V1", r#"{"deadline": "16:00"}"#).await;
    let mend = "hms-ess bridge add --identity --subject 'RULE-A' --from 3 --to 1";
    assert_eq!(receipt["blocked"][0]["mend"], mend, "{receipt}");
    let added = json!({"subject": "RULE-A", "version": 3, "schema": {"required": ["deadline"], "type": "object"}});
    let changed = add(&hub, "/v1/schemas?replace=true", &added).await.json();
    assert_eq!(changed["offers"], json!([{"subject": "RULE-A", "from": 3, "to": 1, "command": mend}]));
    add(&hub, "/v1/bridges", &json!({"subject": "RULE-A", "from": 3, "to": 1, "identity": true})).await;
    assert_eq!(publish(&hub, "RULE-A-V2", r#"{"deadline": "17:00"}"#).await["blocked"], json!([]));
    hub.finish().await;
}

#[tokio::test]
async fn a_table_that_is_missing_blocks_and_lets_go_when_it_is_there() {
    let hub = TestHub::start().await;
    partner(&hub, Some("{'court': $table('courts')[id = $$.payload.court].name}")).await;
    add(&hub, "/v1/bridges", &json!({"subject": "*", "from": 3, "to": 1, "identity": true})).await;
    let plan = async |court: &str| {
        let body = format!(r#"{{"id": "RULE-A-V1", "version": 3, "payload": {{"court": "{court}"}}}}"#);
        hub.ask("POST", "/v1/events?plan=true", &body).await.json()["partners"][0].clone()
    };
    let blocked = plan("C2").await;
    assert!(blocked["reason"].as_str().unwrap().contains("there is no table \"courts\""), "{blocked}");
    let table =
        |name: &str| json!({"name": "courts", "value": [{"id": "C1", "name": "Cook"}, {"id": "C2", "name": name}]});
    assert_eq!(add(&hub, "/v1/tables", &table("Lake")).await.status, 201);
    assert_eq!(plan("C2").await["body"], r#"{"court":"Lake"}"#);
    // Another table is seen at once, by every evaluation process.
    hub.ask("POST", "/v1/tables", &table("Pond").to_string()).await.problem(409, "conflict");
    add(&hub, "/v1/tables?replace=true", &table("Pond")).await;
    for _ in 0..8 {
        assert_eq!(plan("C2").await["body"], r#"{"court":"Pond"}"#);
    }
    assert_eq!(hub.get("/v1/tables").await.json()["items"][0]["name"], "courts");
    for (document, field) in [
        (json!({"name": "a b", "value": []}), "name"),
        (json!({"name": "big", "value": "x".repeat(1_100_000)}), "value"),
    ] {
        let refused = hub.ask("POST", "/v1/tables", &document.to_string()).await;
        assert_eq!(refused.json()["field"], field, "{}", refused.text());
        refused.problem(422, "invalid");
    }
    let inexact = r#"{"name": "n", "value": [9007199254740993]}"#;
    hub.ask("POST", "/v1/tables", inexact).await.problem(422, "invalid");
    hub.finish().await;
}

#[tokio::test]
async fn rules_are_the_operators() {
    let hub = TestHub::start().await;
    let publisher = hub.token(r#"{"role": "publisher"}"#).await;
    let json_type = ["content-type: application/json"];
    for (method, path) in [("POST", "/v1/schemas"), ("POST", "/v1/tables"), ("POST", "/v1/bridges/test")] {
        hub.ask_as(&publisher, method, path, &json_type, b"{}").await.problem(403, "forbidden");
    }
    hub.finish().await;
}
