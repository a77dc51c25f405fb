//! The amqp channel against RabbitMQ, and against brokers that are not what they should be.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use ess_channels::{Channel, Credential};
use ess_core::id::{EventId, Subject};
use ess_core::message::Message;
use ess_core::receipt::{Failure, Receipt, Stage};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Duration, Instant};

use crate::conformance::{Described, conforms};
use crate::link::Link;
use crate::partner::{Partner, dialer, document, failed, message, soon};
use crate::rabbit::{Rabbit, Taken};
use crate::tls::Authority;

fn login() -> Credential {
    Credential::Password { user: Some("hub".to_owned()), password: "s3cret pass".to_owned() }
}

fn channel(url: &str, credential: Credential) -> Channel {
    let root = Authority::new().pem();
    let partner = document("amqp", url, json!({"limits": {"in_flight": 4}}));
    Channel::open(&partner, url, credential, &dialer(&["127.0.0.0/8"], vec![root])).unwrap()
}

fn numbered(number: u32) -> Message {
    let event_id = EventId::trusted(&format!("RULE-{number}-V3"));
    Message { id: format!("msg_{number}"), event_id, ..message() }
}

#[track_caller]
fn confirmed(receipt: &Receipt) {
    assert!(matches!(receipt, Receipt::Confirmed), "{receipt:?}");
}

/// What the queue has given so far, by message id as a careful partner keeps it: a message whose confirm was lost comes
/// again, since AMQP knows no duplicates.
struct Reader {
    rabbit: Rc<Rabbit>,
    queue: String,
    known: RefCell<BTreeMap<String, Vec<u8>>>,
}

impl Reader {
    fn delivered(&self) -> Vec<(String, Vec<u8>)> {
        let mut client = self.rabbit.client();
        let mut known = self.known.borrow_mut();
        while let Some(taken) = client.take(&self.queue) {
            let before = known.insert(file_name(&taken), taken.body.clone());
            assert!(before.is_none_or(|before| before == taken.body), "the same message came with another body");
        }
        known.clone().into_iter().collect()
    }
}

/// What a drop of the suite's message would be called.
fn file_name(taken: &Taken) -> String {
    let id = taken.routing_key.split_once('.').unwrap().1;
    format!("{}{}.v1.json", if taken.holds(b"test_msg_") { "test_" } else { "" }, id.replace("%2E", "."))
}

#[tokio::test]
async fn amqp_conforms() {
    let rabbit = Rc::new(Rabbit::start("max_message_size = 4000000").await);
    let queues = RefCell::new(0);
    let describe = async || {
        // A broker takes seconds to start, so each part of the suite has a queue of its own.
        *queues.borrow_mut() += 1;
        let queue = format!("q{}", queues.borrow());
        rabbit.client().make_queue(&queue, &format!("{queue}.#"), b"");
        let link = Link::to(rabbit.address).await;
        let url = format!("amqp://{}/%2F/amq.topic/{queue}.{{id}}", link.address);
        let reader = Reader { rabbit: Rc::clone(&rabbit), queue, known: RefCell::default() };
        Described {
            channel: channel(&url, login()).into(),
            link: Some(link),
            delivered: Box::new(move || reader.delivered()),
            shape: |message| message,
            refuse: Some(Box::new(|message| Message { body: vec![b'x'; 5_000_000].into(), ..message })),
            connections: 1,
            under_way: &[0, 100],
            _server: Box::new(()),
        }
    };
    conforms(describe).await;
}

#[tokio::test]
async fn a_broker_keeps_what_it_confirmed_and_says_what_it_cannot_take() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    let mut rabbit = Rabbit::start(&with_tls(&authority, dir.path())).await;
    rabbit.client().make_queue("court", "rules.#", b"");
    let to = |path: &str| channel(&format!("amqp://{}/{path}", rabbit.address), login());
    let channel = to("%2F/amq.topic/rules.{subject}.v{version}");

    arrives_with_its_properties(&rabbit, &channel).await;
    what_no_queue_takes_is_refused(&to).await;
    a_full_queue_is_tried_again(&rabbit, &to).await;
    logins_that_fail_say_why(&rabbit).await;
    a_client_certificate_logs_in(&rabbit, &authority).await;

    // A crash between two messages: what was confirmed is there, and what follows comes in order, once.
    confirmed(&channel.send(&numbered(1), soon()).await);
    rabbit.kill().await;
    assert_eq!(failed(channel.send(&numbered(2), soon()).await).stage, Stage::Connect);
    rabbit.start_again().await;
    for number in [2, 3] {
        confirmed(&channel.send(&numbered(number), soon()).await);
    }
    let mut client = rabbit.client();
    let ids = ["msg_1", "msg_2", "msg_3"];
    for id in ids {
        let taken = client.take("court").unwrap();
        assert!(taken.holds(id.as_bytes()), "{taken:?}");
    }
    assert_eq!(client.take("court"), None);
}

