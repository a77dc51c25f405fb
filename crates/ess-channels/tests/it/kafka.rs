//! The kafka channel against librdkafka's brokers, and against brokers that are not what they should be.

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
use crate::kafka_cluster::{Brokers, Record};
use crate::kafka_front::{Front, Login, Rules};
use crate::link::Link;
use crate::partner::{Partner, dialer, document, failed, message, soon};
use crate::tls::Authority;

fn login() -> Credential {
    Credential::Password { user: Some("hub".to_owned()), password: "s3cret pass".to_owned() }
}

fn channel_with(url: &str, credential: Credential, more: serde_json::Value) -> Channel {
    let root = Authority::new().pem();
    let partner = document("kafka", url, more);
    Channel::open(&partner, url, credential, &dialer(&["127.0.0.0/8"], vec![root])).unwrap()
}

fn channel(url: &str) -> Channel {
    channel_with(url, Credential::None, json!({"limits": {"in_flight": 4}}))
}

fn numbered(number: u32) -> Message {
    let event_id = EventId::trusted(&format!("RULE-{number}-V3"));
    let headers = vec![("webhook-id".to_owned(), format!("msg_{number}"))];
    Message { id: format!("msg_{number}"), event_id, headers, ..message() }
}

#[track_caller]
fn confirmed(receipt: &Receipt) {
    assert!(matches!(receipt, Receipt::Confirmed), "{receipt:?}");
}

/// What the topic has, by its name in the suite as a careful partner keeps it: these brokers keep a message twice that
/// came twice, whatever its number.
fn delivered(brokers: &Brokers, topic: &str) -> Vec<(String, Vec<u8>)> {
    let mut known: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for record in brokers.records(topic) {
        let before = known.insert(record.header("suite-name").to_owned(), record.body.clone());
        assert!(before.is_none_or(|before| before == record.body), "the same message came with another body");
    }
    known.into_iter().collect()
}

#[tokio::test]
async fn kafka_conforms() {
    let brokers = Rc::new(Brokers::start(1));
    let topics = RefCell::new(0);
    let describe = async || {
        *topics.borrow_mut() += 1;
        let topic = format!("rules-{}", topics.borrow());
        brokers.tell(&format!("make {topic} 3"));
        let link = Link::to(brokers.addresses[0]).await;
        brokers.tell(&format!("say 1 {}", link.address));
        let channel = channel(&format!("kafka://{}/{topic}", link.address)).into();
        let (refusing, brokers) = (Rc::clone(&brokers), Rc::clone(&brokers));
        Described {
            channel,
            link: Some(link),
            delivered: Box::new(move || delivered(&brokers, &topic)),
            // MESSAGE_TOO_LARGE, for each of the two attempts.
            refuse: Some(Box::new(move |message| {
                refusing.tell("fail 10");
                refusing.tell("fail 10");
                message
            })),
            connections: 1,
            shape: |message| {
                let name = ("suite-name".to_owned(), message.file_name());
                Message { headers: vec![name], ..message }
            },
            under_way: &[0, 100],
            _server: Box::new(()),
        }
    };
    conforms(describe).await;
}

#[tokio::test]
async fn a_message_arrives_with_its_key_and_headers_and_a_subject_keeps_its_partition() {
    let brokers = Brokers::start(3);
    brokers.tell("make rules.HOME_x3a12.v3 7");
    let channel = channel(&format!("kafka://{}/rules.{{subject}}.v{{version}}", brokers.addresses[0]));
    let body: Vec<u8> = (0..300_000_u32).map(|number| number as u8).collect();
    for number in 1..=5 {
        let mut sent = Message { body: body.clone().into(), subject: Subject::trusted("HOME:12"), ..numbered(number) };
        sent.headers.push(("x-hms-test".to_owned(), "true".to_owned()));
        confirmed(&channel.send(&sent, soon()).await);
    }
    let records = brokers.records("rules.HOME_x3a12.v3");
    let ids: Vec<&str> = records.iter().map(|record| record.header("webhook-id")).collect();
    assert_eq!(ids, ["msg_1", "msg_2", "msg_3", "msg_4", "msg_5"]);
    let Record { key, body: found, .. } = &records[0];
    assert!(key == "HOME:12" && *found == body, "another key or body came: {key}");
    assert_eq!((records[0].header("content-type"), records[0].header("x-hms-test")), ("application/json", "true"));
}

