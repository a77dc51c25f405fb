//! The nats channel against nats-server with JetStream, and against servers that are not what they should be.

use ess_channels::{Channel, Credential};
use ess_core::id::{EventId, Subject};
use ess_core::message::Message;
use ess_core::receipt::{Failure, Receipt, Stage};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Duration, Instant};

use crate::conformance::{Described, conforms};
use crate::link::Link;
use crate::nats_server::NatsServer;
use crate::partner::{Partner, dialer, document, failed, message, soon};
use crate::tls::Authority;

fn login() -> Credential {
    Credential::Password { user: Some("hub".to_owned()), password: "s3cret pass".to_owned() }
}

fn channel(url: &str, credential: Credential) -> Channel {
    let root = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap().cert.pem().into_bytes();
    let partner = document("nats", url, json!({"limits": {"in_flight": 4}}));
    Channel::open(&partner, url, credential, &dialer(&["127.0.0.0/8"], vec![root])).unwrap()
}

fn numbered(number: u32) -> Message {
    let event_id = EventId::trusted(&format!("RULE-{number}-V3"));
    Message { id: format!("msg_{number}"), event_id, ..message() }
}

async fn server_with_stream() -> NatsServer {
    let server = NatsServer::start("").await;
    server.make_stream("RULES", json!({"subjects": ["rules.>"]}));
    server
}

#[track_caller]
fn confirmed(receipt: &Receipt) {
    assert!(matches!(receipt, Receipt::Confirmed), "{receipt:?}");
}

#[tokio::test]
async fn nats_conforms() {
    let describe = async || {
        let server = NatsServer::start("max_payload: 8MB").await;
        server.make_stream("RULES", json!({"subjects": ["rules.>"]}));
        let server = std::rc::Rc::new(server);
        let link = Link::to(server.address).await;
        let looked_at = std::rc::Rc::clone(&server);
        let delivered = move || {
            let stored = looked_at.stored("RULES");
            stored.into_iter().map(|stored| (file_name(stored.header("Nats-Msg-Id").unwrap()), stored.body)).collect()
        };
        let url = format!("nats://{}/rules.{{id}}", link.address);
        Described {
            channel: channel(&url, login()).into(),
            link: Some(link),
            delivered: Box::new(delivered),
            shape: |message| message,
            refuse: Some(Box::new(|message| Message { body: vec![b'x'; 9 << 20].into(), ..message })),
            connections: 1,
            under_way: &[0, 100],
            _server: Box::new(server),
        }
    };
    conforms(describe).await;
}

/// What a drop of the suite's message with this id would be called.
fn file_name(id: &str) -> String {
    let number = id.rsplit('_').next().unwrap();
    format!("{}RULE-{number}-V1.v1.json", if id.starts_with("test_") { "test_" } else { "" })
}

#[tokio::test]
async fn a_message_arrives_with_its_headers_under_its_subject() {
    let server = server_with_stream().await;
    let channel = channel(&format!("nats://{}/rules.{{subject}}.v{{version}}", server.address), login());
    let headers = vec![
        ("webhook-id".to_owned(), "msg_7".to_owned()),
        ("x-hms-test".to_owned(), "true".to_owned()),
        ("x-hms-partner-seq".to_owned(), "41".to_owned()),
    ];
    let sent = Message { headers, subject: Subject::trusted("HOME.12 a*>"), ..numbered(7) };
    confirmed(&channel.send(&sent, soon()).await);
    let stored = server.stored("RULES");
    assert_eq!(stored.len(), 1);
    assert_eq!(stored[0].subject, "rules.HOME%2E12%20a%2A%3E.v3");
    assert_eq!(stored[0].body, sent.body);
    for (name, value) in [
        ("Nats-Msg-Id", "msg_7"),
        ("content-type", "application/json"),
        ("webhook-id", "msg_7"),
        ("x-hms-test", "true"),
        ("x-hms-partner-seq", "41"),
    ] {
        assert_eq!(stored[0].header(name), Some(value), "{:?}", stored[0]);
    }
}

#[tokio::test]
async fn a_restart_of_the_server_loses_and_doubles_nothing() {
    let mut server = server_with_stream().await;
    let channel = channel(&format!("nats://{}/rules.{{subject}}", server.address), login());
    confirmed(&channel.send(&numbered(1), soon()).await);
    server.kill();
    let failure = failed(channel.send(&numbered(2), soon()).await);
    assert_eq!(failure.stage, Stage::Connect);
    server.start_again().await;
    for number in [2, 3, 2, 1] {
        confirmed(&channel.send(&numbered(number), soon()).await);
    }
    let ids: Vec<String> =
        server.stored("RULES").iter().map(|stored| stored.header("Nats-Msg-Id").unwrap().to_owned()).collect();
    assert_eq!(ids, ["msg_1", "msg_2", "msg_3"]);
}

#[tokio::test]
async fn a_message_that_no_stream_takes_is_not_lost_but_tried_again() {
    let server = NatsServer::start("").await;
    let channel = channel(&format!("nats://{}/rules.{{subject}}", server.address), login());
    let failure = failed(channel.send(&message(), soon()).await);
    assert!(failure.reason.contains("no stream takes the subject rules.RULE-1"), "{}", failure.reason);
    server.make_stream("RULES", json!({"subjects": ["rules.>"]}));
    confirmed(&channel.send(&message(), soon()).await);
}