/// A server certificate, and the lines of the broker's configuration that use it and ask for one of the client.
fn with_tls(authority: &Authority, dir: &std::path::Path) -> String {
    let (certificate, key) = authority.issue("localhost", |_| {});
    let ca = String::from_utf8(authority.pem()).unwrap();
    for (name, text) in [("ca", ca), ("cert", certificate.pem()), ("key", key.serialize_pem())] {
        std::fs::write(dir.join(name), text).unwrap();
    }
    let dir = dir.display();
    format!(
        "listeners.ssl.1 = 127.0.0.1:TLS_PORT\nssl_options.cacertfile = {dir}/ca\nssl_options.certfile = {dir}/cert\n\
         ssl_options.keyfile = {dir}/key\nssl_options.verify = verify_peer\nssl_cert_login_from = common_name\n\
         ssl_options.fail_if_no_peer_cert = false\nauth_mechanisms.1 = PLAIN\nauth_mechanisms.2 = EXTERNAL"
    )
}

async fn a_client_certificate_logs_in(rabbit: &Rabbit, authority: &Authority) {
    let (shown, key) = authority.issue("hub", |params| {
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "hub");
    });
    let certificate = Credential::Mtls { cert_pem: shown.pem(), key_pem: key.serialize_pem() };
    let url = format!("amqps://localhost:{}/%2F/amq.topic/rules.x", rabbit.tls_port);
    for credential in [certificate, login()] {
        let dialer = dialer(&["127.0.0.0/8", "::1/128"], vec![authority.pem()]);
        let channel = Channel::open(&document("amqp", &url, json!({})), &url, credential, &dialer).unwrap();
        confirmed(&channel.send(&message(), soon()).await);
        rabbit.client().take("court").unwrap();
    }
    let stranger = failed(channel(&url, login()).send(&message(), soon()).await);
    assert!(stranger.stage == Stage::Tls && stranger.reason.contains("not trusted"), "{stranger:?}");
}

async fn arrives_with_its_properties(rabbit: &Rabbit, channel: &Channel) {
    let headers = vec![("webhook-id".to_owned(), "msg_7".to_owned()), ("x-hms-test".to_owned(), "true".to_owned())];
    let body: Vec<u8> = (0..300_000_u32).map(|number| number as u8).collect();
    let sent = Message { headers, body: body.into(), subject: Subject::trusted("HOME.12 a*#"), ..numbered(7) };
    confirmed(&channel.send(&sent, soon()).await);
    let taken = rabbit.client().take("court").unwrap();
    assert_eq!(taken.routing_key, "rules.HOME%2E12 a%2A%23.v3");
    assert!(taken.body == sent.body, "another body came");
    for text in [
        b"\x10application/json".as_slice(),
        b"\x0Awebhook-idS\0\0\0\x05msg_7",
        b"\x0Ax-hms-testS\0\0\0\x04true",
        // Delivery mode 2 and the message id stand beside each other.
        b"\x02\x05msg_7\x07hms-ess",
    ] {
        assert!(taken.holds(text), "{taken:?} lacks {}", String::from_utf8_lossy(text));
    }
}

async fn what_no_queue_takes_is_refused(to: &impl Fn(&str) -> Channel) {
    let unbound = to("%2F/amq.topic/elsewhere.{subject}");
    // Longer than what is read of an answer, since it all comes back.
    let long = Message { body: vec![b'x'; 2_000_000].into(), ..numbered(8) };
    for sent in [long, numbered(9)] {
        let Receipt::Refused { reason } = unbound.send(&sent, soon()).await else { panic!("not refused") };
        assert!(reason.contains("no queue takes") && reason.contains("\"elsewhere.RULE-1\""), "{reason}");
    }
    let failure = failed(to("%2F/missing/k").send(&message(), soon()).await);
    assert!(failure.reason.contains("exchange missing is not there"), "{}", failure.reason);
    let failure = failed(to("missing/x/k").send(&message(), soon()).await);
    assert!(failure.stage == Stage::Auth && failure.reason.contains("virtual host missing"), "{failure:?}");
    // The default exchange goes to the queue of that name.
    let Receipt::Refused { reason } = to("%2F//nobody").send(&message(), soon()).await else { panic!("not refused") };
    assert!(reason.contains("the default exchange"), "{reason}");
}

async fn a_full_queue_is_tried_again(rabbit: &Rabbit, to: &impl Fn(&str) -> Channel) {
    let arguments = [b"\x0Cx-max-lengthI\0\0\0\x01".as_slice(), b"\x0Ax-overflowS\0\0\0\x0Ereject-publish"].concat();
    rabbit.client().make_queue("full", "full", &arguments);
    let full = to("%2F//full");
    confirmed(&full.send(&numbered(1), soon()).await);
    let failure = failed(full.send(&numbered(2), soon()).await);
    assert!(failure.reason.contains("(nack)"), "{}", failure.reason);
    rabbit.client().take("full").unwrap();
    confirmed(&full.send(&numbered(2), soon()).await);
}

