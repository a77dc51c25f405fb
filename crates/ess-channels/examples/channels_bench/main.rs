//! Each channel beside the plain client of its protocol: the same work, at the same concurrency, by turns in one run; and what
//! idle MQTT partners cost.
//!
//! `cargo xtask bench --scenario channels`, which brings what is needed; or this example with names of channels. A row is
//! printed for each figure: name, value and unit with tabs between them.

#![allow(clippy::print_stdout)]

mod plain;
mod rows;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ess_channels::{Channel, Credential, Dialer, DialerOptions};
use ess_core::id::{Digest, EventId, Subject, Version};
use ess_core::message::Message;
use ess_core::partner::{AllowDir, AllowNet, Partner};
use ess_core::receipt::{Receipt, Said};
use serde_json::{Value, json};

use kafka_cluster::Brokers;
use mosquitto::Mosquitto;
use nats_server::NatsServer;
use python::PythonServer;
use rabbit::Rabbit;
use rows::{Plain, compare, tell};
use sshd::Sshd;

// The servers of the channels' tests: the same files, of which the bench needs only a part.
#[expect(dead_code)]
#[path = "../../tests/it/kafka_cluster.rs"]
mod kafka_cluster;
#[expect(dead_code)]
#[path = "../../tests/it/link.rs"]
mod link;
#[expect(dead_code)]
#[path = "../../tests/it/mosquitto.rs"]
mod mosquitto;
#[expect(dead_code)]
#[path = "../../tests/it/nats_server.rs"]
mod nats_server;
#[expect(dead_code)]
#[path = "../../tests/it/python.rs"]
mod python;
#[expect(dead_code)]
#[path = "../../tests/it/rabbit.rs"]
mod rabbit;
#[expect(dead_code)]
#[path = "../../tests/it/sshd.rs"]
mod sshd;

/// Partners that are connected and idle.
const PARTNERS: usize = 1_000;

/// What is sent at once in all but one line.
const AT_ONCE: usize = 16;

fn dialer(roots: Vec<Vec<u8>>, allow_dir: Vec<std::path::PathBuf>) -> Dialer {
    Dialer::new(DialerOptions {
        allow: AllowNet(vec!["127.0.0.0/8".parse().unwrap()]),
        allow_dir: AllowDir(allow_dir),
        extra_roots_pem: roots,
        system_roots: true,
        user_agent: "hms-ess/bench".to_owned(),
        proxy: None,
    })
    .unwrap()
}

fn open(channel: &str, url: &str, login: Credential, dialer: &Dialer, more: Value) -> Channel {
    let mut document = json!({"id": "P", "channel": channel, "url": url, "limits": {"in_flight": AT_ONCE}});
    document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Channel::open(&Partner::from_json(&document).unwrap(), url, login, dialer).unwrap()
}

fn login() -> Credential {
    Credential::Password { user: Some("hub".to_owned()), password: "s3cret pass".to_owned() }
}

fn message(number: usize) -> Message {
    let body = format!("MSH|^~\\&|HMS-ESS||||1||MFN^M02|{number}|P|2.5.1\rNTE|1||{}\r", "x".repeat(400));
    Message {
        id: format!("msg_{number}"),
        event_id: EventId::trusted(&format!("E-{number}")),
        subject: Subject::trusted("RULE"),
        version: Version(1),
        extension: "hl7",
        content_type: "application/hl7-v2".to_owned(),
        headers: vec![("webhook-id".to_owned(), format!("msg_{number}"))],
        body_digest: Digest::of(body.as_bytes()),
        body: Bytes::from(body),
        test: false,
        replay: false,
        partner_seq: None,
        attempt: 1,
    }
}