#[tokio::test]
async fn a_message_follows_its_partition_to_another_leader_and_outlasts_a_brokers_crash() {
    let brokers = Brokers::start(3);
    brokers.tell("make rules 1");
    brokers.tell("lead rules 0 1");
    let channel = channel(&format!("kafka://{}/rules", brokers.addresses[0]));
    confirmed(&channel.send(&numbered(1), soon()).await);
    brokers.tell("lead rules 0 2");
    confirmed(&channel.send(&numbered(2), soon()).await);
    // The broker of the address and the leader are gone: another one is asked, and the new leader takes it.
    brokers.tell("down 1");
    brokers.tell("down 2");
    let failure = failed(channel.send(&numbered(3), soon()).await);
    assert!(failure.reason.contains("no leader for now"), "{failure:?}");
    brokers.tell("lead rules 0 3");
    confirmed(&channel.send(&numbered(3), soon()).await);
    for broker in [1, 2] {
        brokers.tell(&format!("up {broker}"));
    }
    brokers.tell("lead rules 0 2");
    confirmed(&channel.send(&numbered(4), soon()).await);
    let ids: Vec<String> = brokers.records("rules").iter().map(|r| r.header("webhook-id").to_owned()).collect();
    assert_eq!(ids, ["msg_1", "msg_2", "msg_3", "msg_4"]);
}

#[tokio::test]
async fn what_a_broker_does_not_take_is_sorted_by_what_can_be_done() {
    let brokers = Brokers::start(1);
    let channel = channel(&format!("kafka://{}/rules", brokers.addresses[0]));
    let failure = failed(channel.send(&numbered(1), soon()).await);
    assert!(failure.reason.contains("topic rules is not there"), "{}", failure.reason);
    brokers.tell("make rules 2");
    confirmed(&channel.send(&numbered(1), soon()).await);
    for (code, words) in [(19, "too few replicas"), (29, "may not write"), (7, "too long"), (89, "quota")] {
        brokers.tell(&format!("fail {code}"));
        let failure = failed(channel.send(&numbered(2), soon()).await);
        assert!(failure.stage == Stage::Await && failure.reason.contains(words), "{failure:?}");
    }
    for (code, words) in [(10, "so long a message"), (44, "does not take the message")] {
        brokers.tell(&format!("fail {code}"));
        let receipt = channel.send(&numbered(2), soon()).await;
        assert!(matches!(&receipt, Receipt::Refused { reason } if reason.contains(words)), "{receipt:?}");
    }
    // The broker forgot the sender, or has the message already: both end well at once.
    for code in [59, 45, 46] {
        brokers.tell(&format!("fail {code}"));
        confirmed(&channel.send(&numbered(3), soon()).await);
    }
    // It says that another leads, and names itself.
    brokers.tell("fail 6");
    let failure = failed(channel.send(&numbered(4), soon()).await);
    assert!(failure.reason.contains("leads topic rules no more"), "{}", failure.reason);
    confirmed(&channel.send(&numbered(4), soon()).await);
}

#[tokio::test]
async fn a_message_whose_confirm_was_lost_comes_again_under_its_number() {
    let brokers = Brokers::start(1);
    brokers.tell("make rules 1");
    let front = Front::of(&brokers, Rules { loses: Some(2), ..Rules::default() }).await;
    let channel = channel(&format!("kafka://127.0.0.1:{}/rules", front.port()));
    confirmed(&channel.send(&numbered(1), soon()).await);
    // The kept connection ends without an answer, so it goes out once more by itself.
    confirmed(&channel.send(&numbered(2), soon()).await);
    confirmed(&channel.send(&numbered(3), soon()).await);
    let stamps = front.stamps.lock().unwrap().clone();
    let (producer, epoch, _) = stamps[0];
    assert!(producer >= 0, "{stamps:?}");
    let sequences: Vec<i32> = stamps.iter().map(|(_, _, sequence)| *sequence).collect();
    assert_eq!(sequences, [0, 1, 1, 2]);
    assert!(stamps.iter().all(|stamp| (stamp.0, stamp.1) == (producer, epoch)), "{stamps:?}");
}

