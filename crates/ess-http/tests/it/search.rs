//! A text is looked for in payloads, over the API and on the dashboard: found once, never by who may not see it, never when it is gone.

use crate::support::TestHub;

async fn publish(hub: &TestHub, id: &str, payload: &str) {
    let body = format!(r#"{{"id": "{id}", "version": 1, "payload": {payload}}}"#);
    assert_eq!(hub.ask("POST", "/v1/events", &body).await.status, 202);
}

async fn found(hub: &TestHub, token: &str, query: &str) -> (Vec<String>, Option<String>) {
    let reply = hub.ask_as(token, "GET", &format!("/v1/events?{query}"), &[], b"").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let page = reply.json();
    let ids = page["items"].as_array().unwrap().iter().map(|event| event["id"].as_str().unwrap().to_owned());
    (ids.collect(), page["next"].as_str().map(str::to_owned))
}

#[tokio::test]
async fn a_text_is_found_page_by_page_in_the_order_of_the_log() {
    let hub = TestHub::start().await;
    publish(&hub, "RULE-A-V1", r#"{"judge": "M\u00fcller"}"#).await;
    publish(&hub, "RULE-B-V1", r#"{"judge": "Lee"}"#).await;
    publish(&hub, "RULE-C-V1", r#"{"judge": "müller"}"#).await;
    let (first, next) = found(&hub, &hub.admin, "text=M%C3%BCller&limit=1").await;
    assert_eq!((first, next.as_deref()), (vec!["RULE-A-V1".to_owned()], Some("1")));
    assert_eq!(found(&hub, &hub.admin, "text=M%C3%BCller&limit=1&after=1").await.0, ["RULE-C-V1"]);
    assert_eq!(found(&hub, &hub.admin, "text=lee&subject=RULE-A").await, (Vec::new(), None));
    let long = "x".repeat(201);
    for bad in ["%20", &long] {
        let reply = hub.get(&format!("/v1/events?text={bad}")).await;
        assert_eq!(reply.problem(422, "invalid")["field"], "text", "{bad}");
    }
    hub.finish().await;
}

#[tokio::test]
async fn a_limited_publisher_learns_nothing_of_other_subjects_not_even_where_they_are() {
    let hub = TestHub::start().await;
    let token = hub.token(r#"{"role": "publisher", "subjects": ["RULE-*"]}"#).await;
    publish(&hub, "TAX-RATE-V1", r#"{"secret": "sesame"}"#).await;
    publish(&hub, "RULE-A-V1", r#"{"word": "sesame"}"#).await;
    publish(&hub, "RULE-B-V1", r#"{"word": "other"}"#).await;
    // A step that ended at the hidden one would tell that it holds the text.
    let (ids, next) = found(&hub, &token, "text=sesame&limit=1").await;
    assert_eq!((ids, next.as_deref()), (vec!["RULE-A-V1".to_owned()], Some("2")));
    assert_eq!(found(&hub, &token, "text=sesame&subject=TAX-RATE").await, (Vec::new(), None));
    hub.finish().await;
}

#[tokio::test]
async fn what_was_redacted_is_not_found_any_more() {
    let hub = TestHub::start().await;
    publish(&hub, "RULE-A-V1", r#"{"name": "Jane Roe"}"#).await;
    assert_eq!(found(&hub, &hub.admin, "text=jane+roe").await.0, ["RULE-A-V1"]);
    let reply = hub.ask("POST", "/v1/events/RULE-A-V1/redact", r#"{"reason": "a minor is named"}"#).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    for text in ["jane+roe", "null", "minor"] {
        assert!(found(&hub, &hub.admin, &format!("text={text}")).await.0.is_empty(), "{text}");
    }
    hub.finish().await;
}
