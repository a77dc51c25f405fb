//! `POST /v1/events` in all its forms, and what is refused.

use serde_json::json;

use crate::support::{TestHub, event};

#[tokio::test]
async fn an_event_is_recorded_once_and_never_changed() {
    let hub = TestHub::start().await;
    let first = hub.ask("POST", "/v1/events", &event("RULE-A-V3")).await;
    assert_eq!(first.status, 202, "{}", first.text());
    let receipt = first.json();
    assert_eq!(
        (&receipt["sequence"], &receipt["subject"], &receipt["test"]),
        (&1.into(), &"RULE-A".into(), &false.into())
    );
    assert_eq!((&receipt["partners"], &receipt["blocked"]), (&0.into(), &json!([])));
    assert!(receipt.get("duplicate").is_none());
    let again = hub.ask("POST", "/v1/events", &event("RULE-A-V3")).await;
    assert_eq!((again.status, &again.json()["duplicate"], &again.json()["sequence"]), (200, &true.into(), &1.into()));
    let other = hub.ask("POST", "/v1/events", r#"{"id": "RULE-A-V3", "version": 3, "payload": 1}"#).await;
    other.problem(409, "event_conflict");
    // A dry run has its own identity.
    let test = hub.ask_as(&hub.admin, "POST", "/v1/events", &["X-HMS-Test: true"], event("RULE-A-V3").as_bytes()).await;
    assert_eq!((test.status, &test.json()["test"]), (202, &true.into()));
    hub.ask_as(&hub.admin, "POST", "/v1/events", &["X-HMS-Test: maybe"], b"{}").await.problem(422, "invalid");
    hub.finish().await;
}

#[tokio::test]
async fn numbers_are_kept_as_they_were_written() {
    let hub = TestHub::start().await;
    let payload = r#"{"a":9007199254740993,"b":0.1000000000000000055,"c":1e400}"#;
    let body = format!(r#"{{"id": "N-V1", "version": 1, "payload": {payload}}}"#);
    assert_eq!(hub.ask("POST", "/v1/events", &body).await.status, 202);
    let read = hub.get("/v1/events/N-V1").await;
    assert!(read.text().contains(payload), "{}", read.text());
    hub.finish().await;
}

#[tokio::test]
async fn cloudevents_come_structured_binary_and_in_batches() {
    let hub = TestHub::start().await;
    let send = async |kind: &str, more: &[&str], body: &str| {
        let kind = format!("content-type: {kind}");
        let mut headers = vec![kind.as_str()];
        headers.extend_from_slice(more);
        hub.ask_as(&hub.admin, "POST", "/v1/events", &headers, body.as_bytes()).await
    };
    let structured = r#"{"specversion": "1.0", "id": "CE-1", "source": "gov", "type": "t", "subject": "S", "hmsversion": 3, "data": {"a": 1}}"#;
    let reply = send("application/cloudevents+json; charset=utf-8", &[], structured).await;
    assert_eq!((reply.status, &reply.json()["subject"]), (202, &"S".into()), "{}", reply.text());
    let attributes = ["ce-specversion: 1.0", "ce-id: CE-2", "ce-source: gov", "ce-type: t", "ce-hmsversion: 3"];
    let reply = send("application/json", &attributes, r#"{"a": 2}"#).await;
    assert_eq!((reply.status, &reply.json()["id"]), (202, &"CE-2".into()), "{}", reply.text());
    let batch = format!("[{}, {{\"specversion\": \"1.0\"}}]", structured.replace("CE-1", "CE-3"));
    let reply = send("application/cloudevents-batch+json", &[], &batch).await;
    let results = reply.json();
    assert_eq!((&results["recorded"], &results["refused"]), (&1.into(), &1.into()), "{results}");
    assert_eq!(results["results"][1]["line"], 2);
    assert_eq!(hub.get("/v1/events/CE-2").await.json()["payload"], json!({"a": 2}));
    hub.finish().await;
}

#[tokio::test]
async fn what_is_wrong_with_an_event_is_named() {
    let hub = TestHub::start().await;
    let send = async |body: &str| hub.ask("POST", "/v1/events", body).await;
    let broken = send("{\"id\": \"A-V1\",\n \"version\": 3,\n \"payload\": {]}").await.problem(400, "malformed");
    assert_eq!(broken["position"]["line"], 3, "{broken}");
    for (body, field) in [
        (r#"{"id": "A V1", "version": 3, "payload": {}}"#, "id"),
        (r#"{"id": "A-V1", "version": 0, "payload": {}}"#, "version"),
        (r#"{"id": "A-V1", "version": 3}"#, "payload"),
        (r#"{"id": "A-V1", "version": 3, "payload": {}, "payloda": 1}"#, "payloda"),
        (r#"{"id": "A-V1", "version": 3, "payload": {}, "kind": "x"}"#, "kind"),
    ] {
        assert_eq!(send(body).await.problem(422, "invalid")["field"], field, "{body}");
    }
    for body in ["", "[]", "null", "\u{0}", "{"] {
        send(body).await.problem(400, "malformed");
    }
    let deep = format!("{{\"id\": \"A\", \"version\": 1, \"payload\": {}}}", "[".repeat(100_000));
    assert_eq!(send(&deep).await.status / 100, 4);
    let reply = hub.ask_as(&hub.admin, "POST", "/v1/events", &["content-type: text/xml"], b"<a/>").await;
    assert!(reply.problem(415, "unsupported_media_type")["hint"].as_str().unwrap().contains("application/json"));
    let reply = hub.ask_as(&hub.admin, "POST", "/v1/events", &["content-encoding: gzip"], b"x").await;
    reply.problem(415, "unsupported_media_type");
    hub.ask("POST", "/v1/events?plann=true", &event("A-V1")).await.problem(422, "invalid");
    assert_eq!(hub.get("/v1/events").await.json()["items"], json!([]), "nothing was recorded");
    hub.finish().await;
}

#[tokio::test]
async fn a_plan_says_who_is_blocked_and_records_nothing() {
    let hub = TestHub::start().await;
    let partner = r#"{"id": "COURT-CAL", "url": "https://203.0.113.9/update", "accepts_version": 1}"#;
    assert_eq!(hub.ask("POST", "/v1/partners", partner).await.status, 201);
    let plan = hub.ask("POST", "/v1/events?plan=true", &event("RULE-A-V3")).await.json();
    assert_eq!(
        (&plan["partners"][0]["outcome"], &plan["partners"][0]["version"]),
        (&"blocked".into(), &1.into()),
        "{plan}"
    );
    assert!(plan["partners"][0]["mend"].as_str().unwrap().starts_with("hms-ess bridge add"), "{plan}");
    assert_eq!(hub.get("/v1/events").await.json()["items"], json!([]));
    let bridge = r#"{"subject": "RULE-*", "from": ">=3", "to": 1, "script": "{\"cutoff\": deadline}", "examples": [{"input": {"deadline": "16:00"}, "output": {"cutoff": "16:00"}}]}"#;
    let added = hub.ask("POST", "/v1/bridges", bridge).await;
    assert_eq!((added.status, &added.json()["changed"]), (201, &true.into()), "{}", added.text());
    let plan = hub.ask("POST", "/v1/events?plan=true", &event("RULE-A-V3")).await.json();
    assert_eq!(plan["partners"][0]["outcome"], "deliver", "{plan}");
    assert!(plan["partners"][0]["body"].as_str().unwrap().contains(r#""payload":{"cutoff":"16:00"}"#), "{plan}");
    hub.finish().await;
}
