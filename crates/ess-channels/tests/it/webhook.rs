//! The webhook channel with partners that behave.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use ess_channels::Credential;
use ess_core::id::EventId;
use ess_core::message::Message;
use ess_core::receipt::{Failure, Receipt, Stage};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::conformance::{Described, conforms};
use crate::link::Link;
use crate::partner::{Partner, answered, channel, failed, message, read_request, soon};

/// A message of the suite with the header that tells a receiver what it is; here, what a drop of it would be called.
fn named(message: Message) -> Message {
    Message { headers: vec![("webhook-id".to_owned(), message.file_name())], ..message }
}

#[tokio::test]
async fn webhook_does_what_every_channel_does() {
    conforms(async || {
        // A receiver that takes an id once, as the signatures' standard asks.
        let taken = Arc::<Mutex<BTreeMap<String, Vec<u8>>>>::default();
        let noted = Arc::clone(&taken);
        let partner = Partner::start(move |mut stream, _| {
            let noted = Arc::clone(&noted);
            async move {
                while let Some(request) = read_request(&mut stream).await {
                    let id = request.head.lines().find_map(|line| line.strip_prefix("webhook-id: ")).unwrap();
                    let is_refused = id.contains("REFUSED");
                    if !is_refused {
                        noted.lock().unwrap().insert(id.to_owned(), request.body);
                    }
                    let status = if is_refused { "422 Unprocessable Content" } else { "200 OK" };
                    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\n{{}}");
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await;
        let link = Link::to(partner.address).await;
        let channel = channel(&format!("http://{}/hook", link.address), Credential::None);
        Described {
            channel: Arc::new(channel),
            link: Some(link),
            delivered: Box::new(move || taken.lock().unwrap().clone().into_iter().collect()),
            shape: named,
            refuse: Some(Box::new(|message| named(Message { event_id: EventId::trusted("REFUSED"), ..message }))),
            connections: 1,
            under_way: &[0, 10],
            _server: Box::new(partner),
        }
    })
    .await;
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let partner = Partner::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let channel = channel(&partner.url(), Credential::None);
    for _ in 0..10 {
        let answer = answered(channel.send(&message(), soon()).await);
        assert_eq!((answer.status, &answer.body[..]), (200, &b"ok"[..]));
    }
    assert_eq!(partner.connections(), 1);
}

#[tokio::test]
async fn sixteen_at_once_use_sixteen_connections_and_use_them_again() {
    let partner = Partner::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let channel = Arc::new(channel(&partner.url(), Credential::None));
    for _ in 0..3 {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let channel = Arc::clone(&channel);
            tasks.spawn(async move { answered(channel.send(&message(), soon()).await) });
        }
        while let Some(answer) = tasks.join_next().await {
            assert_eq!(answer.unwrap().status, 200);
        }
    }
    assert!(partner.connections() <= 16, "{}", partner.connections());
}

#[tokio::test]
async fn the_request_is_what_the_message_says() {
    let seen = Arc::new(Mutex::new(None));
    let kept = Arc::clone(&seen);
    let partner = Partner::start(move |mut stream, _| {
        let kept = Arc::clone(&kept);
        async move {
            *kept.lock().unwrap() = read_request(&mut stream).await;
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        }
    })
    .await;
    let channel = channel(&partner.url(), Credential::Bearer("t0ken".to_owned()));
    let mut message = message();
    for (name, value) in [("x-agency", "AOC"), ("host", "elsewhere"), ("content-length", "1"), ("connection", "close")]
    {
        message.headers.push((name.to_owned(), value.to_owned()));
    }
    let answer = answered(channel.send(&message, soon()).await);
    assert_eq!((answer.status, answer.body.len()), (204, 0));
    let request = seen.lock().unwrap().take().unwrap();
    let mut lines: Vec<String> =
        request.head.lines().map(|line| line.replace(&partner.address.to_string(), "HOST")).collect();
    lines.sort();
    assert_eq!(
        lines,
        [
            "POST /hook HTTP/1.1",
            "accept-encoding: identity",
            "authorization: Bearer t0ken",
            "content-length: 18",
            "content-type: application/json",
            "host: HOST",
            "user-agent: hms-ess/test",
            "webhook-id: msg_1",
            "x-agency: AOC",
        ]
    );
    assert_eq!(request.body, message.body);
}

#[tokio::test]
async fn a_login_by_password_is_sent() {
    let partner = Partner::echoing().await;
    let channel = channel(&partner.url(), Credential::Basic { user: "hub".to_owned(), password: "s3:cret".to_owned() });
    let answer = answered(channel.send(&message(), soon()).await);
    let head = String::from_utf8(answer.body.to_vec()).unwrap();
    assert!(head.contains("authorization: Basic aHViOnMzOmNyZXQ="), "{head}");
}

#[tokio::test]
async fn a_header_that_is_not_one_fails_the_attempt_without_a_connection() {
    let partner = Partner::echoing().await;
    let channel = channel(&partner.url(), Credential::None);
    let mut message = message();
    message.headers.push(("x-bad".to_owned(), "a\r\nx-injected: 1".to_owned()));
    let failure = failed(channel.send(&message, soon()).await);
    assert_eq!(failure.stage, Stage::Send);
    assert_eq!(failure.reason, "the header field \"x-bad\" is not valid");
    assert_eq!(partner.connections(), 0);
}

#[tokio::test]
async fn a_megabyte_arrives_whole() {
    let partner = Partner::start(async |mut stream, _| {
        let request = read_request(&mut stream).await.unwrap();
        let text = format!("{}", request.body.len());
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
    })
    .await;
    let mut message = message();
    message.body = Bytes::from(vec![b'x'; 1 << 20]);
    let answer = answered(channel(&partner.url(), Credential::None).send(&message, soon()).await);
    assert_eq!(&answer.body[..], b"1048576");
}

#[tokio::test]
async fn a_chunked_answer_is_put_together() {
    let partner = Partner::answering(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nx-trailer: 1\r\n\r\n",
    )
    .await;
    let channel = channel(&partner.url(), Credential::None);
    for _ in 0..3 {
        assert_eq!(&answered(channel.send(&message(), soon()).await).body[..], b"abcde");
    }
    assert_eq!(partner.connections(), 1);
}

#[tokio::test]
async fn an_answer_that_ends_with_the_connection_is_read_to_its_end() {
    let partner = Partner::start(async |mut stream, _| {
        read_request(&mut stream).await.unwrap();
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nold").await.unwrap();
    })
    .await;
    let channel = channel(&partner.url(), Credential::None);
    for number in 1..=3 {
        assert_eq!(&answered(channel.send(&message(), soon()).await).body[..], b"old");
        assert_eq!(partner.connections(), number);
    }
}

#[tokio::test]
async fn a_connection_that_is_said_to_close_is_not_used_again() {
    for head in ["HTTP/1.1 200 OK\r\nConnection: Close", "HTTP/1.1 200 OK\r\nconnection: x, close", "HTTP/1.0 200 OK"] {
        let partner = Partner::answering(&format!("{head}\r\ncontent-length: 2\r\n\r\nok")).await;
        let channel = channel(&partner.url(), Credential::None);
        for number in 1..=2 {
            assert_eq!(&answered(channel.send(&message(), soon()).await).body[..], b"ok");
            assert_eq!(partner.connections(), number, "{head}");
        }
    }
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let elsewhere = Partner::echoing().await;
    let partner = Partner::answering(&format!(
        "HTTP/1.1 307 Temporary Redirect\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n",
        elsewhere.url()
    ))
    .await;
    let answer = answered(channel(&partner.url(), Credential::None).send(&message(), soon()).await);
    assert_eq!(answer.status, 307);
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn retry_after_is_told_as_a_span() {
    let date = "date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    for (fields, expected) in [
        ("retry-after: 120", Some(120)),
        ("retry-after: 99999999999999999999999", Some(7 * 24 * 3600)),
        (&*format!("{date}retry-after: Sun, 06 Nov 1994 08:50:07 GMT"), Some(30)),
        (&*format!("{date}retry-after: Sun, 06 Nov 1994 08:00:00 GMT"), Some(0)),
        ("retry-after: Sun, 06 Nov 1994 08:50:07 GMT", Some(0)),
        ("retry-after: soon", None),
        ("retry-after: -1", None),
        ("retry-after:", None),
        ("x: y", None),
    ] {
        let text = format!("HTTP/1.1 503 Service Unavailable\r\n{fields}\r\ncontent-length: 0\r\n\r\n");
        let partner = Partner::answering(&text).await;
        let answer = answered(channel(&partner.url(), Credential::None).send(&message(), soon()).await);
        assert_eq!(answer.retry_after, expected.map(Duration::from_secs), "{fields}");
    }
}

#[tokio::test]
async fn nobody_listening_is_named() {
    let partner = Partner::echoing().await;
    let (url, address) = (partner.url(), partner.address);
    drop(partner);
    // The port is free as soon as the partner's task has ended.
    let channel = channel(&url, Credential::None);
    let failure = loop {
        match channel.send(&message(), soon()).await {
            Receipt::Failed(failure) if failure.reason.starts_with("connection refused") => break failure,
            _ => tokio::task::yield_now().await,
        }
    };
    assert_eq!(failure, Failure { stage: Stage::Connect, reason: format!("connection refused by {address}") });
}

#[tokio::test]
async fn a_deadline_that_has_passed_ends_the_attempt_at_once() {
    let partner = Partner::echoing().await;
    let channel = channel(&partner.url(), Credential::None);
    let began = Instant::now();
    failed(channel.send(&message(), began - Duration::from_secs(1)).await);
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn an_attempt_that_is_dropped_closes_its_connection() {
    let (closed, mut is_closed) = tokio::sync::mpsc::unbounded_channel();
    let partner = Partner::start(move |mut stream, _| {
        let closed = closed.clone();
        async move {
            read_request(&mut stream).await.unwrap();
            // Says nothing, and sees the end.
            assert!(read_request(&mut stream).await.is_none());
            closed.send(()).unwrap();
        }
    })
    .await;
    let channel = channel(&partner.url(), Credential::None);
    let failure = failed(channel.send(&message(), Instant::now() + Duration::from_millis(200)).await);
    assert_eq!(failure.stage, Stage::Await);
    assert_eq!(failure.reason, "timed out after 200ms while waiting for the answer");
    tokio::time::timeout(Duration::from_secs(10), is_closed.recv()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_sweep_keeps_what_is_open_and_closes_what_the_partner_closed() {
    let (close, mut is_to_close) = tokio::sync::watch::channel(false);
    let (closed, mut is_closed) = tokio::sync::mpsc::unbounded_channel();
    is_to_close.mark_unchanged();
    let partner = Partner::start(move |mut stream, _| {
        let (mut is_to_close, closed) = (is_to_close.clone(), closed.clone());
        async move {
            while read_request(&mut stream).await.is_some() {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                if is_to_close.borrow_and_update().to_owned() {
                    break;
                }
            }
            drop(stream);
            closed.send(()).unwrap();
        }
    })
    .await;
    let channel = channel(&partner.url(), Credential::None);
    answered(channel.send(&message(), soon()).await);
    channel.sweep();
    close.send(true).unwrap();
    answered(channel.send(&message(), soon()).await);
    assert_eq!(partner.connections(), 1, "a sweep keeps an open connection");
    is_closed.recv().await.unwrap();
    channel.sweep();
    answered(channel.send(&message(), soon()).await);
    assert_eq!(partner.connections(), 2);
}
