//! Once around: a partner that answers, an event that reaches it, what the API tells of it.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::{TestHub, event, request};

/// A partner that acknowledges by its status: it answers 204 to everything.
async fn partner() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut line, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0u8; 16 * 1024];
                // Messages here are small: each comes in one piece.
                while line.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                    if line.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    format!("http://{address}/update")
}

#[tokio::test]
async fn an_event_goes_round() {
    let hub = TestHub::start().await;
    let url = partner().await;
    let document = json!({"id": "COURT-CAL", "url": url, "ack": {"by": "status"}}).to_string();
    let added = hub.ask("POST", "/v1/partners", &document).await;
    assert_eq!(added.status, 201, "{}", added.text());
    assert!(added.json()["secret"].as_str().unwrap().starts_with("whsec_"));
    let again = hub.ask("POST", "/v1/partners", &document).await;
    assert_eq!((again.status, &again.json()["changed"]), (200, &false.into()));
    assert!(again.json().get("secret").is_none());
    assert_eq!(hub.ask("POST", "/v1/events", &event("RULE-A-V3")).await.status, 202);
    let status = hub.get("/v1/events/RULE-A-V3/status?wait=30s").await;
    assert_eq!(status.json(), json!({"COURT-CAL": "ack"}));
    let deliveries = hub.get("/v1/events/RULE-A-V3/deliveries").await.json();
    let delivery = &deliveries["items"][0];
    assert_eq!(
        (&delivery["state"], &delivery["evidence"], &delivery["round"]),
        (&"ack".into(), &"status".into(), &0.into())
    );
    let token = hub.token(r#"{"role": "partner", "partner": "COURT-CAL"}"#).await;
    let missed = hub.ask_as(&token, "GET", "/v1/partners/COURT-CAL/events?from=1&to=10", &[], b"").await.json();
    assert_eq!(missed["items"][0]["partner_seq"], 1, "{missed}");
    assert_eq!(missed["items"][0]["envelope"]["id"], "RULE-A-V3");
    let own = hub.ask_as(&token, "GET", "/v1/partners/COURT-CAL/deliveries", &[], b"").await.json();
    assert_eq!(own["items"].as_array().unwrap().len(), 1);
    hub.ask_as(&token, "GET", "/v1/partners/OTHER/events", &[], b"").await.problem(403, "forbidden");
    let ack = hub.ask_as(&token, "POST", "/v1/acks", &[], br#"{"ack": "RULE-A-V3"}"#).await;
    assert_eq!((ack.status, ack.json()), (200, json!({"ok": true})), "an ACK twice is an ACK");
    let replay = hub.ask("POST", "/v1/events/RULE-A-V3/replay", r#"{"to": ["COURT-CAL"]}"#).await;
    assert_eq!((replay.status, &replay.json()["replayed"][0]["round"]), (202, &1.into()), "{}", replay.text());
    assert_eq!(hub.get("/v1/events/RULE-A-V3/status?wait=30s").await.json(), json!({"COURT-CAL": "ack"}));
    let ledger = hub.get("/v1/ledger").await.json();
    assert_eq!(ledger["items"].as_array().unwrap().len(), 2, "{ledger}");
    assert_eq!(ledger["items"][0]["word"], "ack");
    let verified = hub.ask("POST", "/v1/ledger/verify", "{}").await.json();
    let head = hub.get("/v1/ledger/checkpoint").await.json();
    assert_eq!((&verified["ok"], &verified["chain"]), (&true.into(), &head["chain"]));
    assert_eq!(hub.ask("POST", "/v1/partners/COURT-CAL/pause", "{}").await.json()["state"], "paused");
    assert_eq!(hub.ask("POST", "/v1/partners/COURT-CAL/resume", "").await.json()["state"], "active");
    let rotated = hub.ask("POST", "/v1/partners/COURT-CAL/rotate-secret", r#"{"overlap": "1h"}"#).await.json();
    assert_eq!(rotated["old_valid_for"], "1h");
    let changed = hub.ask("PUT", "/v1/partners/COURT-CAL", &json!({"url": url, "order": "none"}).to_string()).await;
    assert_eq!(
        (changed.status, &changed.json()["partner"]["config"]["order"]),
        (200, &"none".into()),
        "{}",
        changed.text()
    );
    assert_eq!(hub.ask("DELETE", "/v1/partners/COURT-CAL", "").await.status, 204);
    hub.get("/v1/partners/COURT-CAL").await.problem(404, "not_found");
    hub.finish().await;
}

#[tokio::test]
async fn the_stream_tells_what_happens_as_it_happens() {
    let hub = TestHub::start().await;
    let mut line = hub.dial().await;
    line.write_all(&request(&hub.admin, "GET", "/v1/stream", &[], b"")).await.unwrap();
    let mut seen = String::new();
    let mut read_until = async |word: &str| {
        let reading = async {
            let mut buffer = [0u8; 4096];
            while !seen.contains(word) {
                let read = line.read(&mut buffer).await.unwrap();
                assert!(read > 0, "the stream ended: {seen}");
                seen.push_str(&String::from_utf8_lossy(&buffer[..read]));
            }
            seen.clone()
        };
        tokio::time::timeout(crate::support::PATIENCE, reading).await.unwrap()
    };
    let head = read_until(": connected").await;
    assert!(head.contains("text/event-stream"), "{head}");
    assert_eq!(hub.ask("POST", "/v1/events", &event("RULE-A-V3")).await.status, 202);
    let told = read_until("event: event.recorded").await;
    assert!(told.contains("id: 1\n"), "{told}");
    read_until("\"type\":\"hms.ess.event.recorded\"").await;
    // The server stops although somebody listens.
    hub.finish().await;
}

#[tokio::test]
async fn documents_are_strict_and_bounded() {
    let hub = TestHub::start().await;
    for (method, path, body, field) in [
        ("POST", "/v1/events/A/replay", r#"{"to": "COURT-CAL"}"#, "to"),
        ("POST", "/v1/events/A/replay", r#"{"too": []}"#, "too"),
        ("POST", "/v1/tokens", r#"{"role": "root"}"#, "role"),
        ("POST", "/v1/partners", r#"{"id": "A", "url": "https://a.example/", "retri": {}}"#, "retri"),
        ("PUT", "/v1/partners/A", r#"{"id": "B", "url": "https://a.example/"}"#, "id"),
        ("POST", "/v1/bridges", r#"{"subject": "A", "from": 1, "to": 2}"#, "script"),
        ("POST", "/v1/dead-letters/discard", r#"{"partner": "A"}"#, "reason"),
        ("POST", "/v1/backup", r#"{"file": "relative.db"}"#, "file"),
        ("GET", "/v1/events?limit=0", "", "limit"),
        ("GET", "/v1/events?afterr=0", "", "afterr"),
        ("GET", "/v1/events/A/status?wait=61s", "", "wait"),
        ("GET", "/v1/events/A%20B", "", "id"),
    ] {
        let problem = hub.ask(method, path, body).await.problem(422, "invalid");
        assert_eq!(problem["field"], field, "{method} {path}: {problem}");
    }
    let reply = hub.ask("POST", "/v1/tokens", &format!("{{\"note\": \"{}\"}}", "x".repeat(70_000))).await;
    reply.problem(413, "too_large");
    let reason = format!("x-hms-reason: {}", "x".repeat(501));
    let reply = hub.ask_as(&hub.admin, "DELETE", "/v1/partners/A", &[&reason], b"").await;
    assert_eq!(reply.problem(422, "invalid")["field"], "x-hms-reason");
    hub.get("/v1/events/NONE").await.problem(404, "not_found");
    hub.finish().await;
}

#[tokio::test]
async fn an_ack_under_another_partners_token_ends_nothing() {
    let hub = TestHub::start().await;
    let url = partner().await;
    for (id, subscribe) in [("COURT-CAL", "RULE-*"), ("LAW-FIRM", "OTHER-*")] {
        let document = json!({"id": id, "url": url, "subscribe": [subscribe], "ack": {"by": "callback"}}).to_string();
        assert_eq!(hub.ask("POST", "/v1/partners", &document).await.status, 201);
    }
    assert_eq!(hub.ask("POST", "/v1/events", &event("RULE-A-V3")).await.status, 202);
    let word = br#"{"ack": "RULE-A-V3"}"#;
    let other = hub.token(r#"{"role": "partner", "partner": "LAW-FIRM"}"#).await;
    hub.ask_as(&other, "POST", "/v1/acks", &[], word).await.problem(404, "not_found");
    let status = hub.get("/v1/events/RULE-A-V3/status").await.json();
    assert_ne!(status, json!({"COURT-CAL": "ack"}), "nobody who may say so has said so");
    let own = hub.token(r#"{"role": "partner", "partner": "COURT-CAL"}"#).await;
    assert_eq!(hub.ask_as(&own, "POST", "/v1/acks", &[], word).await.status, 200);
    assert_eq!(hub.get("/v1/events/RULE-A-V3/status?wait=30s").await.json(), json!({"COURT-CAL": "ack"}));
    hub.finish().await;
}