#[tokio::test]
async fn an_attempt_that_hung_after_its_message_arrived_is_repeated_under_its_number() {
    let brokers = Brokers::start(1);
    brokers.tell("make rules 1");
    let front = Front::of(&brokers, Rules::default()).await;
    let link = Link::to(([127, 0, 0, 1], front.port()).into()).await;
    brokers.tell(&format!("say 1 {}", link.address));
    let channel = channel(&format!("kafka://{}/rules", link.address));
    confirmed(&channel.send(&numbered(1), soon()).await);
    link.set(crate::link::Fault::FreezeAfter(0));
    let failure = failed(channel.send(&numbered(2), Instant::now() + Duration::from_millis(500)).await);
    assert!(failure.stage == Stage::Await && failure.reason.contains("timed out"), "{failure:?}");
    link.set(crate::link::Fault::None);
    // Another message goes between, under another sender's number.
    confirmed(&channel.send(&numbered(3), soon()).await);
    confirmed(&channel.send(&numbered(2), soon()).await);
    let stamps = front.stamps.lock().unwrap().clone();
    assert_eq!(stamps.len(), 4, "{stamps:?}");
    assert!(stamps[1] == stamps[3] && stamps[2].0 != stamps[1].0, "{stamps:?}");
}

/// A server's side of PLAIN and SCRAM-SHA-256 for the user `hub`.
fn server_login(mechanism: &str) -> Login {
    if mechanism == "PLAIN" {
        return Box::new(|said| match said {
            b"\0hub\0s3cret pass" => Ok(Vec::new()),
            _ => Err("no such user, or another password".to_owned()),
        });
    }
    let mut step = 0;
    let mut first = String::new();
    Box::new(move |said| {
        step += 1;
        let said = String::from_utf8(said.to_vec()).unwrap();
        if step == 1 {
            first = said.strip_prefix("n,,").unwrap().to_owned();
            let nonce = first.strip_prefix("n=hub,r=").unwrap();
            return Ok(format!("r={nonce}more,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096").into_bytes());
        }
        let judged = std::process::Command::new("python3").args(["-c", SCRAM, &first, &said, "s3cret pass"]).output();
        let judged = judged.unwrap();
        let ended = judged.status.success().then_some(judged.stdout);
        ended.ok_or_else(|| "Authentication failed during authentication due to invalid credentials".to_owned())
    })
}

/// The server's side of SCRAM-SHA-256 by Python's own library: from the client's two messages and the password.
const SCRAM: &str = r"
import base64, hashlib, hmac, sys
first, final, password = sys.argv[1:]
without_proof, _, proof = final.rpartition(',p=')
mac = lambda key, text: hmac.new(key, text, 'sha256').digest()
salt = 'W22ZaJ0SNY7soEsUEjb6gQ=='
salted = hashlib.pbkdf2_hmac('sha256', password.encode(), base64.b64decode(salt), 4096)
nonce = without_proof.partition('r=')[2]
signed = f'{first},r={nonce},s={salt},i=4096,{without_proof}'.encode()
signature = mac(hashlib.sha256(mac(salted, b'Client Key')).digest(), signed)
key = bytes(a ^ b for a, b in zip(base64.b64decode(proof), signature))
assert key == mac(salted, b'Client Key')
print('v=' + base64.b64encode(mac(mac(salted, b'Server Key'), signed)).decode(), end='')
";