async fn logins_that_fail_say_why(rabbit: &Rabbit) {
    let url = format!("amqp://{}/%2F/amq.topic/k", rabbit.address);
    let wrong = Credential::Password { user: Some("hub".to_owned()), password: "hunter2".to_owned() };
    let Failure { stage, reason } = failed(channel(&url, wrong).send(&message(), soon()).await);
    assert_eq!(stage, Stage::Auth);
    assert!(reason.contains("does not take the login") && !reason.contains("hunter2"), "{reason}");
    let failure = failed(channel(&url, Credential::None).send(&message(), soon()).await);
    assert!(failure.reason.contains("ANONYMOUS") && failure.reason.contains("PLAIN"), "{}", failure.reason);
}

#[tokio::test]
async fn brokers_that_are_not_amqp_cost_the_attempt_only() {
    let start = b"\x01\0\0\0\0\0\x17\0\x0A\0\x0A\0\x09\0\0\0\0\0\0\0\x05PLAIN\0\0\0\0\xCE".as_slice();
    let tune = b"\x01\0\0\0\0\0\x0C\0\x0A\0\x1E\0\0\0\0\0\0\0\0\xCE".as_slice();
    let opened = b"\x01\0\0\0\0\0\x05\0\x0A\0\x29\0\xCE\x01\0\x01\0\0\0\x08\0\x14\0\x0B\0\0\0\0\xCE\x01\0\x01\0\0\0\x04\0\x55\0\x0B\xCE";
    let blocked = b"\x01\0\0\0\0\0\x08\0\x0A\0\x3C\x03low\xCE";
    let other_ack = b"\x01\0\x01\0\0\0\x0D\0\x3C\0\x50\0\0\0\0\0\0\0\x09\0\xCE";
    for (said, stage, words) in [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), Stage::Auth, "does not speak AMQP"),
        (b"AMQP\0\x01\0\0".to_vec(), Stage::Auth, "another version of AMQP"),
        ([start, opened].concat(), Stage::Auth, "something else than its Tune"),
        ([start, tune, opened, blocked].concat(), Stage::Await, "takes no messages for now: low"),
        ([start, tune, opened, b"\xFF"].concat(), Stage::Await, "does not speak AMQP"),
        (b"\x01\0\0\x7F\0\0\0".to_vec(), Stage::Auth, "over 128 KiB"),
    ] {
        let failure = against(said, soon()).await;
        assert!(failure.stage == stage && failure.reason.contains(words), "{failure:?}");
    }
    // A confirm of another message is none of this one.
    let said = [start, tune, opened, other_ack].concat();
    let failure = against(said, Instant::now() + Duration::from_millis(500)).await;
    assert!(failure.stage == Stage::Await && failure.reason.contains("timed out"), "{failure:?}");
}

/// What an attempt comes to against a broker that says this, whatever it is told.
async fn against(said: Vec<u8>, deadline: Instant) -> Failure {
    let partner = Partner::start(move |mut stream, _| {
        let said = said.clone();
        async move {
            let _ = stream.write_all(&said).await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    })
    .await;
    let channel = channel(&format!("amqp://{}/%2F/rules/k", partner.address), login());
    failed(channel.send(&message(), deadline).await)
}

#[tokio::test]
async fn a_broker_that_is_slow_to_confirm_hears_of_the_hub_meanwhile() {
    let start = b"\x01\0\0\0\0\0\x17\0\x0A\0\x0A\0\x09\0\0\0\0\0\0\0\x05PLAIN\0\0\0\0\xCE".as_slice();
    // It wants to hear of the hub each second.
    let tune = b"\x01\0\0\0\0\0\x0C\0\x0A\0\x1E\0\0\0\0\0\0\0\x01\xCE";
    let opened = b"\x01\0\0\0\0\0\x05\0\x0A\0\x29\0\xCE\x01\0\x01\0\0\0\x08\0\x14\0\x0B\0\0\0\0\xCE\x01\0\x01\0\0\0\x04\0\x55\0\x0B\xCE";
    let said = [start, tune, opened].concat();
    let partner = Partner::start(move |mut stream, _| {
        let said = said.clone();
        async move {
            stream.write_all(&said).await.unwrap();
            let mut bytes = Vec::new();
            while !bytes.windows(8).any(|eight| eight == b"\x08\0\0\0\0\0\0\xCE") {
                stream.read_buf(&mut bytes).await.unwrap();
            }
            stream.write_all(b"\x01\0\x01\0\0\0\x0D\0\x3C\0\x50\0\0\0\0\0\0\0\x01\0\xCE").await.unwrap();
            let _ = stream.read_to_end(&mut bytes).await;
        }
    })
    .await;
    let channel = channel(&format!("amqp://{}/%2F/rules/k", partner.address), login());
    confirmed(&channel.send(&message(), soon()).await);
}
