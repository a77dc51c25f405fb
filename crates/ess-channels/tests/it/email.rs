//! Mails and objects to servers that hang or hang up at each step of their protocol.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ess_channels::{Channel, Credential};
use ess_core::id::EventId;
use ess_core::message::Message;
use ess_core::receipt::{Receipt, Stage};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::conformance::{Described, conforms};
use crate::link::Link;
use crate::partner::{dialer, document, failed, message, soon};
use crate::python::PythonServer;

/// What a mail server says from its greeting to the mail's 250; after DATA it waits for the final dot.
const SAYS: [&str; 6] =
    ["220 mail\r\n", "250 mail\r\n", "250 sender\r\n", "250 recipient\r\n", "354 go on\r\n", "250 taken\r\n"];

/// Serves one caller: the first `steps` replies, then silence, or the end of the connection.
async fn serve(listener: TcpListener, steps: usize, is_closing: bool) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut got = Vec::new();
    for (step, says) in SAYS.iter().take(steps).enumerate() {
        let end: &[u8] = if step == 5 { b"\r\n.\r\n" } else { b"\r\n" };
        while step > 0 && !got.ends_with(end) {
            if stream.read_buf(&mut got).await.unwrap_or(0) == 0 {
                return;
            }
        }
        got.clear();
        stream.write_all(says.as_bytes()).await.unwrap();
    }
    if !is_closing {
        // Until the caller has had enough.
        while stream.read_buf(&mut got).await.unwrap_or(0) > 0 {}
    }
}

async fn attempt(steps: usize, is_closing: bool, deadline: Instant) -> Receipt {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("smtp://{}?to=clerk@court.example", listener.local_addr().unwrap());
    let partner = document("email", &url, serde_json::json!({"tls": "none"}));
    let channel = Channel::open(&partner, &url, Credential::None, &dialer(&["127.0.0.0/8"], Vec::new())).unwrap();
    let serving = tokio::spawn(serve(listener, steps, is_closing));
    let receipt = channel.send(&message(), deadline).await;
    serving.await.unwrap();
    receipt
}

/// What came as a mail's attachment; a partner takes an event once.
fn attached(server: &PythonServer) -> Vec<(String, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for words in server.taken() {
        found.insert(words[0].clone(), STANDARD.decode(&words[1]).unwrap());
    }
    found.into_iter().collect()
}

#[tokio::test]
async fn email_does_what_every_channel_does() {
    conforms(async || {
        let server = Rc::new(PythonServer::start("mail.py"));
        let link = Link::to(server.address).await;
        let url = format!("smtp://{}?to=clerk@court.example", link.address);
        let partner = document("email", &url, serde_json::json!({"tls": "none"}));
        let channel = Channel::open(&partner, &url, Credential::None, &dialer(&["127.0.0.0/8"], Vec::new())).unwrap();
        let looked_at = Rc::clone(&server);
        Described {
            channel: Arc::new(channel),
            link: Some(link),
            delivered: Box::new(move || attached(&looked_at)),
            shape: |message| message,
            refuse: Some(Box::new(|message| Message { event_id: EventId::trusted("REFUSED"), ..message })),
            // Mails are few, and servers like a connection for each.
            connections: 3,
            under_way: &[0, 30],
            _server: Box::new(server),
        }
    })
    .await;
}

#[tokio::test]
async fn a_mail_server_that_hangs_at_a_step_costs_the_attempt_its_time() {
    for steps in 0..SAYS.len() {
        let failure = failed(attempt(steps, false, Instant::now() + Duration::from_millis(500)).await);
        assert!(failure.reason.contains("timed out"), "after {steps} replies: {failure:?}");
    }
    assert!(matches!(attempt(SAYS.len(), false, soon()).await, Receipt::Confirmed));
}

#[tokio::test]
async fn a_mail_server_that_hangs_up_at_a_step_is_a_failure_and_after_its_yes_it_is_none() {
    for steps in 0..SAYS.len() {
        let failure = failed(attempt(steps, true, soon()).await);
        assert!(failure.reason.contains("connection"), "after {steps} replies: {failure:?}");
    }
    assert!(matches!(attempt(SAYS.len(), true, soon()).await, Receipt::Confirmed));
}

#[tokio::test]
async fn a_store_that_hangs_or_hangs_up_is_a_failure_and_no_mail_or_object_counts_without_a_yes() {
    for (says, is_closing, word) in [
        ("", false, "timed out"),
        ("HTTP/1.1 200 OK\r\n", false, "timed out"),
        ("", true, "connection closed"),
        (
            "HTTP/1.1 403 Forbidden\r\ncontent-length: 41\r\n\r\n<Code>AccessDenied</Code><Message>x</Mess",
            true,
            "AccessDenied",
        ),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let auth = serde_json::json!({"user": "id", "password": "secret"});
        let partner = document("s3", "s3://bucket/x", serde_json::json!({"endpoint": endpoint, "auth": auth}));
        let credential = Credential::Password { user: Some("id".to_owned()), password: "secret".to_owned() };
        let channel =
            Channel::open(&partner, "s3://bucket/x", credential, &dialer(&["127.0.0.0/8"], Vec::new())).unwrap();
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut got = Vec::new();
            while !got.ends_with(&message().body) {
                assert!(stream.read_buf(&mut got).await.unwrap() > 0);
            }
            stream.write_all(says.as_bytes()).await.unwrap();
            while !is_closing && stream.read_buf(&mut got).await.unwrap_or(0) > 0 {}
            String::from_utf8_lossy(&got).into_owned()
        });
        let deadline = if is_closing { soon() } else { Instant::now() + Duration::from_millis(500) };
        let failure = failed(channel.send(&message(), deadline).await);
        assert!(failure.reason.contains(word) && failure.stage >= Stage::Send, "{says:?}: {failure:?}");
        let request = serving.await.unwrap();
        assert!(request.starts_with("PUT /bucket/x/RULE-1-V3.v3.json HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("\r\nif-none-match: *\r\n") && !request.contains("secret"), "{request}");
    }
}