/// Sends these, so many at once, as lanes do: each asks for the next when its receipt is there.
async fn send(channel: &Arc<Channel>, messages: &Arc<Vec<Message>>, at_once: usize) {
    let mut lanes = tokio::task::JoinSet::new();
    for lane in 0..at_once {
        let (channel, messages) = (Arc::clone(channel), Arc::clone(messages));
        lanes.spawn(async move {
            for message in messages.iter().skip(lane).step_by(at_once) {
                let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
                let receipt = channel.send(message, deadline).await;
                assert!(matches!(receipt, Receipt::Confirmed | Receipt::Said(Said::Ack)), "{receipt:?}");
            }
        });
    }
    lanes.join_all().await;
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

async fn idle() {
    let cert = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let tls_port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let lines = format!(
        "allow_anonymous true\nmax_queued_messages 0\nlistener {tls_port} 127.0.0.1\ncertfile DIR/cert\nkeyfile DIR/key\n"
    );
    let broker = Mosquitto::prepared(&lines, |dir| {
        std::fs::write(dir.join("cert"), cert.cert.pem()).unwrap();
        std::fs::write(dir.join("key"), cert.signing_key.serialize_pem()).unwrap();
    });
    let dialer = dialer(vec![cert.cert.pem().into_bytes()], Vec::new());
    for (scheme, port) in [("mqtt", broker.address.port()), ("mqtts", tls_port)] {
        let before = resident_kib();
        let mut channels = Vec::new();
        for number in 0..PARTNERS {
            let more = json!({"id": format!("{scheme}-{number}"), "ack": {"topic": "acks/{partner}"}});
            let url = format!("{scheme}://127.0.0.1:{port}/rules/{number}");
            let channel = Arc::new(open("mqtt", &url, Credential::None, &dialer, more));
            send(&channel, &Arc::new(vec![message(1)]), 1).await;
            channels.push(channel);
        }
        let grown = resident_kib().saturating_sub(before) as f64 / 1024.0;
        tell(&format!("{PARTNERS} connected {scheme} partners"), grown, "MiB");
    }
}

async fn mqtt() {
    let broker = Mosquitto::with("allow_anonymous true\nmax_queued_messages 0\n");
    let url = format!("mqtt://{}/rules/{{subject}}", broker.address);
    let channel = open("mqtt", &url, Credential::None, &dialer(Vec::new(), Vec::new()), json!({}));
    // What mosquitto_pub has under way at a time.
    compare("mqtt", channel, 10_000, 20, Plain::MosquittoPub(broker.address)).await;
}

async fn mllp() {
    let receiver = plain::receiver().await;
    let url = format!("mllp://{receiver}");
    for (messages, plain) in [(2_000, Plain::Python("mllp", receiver.to_string())), (10_000, Plain::MllpLoop(receiver))]
    {
        let channel = open("mllp", &url, Credential::None, &dialer(Vec::new(), Vec::new()), json!({}));
        compare("mllp", channel, messages, AT_ONCE, plain).await;
    }
}

async fn nats() {
    let server = NatsServer::start("").await;
    server.make_stream("RULES", json!({"subjects": ["rules.>"]}));
    let url = format!("nats://{}/rules.{{id}}", server.address);
    let channel = open("nats", &url, login(), &dialer(Vec::new(), Vec::new()), json!({}));
    compare("nats", channel, 4_000, AT_ONCE, Plain::Python("nats", server.address.to_string())).await;
}

async fn amqp() {
    let rabbit = Rabbit::start("").await;
    rabbit.client().make_queue("court", "rules.#", b"");
    let url = format!("amqp://{}/%2F/amq.topic/rules.{{id}}", rabbit.address);
    let channel = open("amqp", &url, login(), &dialer(Vec::new(), Vec::new()), json!({}));
    compare("amqp", channel, 2_000, AT_ONCE, Plain::Python("amqp", rabbit.address.to_string())).await;
}

async fn kafka() {
    let brokers = Brokers::start(1);
    let url = format!("kafka://{}/rules", brokers.addresses[0]);
    let channel = open("kafka", &url, Credential::None, &dialer(Vec::new(), Vec::new()), json!({}));
    compare("kafka", channel, 4_000, AT_ONCE, Plain::Python("kafka", brokers.addresses[0].to_string())).await;
}

async fn email() {
    let server = PythonServer::start("mail.py");
    let url = format!("smtp://{}?to=clerk@court.example", server.address);
    let channel = open("email", &url, Credential::None, &dialer(Vec::new(), Vec::new()), json!({"tls": "none"}));
    compare("email", channel, 100, AT_ONCE, Plain::Python("smtp", server.address.to_string())).await;
}

async fn s3() {
    let store = PythonServer::start("store.py");
    store.ask("PUT", "/rules", b"");
    let more = json!({"endpoint": format!("http://{}", store.address), "auth": {"user": "id", "password": "secret"}});
    let login = Credential::Password { user: Some("id".to_owned()), password: "secret".to_owned() };
    let channel = open("s3", "s3://rules/inbox", login, &dialer(Vec::new(), Vec::new()), more);
    compare("s3", channel, 100, AT_ONCE, Plain::Python("s3", store.address.to_string())).await;
}

async fn file() {
    let dir = tempfile::tempdir().unwrap();
    for (name, plain) in [
        ("file (synced)", Plain::Python("file", dir.path().display().to_string())),
        ("file (cp, not synced)", Plain::Cp(dir.path().to_owned())),
    ] {
        let drops = dir.path().join(format!("drops-{}", name.len()));
        std::fs::create_dir(&drops).unwrap();
        let url = format!("file://{}", drops.display());
        let channel = open("file", &url, Credential::None, &dialer(Vec::new(), vec![dir.path().to_owned()]), json!({}));
        // More threads than these the hub does not let a directory have.
        compare(name, channel, 1_000, 4, plain).await;
    }
}

async fn sftp() {
    let sshd = Sshd::start().await;
    let url = format!("sftp://{}@{}{}", sshd.user, sshd.address, sshd.inbox.display());
    let more = json!({"host_key": sshd.host_key, "auth": {"key": "x"}, "limits": {"in_flight": 4}});
    let channel = open("sftp", &url, sshd.key(), &dialer(Vec::new(), Vec::new()), more);
    // Each of four connections begins with a log-in, on both sides.
    compare("sftp", channel, 600, 4, Plain::Sftp(&sshd)).await;
}

#[tokio::main]
async fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|one| one == name);
    macro_rules! run {
        ($($name:ident)*) => {$(
            if is_wanted(stringify!($name)) {
                $name().await;
            }
        )*};
    }
    run!(idle mqtt mllp nats amqp kafka email s3 file sftp);
}
