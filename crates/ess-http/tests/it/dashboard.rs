//! The dashboard over HTTP: sessions, forms that only our own pages can send, roles page by page, hostile texts.

use crate::support::{PATIENCE, Reply, TestHub, event};

/// A browser: its cookie, and the token of its forms.
struct Browser<'a> {
    hub: &'a TestHub,
    cookie: String,
    csrf: String,
}

const FORM: &str = "content-type: application/x-www-form-urlencoded";

impl<'a> Browser<'a> {
    async fn sign_in(hub: &'a TestHub, token: &str) -> Browser<'a> {
        let body = format!("token={token}");
        let reply = hub.ask_as("", "POST", "/dashboard/sign-in", &[FORM], body.as_bytes()).await;
        assert_eq!(reply.status, 303, "{}", reply.text());
        let set = reply.header("set-cookie").unwrap();
        let cookie = set.split(';').next().unwrap().to_owned();
        let mut browser = Browser { hub, cookie, csrf: String::new() };
        let home = reply.header("location").unwrap().to_owned();
        let page = browser.get(&home).await.text();
        let (_, rest) = page.split_once("name=\"csrf\" value=\"").expect("a form with the session's token");
        browser.csrf = rest.split('"').next().unwrap().to_owned();
        browser
    }

    async fn get(&self, path: &str) -> Reply {
        self.hub.ask_as("", "GET", path, &[&format!("cookie: {}", self.cookie)], b"").await
    }

    async fn post(&self, path: &str, fields: &str) -> Reply {
        self.post_as(path, &format!("csrf={}&{fields}", self.csrf), &[]).await
    }

    async fn post_as(&self, path: &str, body: &str, more: &[&str]) -> Reply {
        let cookie = format!("cookie: {}", self.cookie);
        let mut headers = vec![FORM, cookie.as_str()];
        headers.extend_from_slice(more);
        self.hub.ask_as("", "POST", path, &headers, body.as_bytes()).await
    }
}

async fn add_partner(hub: &TestHub, id: &str) {
    let document = format!(r#"{{"id": "{id}", "channel": "webhook", "url": "http://127.0.0.1:9/{id}"}}"#);
    assert_eq!(hub.ask("POST", "/v1/partners", &document).await.status, 201);
}

#[tokio::test]
async fn a_session_is_a_random_id_in_a_cookie_that_only_this_host_gets() {
    let hub = TestHub::start().await;
    let body = format!("token={}", hub.admin);
    let reply = hub.ask_as("", "POST", "/dashboard/sign-in", &[FORM], body.as_bytes()).await;
    let cookie = reply.header("set-cookie").unwrap();
    let (value, attributes) = cookie.strip_prefix("hms_session=").unwrap().split_once(';').unwrap();
    assert!(value.len() == 64 && value.bytes().all(|byte| byte.is_ascii_hexdigit()) && !hub.admin.contains(value));
    assert!(attributes.contains("HttpOnly") && attributes.contains("SameSite=Strict"), "{attributes}");
    let other = hub.ask_as("", "POST", "/dashboard/sign-in", &[FORM], body.as_bytes()).await;
    assert_ne!(other.header("set-cookie").unwrap(), cookie);
    hub.finish().await;
}

#[tokio::test]
async fn who_is_not_signed_in_is_led_to_the_sign_in_and_back() {
    let hub = TestHub::start().await;
    let reply = hub.ask_as("", "GET", "/dashboard/ledger?before=5", &[], b"").await;
    assert_eq!(
        (reply.status, reply.header("location")),
        (303, Some("/dashboard/sign-in?next=%2Fdashboard%2Fledger%3Fbefore%3D5"))
    );
    let script = hub.ask_as("", "GET", "/dashboard", &["x-hms-part: live"], b"").await;
    assert_eq!(script.status, 401, "the script reloads the page");
    let body = format!("token={}&next=%2Fdashboard%2Fledger", hub.admin);
    let reply = hub.ask_as("", "POST", "/dashboard/sign-in", &[FORM], body.as_bytes()).await;
    assert_eq!(reply.header("location"), Some("/dashboard/ledger"));
    let body = format!("token={}&next=https%3A%2F%2Fevil.example%2F", hub.admin);
    let reply = hub.ask_as("", "POST", "/dashboard/sign-in", &[FORM], body.as_bytes()).await;
    assert_eq!(reply.header("location"), Some("/dashboard"));
    hub.finish().await;
}

#[tokio::test]
async fn wrong_tokens_are_refused_and_too_many_are_told_to_wait() {
    let hub = TestHub::start().await;
    let mut statuses = std::collections::BTreeSet::new();
    for _ in 0..130 {
        statuses.insert(hub.ask_as("", "POST", "/dashboard/sign-in", &[FORM], b"token=hms_admin_no").await.status);
    }
    assert_eq!(statuses.into_iter().collect::<Vec<_>>(), [401, 429]);
    hub.finish().await;
}

#[tokio::test]
async fn a_session_ends_with_its_token_and_at_the_sign_out() {
    let hub = TestHub::start().await;
    let token = hub.token(r#"{"role": "auditor"}"#).await;
    let browser = Browser::sign_in(&hub, &token).await;
    assert_eq!(browser.get("/dashboard/audit").await.status, 200);
    let tokens = hub.get("/v1/tokens").await.json();
    let own = tokens["items"].as_array().unwrap().iter().find(|token| token["role"] == "auditor").unwrap();
    let id = own["id"].as_str().unwrap();
    assert_eq!(hub.ask("DELETE", &format!("/v1/tokens/{id}"), "").await.status, 204);
    assert_eq!(browser.get("/dashboard/audit").await.status, 303);
    let browser = Browser::sign_in(&hub, &hub.admin).await;
    let reply = browser.post("/dashboard/sign-out", "").await;
    assert!(reply.header("set-cookie").unwrap().contains("Max-Age=0"));
    assert_eq!(browser.get("/dashboard/audit").await.status, 303);
    hub.finish().await;
}

#[tokio::test]
async fn a_hub_that_has_its_store_for_itself_leads_to_no_page_of_hubs() {
    let hub = TestHub::start().await;
    let browser = Browser::sign_in(&hub, &hub.admin).await;
    assert!(!browser.get("/dashboard").await.text().contains("/dashboard/nodes"));
    let page = browser.get("/dashboard/nodes").await;
    assert!(page.status == 200 && page.text().contains("has its store for itself"), "{}", page.text());
    hub.finish().await;
}

#[tokio::test]
async fn an_act_needs_the_sessions_own_token_a_page_of_ours_and_a_reason() {
    let hub = TestHub::start().await;
    add_partner(&hub, "COURT-CAL").await;
    let browser = Browser::sign_in(&hub, &hub.admin).await;
    let other = Browser::sign_in(&hub, &hub.admin).await;
    let pause = "/dashboard/partners/COURT-CAL/pause";
    let own = format!("csrf={}&reason=why", browser.csrf);
    let foreign = format!("csrf={}&reason=why", other.csrf);
    for (body, header, status) in [
        ("reason=why", "x-none: 1", 403),
        ("csrf=&reason=why", "x-none: 1", 403),
        (&*foreign, "x-none: 1", 403),
        (&*own, "origin: https://evil.example", 403),
        (&*own, "origin: null", 403),
        (&*own, "sec-fetch-site: cross-site", 403),
        (&*own.replace("why", "+"), "x-none: 1", 422),
    ] {
        let reply = browser.post_as(pause, body, &[header]).await;
        assert_eq!(reply.status, status, "{body} {header}: {}", reply.text());
        assert_eq!(hub.get("/v1/partners/COURT-CAL").await.json()["paused_since"], serde_json::Value::Null);
    }
    let cookie = format!("cookie: {}", browser.cookie);
    let json = hub.ask_as("", "POST", pause, &[&cookie], own.as_bytes()).await;
    assert_eq!(json.status, 415, "a script's request is no form");
    let reply = browser.post_as(pause, &own, &["origin: http://hub", "sec-fetch-site: same-origin"]).await;
    assert_eq!((reply.status, reply.header("location")), (303, Some("/dashboard/partners/COURT-CAL")));
    assert!(hub.get("/v1/partners/COURT-CAL").await.json()["paused_since"].is_string());
    hub.finish().await;
}

/// What each role gets of each page: shown, refused, or led to its own beginning.
#[tokio::test]
async fn roles_see_the_pages_that_the_api_lets_them_read() {
    let hub = TestHub::start().await;
    add_partner(&hub, "COURT-CAL").await;
    add_partner(&hub, "OTHER").await;
    hub.ask("POST", "/v1/events", &event("RULE-A-V1")).await;
    let pages = [
        "/dashboard/events",
        "/dashboard/events/RULE-A-V1",
        "/dashboard/partners",
        "/dashboard/partners/COURT-CAL",
        "/dashboard/partners/OTHER",
        "/dashboard/partners/OTHER/sent?number=1",
        "/dashboard/bridges",
        "/dashboard/dead-letters",
        "/dashboard/ledger",
        "/dashboard/audit",
        "/dashboard/escalations",
        "/dashboard/holds",
        "/dashboard/events/RULE-A-V1/packet",
        "/dashboard/events?text=16:00",
        "/dashboard",
        "/dashboard/nodes",
    ];
    let (all, events) = ([200; 16], [200, 200]);
    let of_publisher = |[log, one]: [u16; 2]| {
        let mut wanted = [403; 16];
        (wanted[0], wanted[1], wanted[13], wanted[14]) = (log, one, log, 303);
        wanted
    };
    let mut of_partner = [403; 16];
    (of_partner[3], of_partner[14]) = (200, 303);
    for (document, wanted) in [
        (r#"{"role": "auditor"}"#, all),
        (r#"{"role": "operator"}"#, all),
        (r#"{"role": "publisher"}"#, of_publisher(events)),
        (r#"{"role": "publisher", "subjects": ["TAX-*"]}"#, of_publisher([200, 403])),
        (r#"{"role": "partner", "partner": "COURT-CAL"}"#, of_partner),
    ] {
        let token = hub.token(document).await;
        let browser = Browser::sign_in(&hub, &token).await;
        for (page, wanted) in pages.iter().zip(wanted) {
            let reply = browser.get(page).await;
            assert_eq!(reply.status, wanted, "{document} {page}");
            if wanted == 403 {
                assert!(!reply.text().contains("127.0.0.1:9/"), "{document} {page} says too much");
            }
        }
        let log = browser.get("/dashboard/events").await.text();
        assert_eq!(
            log.contains("RULE-A-V1"),
            !document.contains("TAX") && !document.contains("partner\""),
            "{document}"
        );
    }
    hub.finish().await;
}

#[tokio::test]
async fn roles_do_only_what_the_api_lets_them_do() {
    let hub = TestHub::start().await;
    for id in ["COURT-CAL", "OTHER"] {
        add_partner(&hub, id).await;
    }
    hub.ask("POST", "/v1/events", &event("RULE-A-V1")).await;
    let acts = [
        ("/dashboard/partners/OTHER/pause", "reason=x"),
        ("/dashboard/partners/OTHER/resume", "reason=x"),
        ("/dashboard/partners/OTHER/test", ""),
        ("/dashboard/partners/OTHER/rotate-secret", "reason=x"),
        ("/dashboard/partners/OTHER/redrive", "reason=x"),
        ("/dashboard/partners/OTHER/resend", "reason=x&event=RULE-A-V1"),
        ("/dashboard/partners/COURT-CAL/pause", "reason=x"),
        ("/dashboard/events/RULE-A-V1/replay", "reason=x&to=OTHER"),
        ("/dashboard/dead-letters/redrive", "reason=x&all=1"),
        ("/dashboard/dead-letters/discard", "reason=x&all=1"),
        ("/dashboard/bridges/try", "subject=A&from=1&to=1&payload=1"),
        ("/dashboard/escalations/test", "target=duty-room"),
        ("/dashboard/holds/place", "reason=x&event=RULE-A-V1"),
        ("/dashboard/holds/lift", "reason=x&number=1"),
    ];
    for document in [
        r#"{"role": "auditor"}"#,
        r#"{"role": "publisher", "subjects": ["TAX-*"]}"#,
        r#"{"role": "partner", "partner": "COURT-CAL"}"#,
    ] {
        let browser = Browser::sign_in(&hub, &hub.token(document).await).await;
        for (path, fields) in acts {
            assert_eq!(browser.post(path, fields).await.status, 403, "{document} {path}");
        }
        let retract = browser.post("/dashboard/events/RULE-A-V1/retract", "reason=x&sure=1").await;
        assert_eq!(retract.status, 403, "{document}");
        let verify = browser.post("/dashboard/ledger/verify", "").await;
        assert_eq!(verify.status, if document.contains("auditor") { 303 } else { 403 }, "{document}");
    }
    hub.finish().await;
}

#[tokio::test]
async fn a_partner_tends_itself_and_never_gets_what_was_not_for_it() {
    let hub = TestHub::start().await;
    let document =
        r#"{"id": "COURT-CAL", "channel": "webhook", "url": "http://127.0.0.1:9/", "subscribe": ["RULE-*"]}"#;
    assert_eq!(hub.ask("POST", "/v1/partners", document).await.status, 201);
    add_partner(&hub, "OTHER").await;
    hub.ask("POST", "/v1/events", &event("RULE-A-V1")).await;
    hub.ask("POST", "/v1/events", &event("TAX-V1")).await;
    let token = hub.token(r#"{"role": "partner", "partner": "COURT-CAL"}"#).await;
    let browser = Browser::sign_in(&hub, &token).await;
    let page = "/dashboard/partners/COURT-CAL";
    for (act, fields, status) in [
        ("resend", "reason=x&event=RULE-A-V1", 303),
        ("resend", "reason=x&event=TAX-V1", 404),
        ("resend", "reason=x&event=NO-SUCH-V1", 404),
        ("redrive", "reason=x", 303),
        ("rotate-secret", "reason=x&overlap=1h", 303),
        ("rotate-secret", "reason=x&overlap=31d", 422),
    ] {
        assert_eq!(browser.post(&format!("{page}/{act}"), fields).await.status, status, "{act} {fields}");
    }
    let secret = browser.get(page).await.text();
    assert!(secret.contains("whsec_"), "the last notice but one is told");
    assert!(!browser.get(page).await.text().contains("whsec_"), "once");
    // The same over the API.
    let ask = async |path: &str, body: &str| hub.ask_as(&token, "POST", path, &[], body.as_bytes()).await.status;
    assert_eq!(ask("/v1/events/RULE-A-V1/replay", r#"{"to": ["COURT-CAL"]}"#).await, 202);
    assert_eq!(ask("/v1/events/RULE-A-V1/replay", r#"{"to": ["COURT-CAL"], "force": true}"#).await, 403);
    assert_eq!(ask("/v1/events/RULE-A-V1/replay", r#"{"to": ["OTHER"]}"#).await, 403);
    assert_eq!(ask("/v1/events/RULE-A-V1/replay", r#"{"to": ["COURT-CAL", "OTHER"]}"#).await, 403);
    assert_eq!(ask("/v1/events/RULE-A-V1/replay", "{}").await, 403);
    assert_eq!(ask("/v1/events/TAX-V1/replay", r#"{"to": ["COURT-CAL"]}"#).await, 404);
    assert_eq!(ask("/v1/dead-letters/redrive", r#"{"partner": "COURT-CAL"}"#).await, 200);
    assert_eq!(ask("/v1/dead-letters/redrive", r#"{"partner": "OTHER"}"#).await, 403);
    assert_eq!(ask("/v1/dead-letters/redrive", "{}").await, 403);
    hub.finish().await;
}

#[tokio::test]
async fn hostile_texts_stay_texts_on_every_page() {
    let hub = TestHub::start().await;
    let markup = r#"<script>alert(1)</script>"><img src=x onerror=alert(1)>"#;
    add_partner(&hub, "COURT-CAL").await;
    let hostile = serde_json::json!({"id": "RULE-A-V1", "version": 1, "source": markup, "payload": {"a": markup}, "subject": "RULE-A"});
    assert_eq!(hub.ask("POST", "/v1/events", &hostile.to_string()).await.status, 202);
    let bridge = serde_json::json!({"subject": "RULE-A", "from": 1, "to": 2, "script": format!("'{}'", markup.replace('\'', "")),
        "examples": [{"input": {"x": markup}, "output": markup}]});
    assert_eq!(hub.ask("POST", "/v1/bridges", &bridge.to_string()).await.status, 201);
    let browser = Browser::sign_in(&hub, &hub.admin).await;
    let encoded = "%3Cscript%3Ealert(1)%3C%2Fscript%3E%22%3E%3Cimg+src%3Dx+onerror%3Dalert(1)%3E";
    browser.post("/dashboard/partners/COURT-CAL/pause", &format!("reason={encoded}")).await;
    browser.post("/dashboard/holds/place", &format!("event=RULE-A-V1&reason={encoded}")).await;
    let mut told = 0;
    for path in [
        "/dashboard".to_owned(),
        "/dashboard/events/RULE-A-V1".to_owned(),
        "/dashboard/bridges".to_owned(),
        "/dashboard/audit".to_owned(),
        format!("/dashboard/events?id={encoded}&subject={encoded}"),
        format!("/dashboard/partners?text={encoded}&state={encoded}"),
        format!("/dashboard/events/RULE-A-V1?partner={encoded}"),
        "/dashboard/holds".to_owned(),
        "/dashboard/escalations".to_owned(),
        format!("/dashboard/events?text={encoded}"),
        format!("/dashboard/bridges?text={encoded}"),
        format!("/dashboard/dead-letters?partner={encoded}"),
        format!("/dashboard/{encoded}"),
        format!("/dashboard/sign-in?next={encoded}"),
    ] {
        let text = browser.get(&path).await.text();
        assert!(!text.contains("<script>alert") && !text.contains("<img"), "{path}");
        told += usize::from(text.contains("&#60;script&#62;alert") || text.contains("&lt;script&gt;alert"));
    }
    let tried = browser
        .post("/dashboard/bridges/try", &format!("subject=A&from=1&to=1&script={encoded}&payload={encoded}"))
        .await;
    assert!(!tried.text().contains("<script>alert") && tried.text().contains("script&#62;alert"));
    assert!(told >= 9, "only {told} pages showed the texts at all");
    hub.finish().await;
}

#[tokio::test]
async fn every_page_forbids_inline_code_framing_and_keeping() {
    let hub = TestHub::start().await;
    let browser = Browser::sign_in(&hub, &hub.admin).await;
    for path in ["/dashboard", "/dashboard/audit", "/dashboard/nothing", "/dashboard/events/NO-SUCH-V1"] {
        let reply = browser.get(path).await;
        let policy = reply.header("content-security-policy").unwrap();
        for part in [
            "default-src 'none'",
            "script-src 'self'",
            "form-action 'self'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
        ] {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"));
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        assert_eq!(reply.header("referrer-policy"), Some("same-origin"));
        let text = reply.text();
        assert!(!text.contains(" style=") && !text.contains(" onclick") && !text.contains("<style"), "{path}");
        assert_eq!(
            text.matches("<script").count(),
            text.matches("<script src=\"/dashboard/script.js\" defer>").count()
        );
    }
    let missing = browser.get("/dashboard/nothing").await;
    assert_eq!((missing.status, missing.header("content-type")), (404, Some("text/html; charset=utf-8")));
    hub.finish().await;
}

#[tokio::test]
async fn the_script_gets_the_part_that_changes_and_a_word_at_each_change() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let hub = TestHub::start().await;
    let browser = Browser::sign_in(&hub, &hub.admin).await;
    let cookie = format!("cookie: {}", browser.cookie);
    let part = hub.ask_as("", "GET", "/dashboard", &[&cookie, "x-hms-part: live"], b"").await.text();
    assert!(part.contains("No partners yet") && !part.contains("<html") && !part.contains("csrf"));
    let mut line = hub.dial().await;
    let head = format!("GET /dashboard/live HTTP/1.1\r\nhost: hub\r\n{cookie}\r\n\r\n");
    line.write_all(head.as_bytes()).await.unwrap();
    let mut heard = String::new();
    let mut until = async |word: &str| {
        let mut piece = [0u8; 4096];
        while !heard.contains(word) {
            let read = tokio::time::timeout(PATIENCE, line.read(&mut piece)).await.expect("a word in time").unwrap();
            assert!(read > 0, "the stream ended: {heard}");
            heard.push_str(&String::from_utf8_lossy(&piece[..read]));
        }
        heard.clear();
    };
    until("connected").await;
    hub.ask("POST", "/v1/events", &event("RULE-A-V1")).await;
    until("event: change").await;
    // A sign-out ends the stream as well.
    browser.post("/dashboard/sign-out", "").await;
    hub.ask("POST", "/v1/events", &event("RULE-A-V2")).await;
    until("0\r\n\r\n").await;
    hub.finish().await;
}
