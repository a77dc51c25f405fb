//! What needs no token: health, the description, its page; and paths that are none.

use crate::support::TestHub;

#[tokio::test]
async fn the_description_and_its_page_are_open_and_need_nothing_else() {
    let hub = TestHub::start().await;
    let document = hub.ask_as("", "GET", "/openapi.json", &[], b"").await;
    assert!(document.json()["openapi"].as_str().unwrap().starts_with("3.1."));
    let page = hub.ask_as("", "GET", "/docs", &[], b"").await;
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(page.header("content-security-policy").unwrap().starts_with("default-src 'none'"));
    assert!(page.text().contains("RULE-COURT-DEADLINE-V3"));
    assert_eq!(
        hub.ask_as("", "GET", "/docs/style.css", &[], b"").await.header("content-type"),
        Some("text/css; charset=utf-8")
    );
    let home = hub.ask_as("", "GET", "/", &[], b"").await;
    assert_eq!((home.status, home.header("location")), (307, Some("/docs")));
    let browser = hub.ask_as("", "GET", "/", &["accept: text/html,*/*;q=0.8"], b"").await;
    assert_eq!((browser.status, browser.header("location")), (307, Some("/dashboard")));
    assert_eq!(hub.ask_as("", "GET", "/healthz", &[], b"").await.text(), "ok\n");
    assert_eq!(hub.ask_as("", "GET", "/readyz", &[], b"").await.text(), "ready\n");
    assert!(hub.ask_as("", "GET", "/v1/keys", &[], b"").await.json()["keys"][0].as_str().unwrap().starts_with("whpk_"));
    hub.finish().await;
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems() {
    let hub = TestHub::start().await;
    hub.get("/v1/nothing").await.problem(404, "not_found");
    let reply = hub.ask("DELETE", "/v1/events", "").await;
    reply.problem(405, "method_not_allowed");
    let allow = reply.header("allow").unwrap();
    assert!(allow.contains("GET") && allow.contains("POST"), "{allow}");
    hub.finish().await;
}

#[tokio::test]
async fn a_sane_request_id_is_kept_and_another_replaced() {
    let hub = TestHub::start().await;
    let ask = async |id: &str| {
        let line = format!("x-request-id: {id}");
        let reply = hub.ask_as("", "GET", "/v1/partners", &[&line], b"").await;
        reply.problem(401, "unauthenticated");
        reply.header("x-request-id").unwrap().to_owned()
    };
    assert_eq!(ask("deploy-42").await, "deploy-42");
    assert_ne!(ask("a\"b").await, "a\"b");
    assert_ne!(ask("a b").await, ask("a b").await);
    hub.finish().await;
}