#[tokio::test]
async fn logins_by_tls_and_sasl_work_and_say_why_when_they_do_not() {
    let brokers = Brokers::start(1);
    brokers.tell("make rules 1");
    let authority = Authority::new();
    let rules = Rules { tls: Some(authority.acceptor("localhost")), login: Some(server_login), loses: None };
    let front = Front::of(&brokers, rules).await;
    brokers.tell(&format!("say 1 localhost:{}", front.port()));
    let url = format!("kafkas://localhost:{}/rules", front.port());
    let open = |credential, more| {
        let dialer = dialer(&["127.0.0.0/8", "::1/128"], vec![authority.pem()]);
        Channel::open(&document("kafka", &url, more), &url, credential, &dialer).unwrap()
    };
    for sasl in ["plain", "scram-sha-256"] {
        let channel = open(login(), json!({"sasl": sasl}));
        confirmed(&channel.send(&numbered(1), soon()).await);
        let wrong = Credential::Password { user: Some("hub".to_owned()), password: "hunter2".to_owned() };
        let Failure { stage, reason } = failed(open(wrong, json!({"sasl": sasl})).send(&message(), soon()).await);
        assert!(stage == Stage::Auth && reason.contains("does not take the login"), "{reason}");
        assert!(!reason.contains("hunter2"), "{reason}");
    }
    let failure = failed(open(login(), json!({"sasl": "scram-sha-512"})).send(&message(), soon()).await);
    assert!(failure.stage == Stage::Auth && failure.reason.contains("it offers SCRAM-SHA-256"), "{failure:?}");
    let failure = failed(open(Credential::None, json!({})).send(&message(), soon()).await);
    assert!(failure.reason.contains("connection closed"), "{failure:?}");
    let stranger = failed(channel_with(&url, login(), json!({})).send(&message(), soon()).await);
    assert!(stranger.stage == Stage::Tls && stranger.reason.contains("not trusted"), "{stranger:?}");
    assert_eq!(brokers.records("rules").len(), 2);
}

#[tokio::test]
async fn a_broker_that_the_cluster_names_is_dialled_under_the_guard() {
    let brokers = Brokers::start(1);
    brokers.tell("make rules 1");
    let channel = channel(&format!("kafka://{}/rules", brokers.addresses[0]));
    brokers.tell("say 1 169.254.169.254:80");
    let failure = failed(channel.send(&message(), soon()).await);
    assert!(failure.reason.contains("169.254.169.254"), "{failure:?}");
    assert_ne!(failure.stage, Stage::Connect, "it was dialled: {failure:?}");
}

#[tokio::test]
async fn brokers_that_are_not_kafka_cost_the_attempt_only() {
    let able = b"\0\0\0\x1C\0\0\0\x01\0\0\0\0\0\x03\0\0\0\0\0\x07\0\x03\0\0\0\x04\0\x16\0\0\0\0".as_slice();
    let old = b"\0\0\0\x10\0\0\0\x01\0\0\0\0\0\x01\0\0\0\0\0\x02".as_slice();
    for (said, stage, words) in [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), Stage::Auth, "does not speak Kafka"),
        (b"\x15\x03\x01\0\x02\x02\x0A".to_vec(), Stage::Auth, "by TLS"),
        (b"\0\0\0\x04\0\0\0\x09".to_vec(), Stage::Auth, "another request"),
        (b"\0\0\0\x0A\0\0\0\x01\0\0\x7F\xFF\xFF\xFF".to_vec(), Stage::Auth, "cut short"),
        (old.to_vec(), Stage::Auth, "older than Kafka 1.0"),
        ([able, b"\0\0\0\x08\0\0\0\x02\0\0\0\0"].concat(), Stage::Await, "cut short"),
        (
            [able, b"\0\0\0\x18\0\0\0\x02\0\0\0\0\0\0\0\x01\0\0\0\x01\xFF\xFF\0\x01\0\0\xFF\xFF"].concat(),
            Stage::Await,
            "65535",
        ),
    ] {
        let failure = against(said, soon()).await;
        assert!(failure.stage == stage && failure.reason.contains(words), "{words}: {failure:?}");
    }
    let failure = against(able.to_vec(), Instant::now() + Duration::from_millis(500)).await;
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
    failed(channel(&format!("kafka://{}/rules", partner.address)).send(&message(), deadline).await)
}