#[tokio::test]
async fn what_a_stream_cannot_take_is_told_from_what_it_cannot_take_now() {
    let server = NatsServer::start("max_payload: 4096").await;
    server.make_stream("FULL", json!({"subjects": ["full"], "max_msgs": 1, "discard": "new"}));
    server.make_stream("SMALL", json!({"subjects": ["small"], "max_msg_size": 200}));
    let to = |subject: &str| channel(&format!("nats://{}/{subject}", server.address), login());
    let full = to("full");
    confirmed(&full.send(&numbered(1), soon()).await);
    let failure = failed(full.send(&numbered(2), soon()).await);
    assert!(failure.reason.contains("maximum messages exceeded"), "{}", failure.reason);
    for (subject, bytes, words) in [("small", 300, "message size exceeds"), ("full", 5000, "the server takes 4096")] {
        let long = Message { body: vec![b'x'; bytes].into(), ..numbered(3) };
        let Receipt::Refused { reason } = to(subject).send(&long, soon()).await else { panic!("not refused") };
        assert!(reason.contains(words), "{reason}");
    }
    let failure = failed(to("secret.x").send(&message(), soon()).await);
    assert!(failure.reason.contains("Permissions Violation"), "{}", failure.reason);
}

#[tokio::test]
async fn a_wrong_password_is_a_failure_of_the_login_and_not_in_its_words() {
    let server = server_with_stream().await;
    let wrong = Credential::Password { user: Some("hub".to_owned()), password: "hunter2".to_owned() };
    let Failure { stage, reason } =
        failed(channel(&format!("nats://{}/rules.x", server.address), wrong).send(&message(), soon()).await);
    assert_eq!(stage, Stage::Auth);
    assert!(reason.contains("Authorization Violation") && !reason.contains("hunter2"), "{reason}");
    let deaf = Credential::Password { user: Some("deaf".to_owned()), password: "deaf".to_owned() };
    let failure = failed(channel(&format!("nats://{}/rules.x", server.address), deaf).send(&message(), soon()).await);
    assert!(failure.stage == Stage::Auth && failure.reason.contains("may not listen to _INBOX"), "{failure:?}");
}

#[tokio::test]
async fn tls_begins_after_the_greeting_and_a_client_certificate_logs_in() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let (certificate, key) = authority.issue("localhost", |_| {});
    let (shown, shown_key) = authority.issue("hub", |_| {});
    for (name, text) in
        [("ca", String::from_utf8(authority.pem()).unwrap()), ("cert", certificate.pem()), ("key", key.serialize_pem())]
    {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let path = dir.path().display();
    let files = format!("cert_file: \"{path}/cert\", key_file: \"{path}/key\", ca_file: \"{path}/ca\"");
    let config = format!("tls {{ {files}, verify: true }}\nno_auth_user: hub");
    let server = NatsServer::start(&config).await;
    let url = format!("natss://localhost:{}/rules.x", server.address.port());
    let open = |credential| {
        let dialer = dialer(&["127.0.0.0/8", "::1/128"], vec![authority.pem()]);
        Channel::open(&document("nats", &url, json!({})), &url, credential, &dialer).unwrap()
    };
    let certificate = Credential::Mtls { cert_pem: shown.pem(), key_pem: shown_key.serialize_pem() };
    // No stream, but the server was spoken to.
    let failure = failed(open(certificate).send(&message(), soon()).await);
    assert!(failure.reason.contains("no stream takes"), "{}", failure.reason);
    let failure = failed(open(login()).send(&message(), soon()).await);
    assert!(matches!(failure.stage, Stage::Tls | Stage::Auth), "{failure:?}");
    let plain = failed(channel(&format!("nats://{}/rules.x", server.address), login()).send(&message(), soon()).await);
    assert!(plain.reason.contains("write natss://"), "{}", plain.reason);
}

#[tokio::test]
async fn servers_that_are_not_nats_cost_the_attempt_only() {
    let info = "INFO {\"headers\":true,\"max_payload\":1000000}\r\n";
    for (said, stage, words) in [
        ("HTTP/1.1 400 Bad Request\r\n\r\n".to_owned(), Stage::Auth, "does not speak NATS"),
        ("INFO {\"max_payload\":10}\r\n+OK\r\n".to_owned(), Stage::Auth, "no headers"),
        (format!("{info}-ERR 'Authorization Violation'\r\n"), Stage::Auth, "Authorization Violation"),
        (format!("{info}PONG\r\n-ERR 'Stale Connection'\r\n"), Stage::Await, "Stale Connection"),
        (format!("{info}PONG\r\nMSG other 1 2\r\n{{}}\r\nnonsense\r\n"), Stage::Await, "does not speak NATS"),
        ("x".repeat(70_000), Stage::Auth, "over 64 KiB"),
    ] {
        let partner = Partner::start(move |mut stream, _| {
            let said = said.clone();
            async move {
                let _ = stream.write_all(said.as_bytes()).await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        })
        .await;
        let channel = channel(&format!("nats://{}/rules.x", partner.address), login());
        let failure = failed(channel.send(&message(), soon()).await);
        assert!(failure.stage == stage && failure.reason.contains(words), "{failure:?}");
    }
    // Pings without end are answered, and end with the deadline.
    let partner = Partner::start(async |mut stream, _| while stream.write_all(b"PING\r\n").await.is_ok() {}).await;
    let channel = channel(&format!("nats://{}/rules.x", partner.address), login());
    let failure = failed(channel.send(&message(), Instant::now() + Duration::from_millis(300)).await);
    assert_eq!(failure.stage, Stage::Auth);
}
