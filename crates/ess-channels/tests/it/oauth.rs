//! Logging in with OAuth 2.0 client credentials.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ess_channels::{Channel, Credential};
use ess_core::receipt::{Failure, Stage};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::partner::{Partner, answered, channel, failed, message, read_request, soon};

/// A server of tokens `t0`, `t1`, …; the requests are kept.
async fn tokens(extra: &'static str) -> (Partner, Arc<Mutex<Vec<String>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&seen);
    let partner = Partner::start(move |mut stream, number| {
        let kept = Arc::clone(&kept);
        async move {
            let request = read_request(&mut stream).await.unwrap();
            let body = String::from_utf8(request.body).unwrap();
            kept.lock().unwrap().push(format!("{}\n\n{body}", request.head));
            let json = format!("{{\"access_token\":\"t{number}\",\"token_type\":\"Bearer\"{extra}}}");
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{json}", json.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await;
    (partner, seen)
}

/// A partner that takes one token only; counts the requests.
async fn taking(token: &'static str) -> (Partner, Arc<AtomicUsize>) {
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    let partner = Partner::start(move |mut stream, _| {
        let counted = Arc::clone(&counted);
        async move {
            while let Some(request) = read_request(&mut stream).await {
                counted.fetch_add(1, Ordering::SeqCst);
                let is_taken = request.head.contains(&format!("authorization: Bearer {token}"));
                let status = if is_taken { "200 OK" } else { "401 Unauthorized" };
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    (partner, requests)
}

fn open(partner: &Partner, token_url: String) -> Channel {
    let credential = Credential::OAuth2 {
        token_url,
        client_id: "hub 1".to_owned(),
        client_secret: "s3cret:/".to_owned(),
        scope: Some("hooks write".to_owned()),
    };
    channel(&partner.url(), credential)
}

#[tokio::test]
async fn one_token_serves_many_messages() {
    let (server, seen) = tokens(",\"expires_in\":3600").await;
    let (partner, _) = taking("t0").await;
    let channel = Arc::new(open(&partner, server.url()));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let channel = Arc::clone(&channel);
        tasks.spawn(async move { answered(channel.send(&message(), soon()).await).status });
    }
    while let Some(status) = tasks.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    assert_eq!(server.connections(), 1, "one attempt fetches for all");
    let request = seen.lock().unwrap()[0].clone();
    // base64 of `hub+1:s3cret%3A%2F`
    assert!(request.contains("authorization: Basic aHViKzE6czNjcmV0JTNBJTJG\r\n"), "{request}");
    assert!(request.ends_with("\n\ngrant_type=client_credentials&scope=hooks+write"), "{request}");
}

#[tokio::test]
async fn a_token_that_is_not_taken_is_renewed_once_within_the_attempt() {
    let (server, _) = tokens(",\"expires_in\":3600").await;
    let (partner, requests) = taking("t1").await;
    let channel = open(&partner, server.url());
    assert_eq!(answered(channel.send(&message(), soon()).await).status, 200);
    assert_eq!((server.connections(), requests.load(Ordering::SeqCst)), (2, 2));
    assert_eq!(answered(channel.send(&message(), soon()).await).status, 200);
    assert_eq!((server.connections(), requests.load(Ordering::SeqCst)), (2, 3));
}

#[tokio::test]
async fn a_partner_that_takes_no_token_gets_two_requests_and_no_more() {
    let (server, _) = tokens("").await;
    let (partner, requests) = taking("none").await;
    let channel = open(&partner, server.url());
    assert_eq!(answered(channel.send(&message(), soon()).await).status, 401);
    assert_eq!((server.connections(), requests.load(Ordering::SeqCst)), (2, 2));
}

#[tokio::test]
async fn a_token_that_has_expired_is_renewed_first() {
    let (server, _) = tokens(",\"expires_in\":0").await;
    let (partner, _) = taking("t").await;
    let channel = open(&partner, server.url());
    for number in 1..=3 {
        assert_eq!(answered(channel.send(&message(), soon()).await).status, 200);
        assert_eq!(server.connections(), number);
    }
}

#[tokio::test]
async fn without_a_token_nothing_is_sent_and_the_reason_holds_no_secret() {
    for (status, body, reason) in [
        ("400 Bad Request", r#"{"error":"invalid_client"}"#, "the token url answered 400 (invalid_client)"),
        ("401 Unauthorized", r#"{"error":"bad s3cret:/ here"}"#, "the token url answered 401"),
        ("302 Found", "", "the token url answered 302"),
        ("200 OK", "no", "the token url's answer is not json"),
        ("200 OK", "{}", "the token url's answer holds no access_token"),
        ("200 OK", r#"{"access_token":"x","token_type":"mac"}"#, "the token is not a bearer token"),
        ("200 OK", r#"{"access_token":"x\r\ny: z"}"#, "the token holds a control character"),
    ] {
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let server = Partner::answering(&answer).await;
        let (partner, _) = taking("x").await;
        let channel = open(&partner, server.url());
        let expected = Failure { stage: Stage::Auth, reason: format!("could not get a token: {reason}") };
        assert_eq!(failed(channel.send(&message(), soon()).await), expected);
        assert_eq!(partner.connections(), 0);
    }
}

#[tokio::test]
async fn the_token_url_is_under_the_same_guard() {
    let (partner, _) = taking("x").await;
    let failure = failed(open(&partner, "https://10.0.0.1/token".to_owned()).send(&message(), soon()).await);
    assert_eq!(failure.stage, Stage::Auth);
    assert!(failure.reason.contains("10.0.0.1 is a private address"), "{failure:?}");
}

#[tokio::test]
async fn a_token_url_that_says_nothing_ends_with_the_deadline_for_all_who_wait() {
    let server = Partner::start(async |mut stream, _| {
        read_request(&mut stream).await;
        read_request(&mut stream).await;
    })
    .await;
    let (partner, _) = taking("x").await;
    let channel = open(&partner, server.url());
    let deadline = Instant::now() + Duration::from_millis(200);
    let message = message();
    let (one, two) = tokio::join!(channel.send(&message, deadline), channel.send(&message, deadline));
    for receipt in [one, two] {
        let failure = failed(receipt);
        assert_eq!(failure.stage, Stage::Auth);
        assert!(failure.reason.ends_with("while logging in"), "{failure:?}");
    }
}

#[test]
fn a_login_does_not_show_itself() {
    let credential = Credential::OAuth2 {
        token_url: "https://t/".to_owned(),
        client_id: "id".to_owned(),
        client_secret: "s3cret".to_owned(),
        scope: None,
    };
    for credential in [credential, Credential::Bearer("s3cret".to_owned())] {
        assert!(!format!("{credential:?}").contains("s3cret"));
    }
}
