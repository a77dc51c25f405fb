//! MQTT against Mosquitto, and against brokers that do harm.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ess_channels::{Channel, ChannelError, Credential, Heard, Watch};
use ess_core::id::{EventId, Subject};
use ess_core::message::Message;
use ess_core::receipt::{Evidence, Receipt, Said, Stage};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::conformance::{Described, conforms};
use crate::link::Link;
use crate::mosquitto::{Mosquitto, publish, wait_for};
use crate::partner::{Partner, dialer, document, failed, message, own_root, soon};

fn open_with(url: &str, credential: Credential, roots: Vec<Vec<u8>>, more: Value) -> Channel {
    let document = document("mqtt", url, more);
    Channel::open(&document, url, credential, &dialer(&["127.0.0.0/8"], roots)).unwrap()
}

fn open(url: &str, more: Value) -> Channel {
    open_with(url, Credential::None, vec![own_root()], more)
}

fn numbered(number: u32) -> Message {
    let id = format!("RULE-{number}");
    Message { event_id: EventId::trusted(&id), body: Bytes::from(format!("{{\"id\":\"{id}\"}}")), ..message() }
}

#[track_caller]
fn confirmed(receipt: Receipt) {
    assert!(matches!(receipt, Receipt::Confirmed), "{receipt:?}");
}

#[tokio::test]
async fn mqtt_does_what_every_channel_does() {
    conforms(async || {
        let broker = Mosquitto::start();
        let partner = broker.subscribe("#", &[]);
        let link = Link::to(broker.address).await;
        // An adapter under 3.1.1: what shows a dry run is the topic.
        let more = json!({"protocol": "3.1.1", "adapter": "payload"});
        let channel = open(&format!("mqtt://{}/{{id}}.v{{version}}.json", link.address), more);
        let address = broker.address;
        let delivered = Box::new(move || {
            // The partner has all that was published before the barrier when it has the barrier.
            let barriers = || partner.got().iter().filter(|got| got.topic == "barrier").count();
            let before = barriers();
            publish(address, "barrier", &["-m", "-"]);
            wait_for("the barrier", || barriers() > before);
            let mut found: Vec<(String, Vec<u8>)> = Vec::new();
            for got in partner.got().into_iter().filter(|got| got.topic != "barrier") {
                let name = got.topic.replace("test/", "test_");
                // A partner takes an event once.
                if found.iter().all(|(known, _)| *known != name) {
                    found.push((name, got.payload.into_bytes()));
                }
            }
            found
        });
        Described {
            channel: Arc::new(channel),
            link: Some(link),
            delivered,
            shape: |message| message,
            // Under 3.1.1 a broker has no word for a refusal; what no topic can hold is one.
            refuse: Some(Box::new(|message| {
                let event_id = EventId::trusted(&"R".repeat(70_000));
                Message { event_id, ..message }
            })),
            connections: 1,
            under_way: &[0, 3],
            _server: Box::new(broker),
        }
    })
    .await;
}

#[tokio::test]
async fn a_message_is_confirmed_under_both_protocols_with_its_headers_where_there_are_any() {
    let broker = Mosquitto::start();
    let partner = broker.subscribe("rules/#", &[]);
    for protocol in ["5", "3.1.1"] {
        let channel = open(&broker.url("rules/{subject}/{id}/{version}"), json!({"protocol": protocol}));
        let message = Message { subject: Subject::trusted("a/b+c#d"), ..message() };
        confirmed(channel.send(&message, soon()).await);
    }
    let got = partner.wait(2);
    for got in &got {
        assert_eq!(got.topic, "rules/a%2Fb%2Bc%23d/RULE-1-V3/3");
        assert_eq!((got.payload.as_bytes(), got.is_retained), (&message().body[..], false));
    }
    assert_eq!((got[0].properties.as_str(), got[1].properties.as_str()), ("webhook-id:msg_1", ""));
}

#[tokio::test]
async fn many_messages_are_under_way_on_one_connection() {
    let broker = Mosquitto::start();
    let partner = broker.subscribe("rules/#", &[]);
    let channel = open(&broker.url("rules/{id}"), json!({}));
    let messages: Vec<Message> = (0..200).map(numbered).collect();
    let mut sending = tokio::task::JoinSet::new();
    let channel = std::sync::Arc::new(channel);
    for message in messages {
        let channel = channel.clone();
        sending.spawn(async move { channel.send(&message, soon()).await });
    }
    for receipt in sending.join_all().await {
        confirmed(receipt);
    }
    let mut topics: Vec<String> = partner.wait(200).into_iter().map(|got| got.topic).collect();
    topics.sort();
    topics.dedup();
    assert_eq!(topics.len(), 200, "each once");
}

#[tokio::test]
async fn a_password_is_asked_for_and_a_wrong_one_is_told() {
    let broker = Mosquitto::prepared("allow_anonymous false\npassword_file DIR/passwords\n", |dir| {
        let made = std::process::Command::new("mosquitto_passwd")
            .args(["-b", "-c"])
            .arg(dir.join("passwords"))
            .args(["hub", "right"])
            .status();
        assert!(made.unwrap().success());
    });
    let login = |password: &str| Credential::Password { user: Some("hub".to_owned()), password: password.to_owned() };
    for protocol in ["5", "3.1.1"] {
        let open =
            |credential| open_with(&broker.url("r"), credential, vec![own_root()], json!({"protocol": protocol}));
        confirmed(open(login("right")).send(&message(), soon()).await);
        for wrong in [login("wrong"), Credential::None] {
            let failure = failed(open(wrong).send(&message(), soon()).await);
            assert_eq!(failure.stage, Stage::Auth, "{failure:?}");
            assert!(failure.reason.starts_with("the broker does not "), "{failure:?}");
            assert!(!failure.reason.contains("wrong"));
        }
    }
}

#[tokio::test]
async fn over_tls_the_broker_is_checked() {
    let cert = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let (pem, key) = (cert.cert.pem(), cert.signing_key.serialize_pem());
    let broker = Mosquitto::prepared("allow_anonymous true\ncertfile DIR/cert\nkeyfile DIR/key\n", |dir| {
        std::fs::write(dir.join("cert"), &pem).unwrap();
        std::fs::write(dir.join("key"), &key).unwrap();
    });
    let url = broker.url("r").replace("mqtt://", "mqtts://");
    let trusting = open_with(&url, Credential::None, vec![pem.into_bytes()], json!({}));
    confirmed(trusting.send(&message(), soon()).await);
    let failure = failed(open(&url, json!({})).send(&message(), soon()).await);
    assert_eq!(failure.stage, Stage::Tls);
    assert!(failure.reason.starts_with("certificate not trusted"), "{failure:?}");
}

#[tokio::test]
async fn the_broker_keeps_the_last_rule_but_no_dry_run() {
    let broker = Mosquitto::start();
    let channel = open(&broker.url("rules/{subject}"), json!({"retain": true}));
    confirmed(channel.send(&message(), soon()).await);
    confirmed(channel.send(&Message { test: true, body: Bytes::from_static(b"test"), ..message() }, soon()).await);
    let got = broker.subscribe("rules/#", &[]).wait(1);
    assert!(got[0].is_retained && got[0].payload.contains("RULE-1-V3"), "{got:?}");
}

#[tokio::test]
async fn a_dry_run_without_headers_and_in_its_own_shape_has_a_topic_of_its_own() {
    let broker = Mosquitto::start();
    let partner = broker.subscribe("#", &[]);
    let dry_run = Message { test: true, ..message() };
    for more in [
        json!({"adapter": "payload", "protocol": "3.1.1"}),
        json!({"adapter": "payload"}),
        json!({"protocol": "3.1.1"}),
    ] {
        confirmed(open(&broker.url("r"), more).send(&dry_run, soon()).await);
    }
    let topics: Vec<String> = partner.wait(3).into_iter().map(|got| got.topic).collect();
    assert_eq!(topics, ["test/r", "r", "r"]);
}

/// Listens for so many words.
async fn hear(channel: &Channel, count: usize, meanwhile: impl AsyncFnOnce()) -> Vec<Heard> {
    let (sender, mut words) = mpsc::channel(16);
    let mut heard = Vec::new();
    let listening = channel.listen(&sender);
    let collect = async {
        meanwhile().await;
        while heard.len() < count {
            heard.push(words.recv().await.unwrap());
        }
    };
    let bound = tokio::time::timeout(Duration::from_secs(20), async {
        tokio::select! {
            failure = listening => panic!("{failure:?}"),
            () = collect => {}
        }
    });
    bound.await.expect("the words came");
    heard
}

#[tokio::test]
async fn receipts_come_on_a_topic_by_name_or_by_correlation() {
    let broker = Mosquitto::start();
    for protocol in ["5", "3.1.1"] {
        let partner = broker.subscribe("rules/#", &[]);
        let more = json!({"protocol": protocol, "ack": {"by": "topic", "topic": "acks/{partner}"}});
        let channel = open(&broker.url(&format!("rules/{protocol}")), more);
        assert_eq!(channel.watch(), Watch::Listen);
        let heard = hear(&channel, 4, async || {
            confirmed(channel.send(&message(), soon()).await);
            broker.publish("acks/P", &["-m", r#"{"ack": "RULE-1-V3"}"#]);
            broker.publish("acks/P", &["-m", r#"{"nack": "RULE-2", "reason": "no such court", "test": true}"#]);
            broker.publish("acks/P", &["-m", "what is this"]);
            broker.publish("acks/other", &["-m", r#"{"ack": "RULE-9"}"#]);
            let v5 = |name: &'static str, id| ["-V", "mqttv5", "-D", "publish", "correlation-data", id, name, ""];
            if protocol == "5" {
                broker.publish("acks/P", &[&v5("-m", "RULE-1-V3;test")[..6], &["-n"]].concat());
            } else {
                broker.publish("acks/P", &["-m", r#"{"ack": "RULE-1-V3", "test": true}"#]);
            }
            broker.publish("acks/P", &["-m", r#"{"nack": "RULE-3", "reason": "busy", "retryable": true}"#]);
        })
        .await;
        let word = |event: &str, test: bool, said: Said| Heard {
            event: EventId::trusted(event),
            test,
            said,
            evidence: Evidence::Topic,
        };
        let expected = [
            word("RULE-1-V3", false, Said::Ack),
            word("RULE-2", true, Said::Nack { reason: "no such court".to_owned() }),
            word("RULE-1-V3", true, Said::Ack),
            word("RULE-3", false, Said::Retry { reason: "busy".to_owned() }),
        ];
        assert_eq!(heard, expected);
        let got = partner.wait(1);
        let expected = if protocol == "5" { ("acks/P", "RULE-1-V3") } else { ("", "") };
        assert_eq!((got[0].response_topic.as_str(), got[0].correlation.as_str()), expected);
    }
}

#[tokio::test]
async fn receipts_that_come_while_the_hub_is_away_wait_at_the_broker() {
    let broker = Mosquitto::start();
    for protocol in ["5", "3.1.1"] {
        let more =
            json!({"protocol": protocol, "ack": {"topic": "acks/{partner}"}, "client_id": format!("hub-{protocol}")});
        let url = broker.url("rules");
        let channel = open(&url, more.clone());
        confirmed(channel.send(&message(), soon()).await);
        drop(channel);
        broker.publish("acks/P", &["-m", r#"{"ack": "RULE-1-V3"}"#]);
        let again = open(&url, more);
        let heard = hear(&again, 1, async || ()).await;
        assert_eq!(heard[0].event.as_str(), "RULE-1-V3");
    }
}

#[tokio::test]
async fn a_broker_that_restarts_is_found_again() {
    let mut broker = Mosquitto::start();
    let channel = open(&broker.url("rules/{id}"), json!({"ack": {"topic": "acks"}}));
    confirmed(channel.send(&numbered(1), soon()).await);
    let (sender, _words) = mpsc::channel(16);
    {
        let mut listening = std::pin::pin!(channel.listen(&sender));
        // Polled once, so that it listens.
        tokio::select! {
            failure = &mut listening => panic!("{failure:?}"),
            () = tokio::task::yield_now() => {}
        }
        broker.kill();
        let failure = tokio::time::timeout(Duration::from_secs(20), listening).await.unwrap();
        assert!(failure.reason.starts_with("connection"), "{failure:?}");
    }
    let failure = failed(channel.send(&numbered(2), soon()).await);
    assert_eq!(failure.stage, Stage::Connect, "{failure:?}");
    broker.restart();
    let partner = broker.subscribe("rules/#", &[]);
    confirmed(channel.send(&Message { attempt: 2, ..numbered(2) }, soon()).await);
    assert_eq!(partner.wait(1)[0].topic, "rules/RULE-2");
}

#[tokio::test]
async fn what_the_broker_refuses_is_told_apart_from_what_it_cannot_do_now() {
    let broker = Mosquitto::prepared("allow_anonymous true\nacl_file DIR/acl\n", |dir| {
        std::fs::write(dir.join("acl"), "topic readwrite open/#\n").unwrap();
    });
    confirmed(open(&broker.url("open/r"), json!({})).send(&message(), soon()).await);
    let receipt = open(&broker.url("closed/r"), json!({})).send(&message(), soon()).await;
    let Receipt::Refused { reason } = receipt else { panic!("{receipt:?}") };
    assert!(reason.contains("does not let the hub publish to closed/r"), "{reason}");

    let broker = Mosquitto::with("allow_anonymous true\nmax_packet_size 2000\n");
    let big = Message { body: Bytes::from(vec![b'x'; 4000]), ..message() };
    let receipt = open(&broker.url("r"), json!({})).send(&big, soon()).await;
    let Receipt::Refused { reason } = receipt else { panic!("{receipt:?}") };
    assert!(reason.ends_with("the broker takes 2000 at most"), "{reason}");

    let broker = Mosquitto::with("allow_anonymous true\nretain_available false\n");
    let receipt = open(&broker.url("r"), json!({"retain": true})).send(&message(), soon()).await;
    assert!(matches!(receipt, Receipt::Refused { .. }), "{receipt:?}");
}

/// Reads one packet; its first byte and its body.
async fn read_packet(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let kind = stream.read_u8().await.ok()?;
    let mut length = 0;
    for shift in [0, 7, 14, 21] {
        let byte = stream.read_u8().await.ok()?;
        length |= usize::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some((kind, body))
}

/// A broker that answers the log-in with `connack` and each message with `answer`.
async fn broker(connack: &'static [u8], answer: &'static [u8]) -> Partner {
    Partner::start(move |mut stream, _| async move {
        while let Some((kind, _)) = read_packet(&mut stream).await {
            let bytes = if kind >> 4 == 1 { connack } else { answer };
            if stream.write_all(bytes).await.is_err() {
                return;
            }
        }
    })
    .await
}

fn url(partner: &Partner) -> String {
    format!("mqtt://{}/r", partner.address)
}

#[tokio::test]
async fn a_broker_that_hangs_at_a_step_costs_the_attempt_its_time() {
    let short = || Instant::now() + Duration::from_millis(300);
    let silent = broker(b"", b"").await;
    let failure = failed(open(&url(&silent), json!({})).send(&message(), short()).await);
    assert_eq!(failure.stage, Stage::Auth, "{failure:?}");

    let no_puback = broker(b"\x20\x03\0\0\0", b"").await;
    let channel = open(&url(&no_puback), json!({}));
    let failure = failed(channel.send(&message(), short()).await);
    assert_eq!(failure.stage, Stage::Await, "{failure:?}");
    // Its connection is not trusted any more.
    failed(channel.send(&message(), short()).await);
    assert_eq!(no_puback.connections(), 2);
}

#[tokio::test]
async fn a_broker_that_speaks_nonsense_is_left() {
    let cases: [(&[u8], &[u8], Stage, &str); 6] = [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", Stage::Auth, "what came is not MQTT"),
        (b"\x20\x02\0\x01", b"", Stage::Auth, "the broker does not speak MQTT 5; set `protocol: 3.1.1`"),
        (b"\x20\x03\0\x85\0", b"", Stage::Auth, "the broker does not take the client id"),
        (b"\x20\x05\0\0\x02\x24\0", b"", Stage::Auth, "the broker does not take QoS 1"),
        (b"\x20\x03\0\0\0", b"\xFF\xFF\xFF\xFF\xFF\xFF", Stage::Await, "what came is not MQTT before the PUBACK"),
        (b"\x20\x03\0\0\0", b"\xE0\x01\x8E", Stage::Await, "another client logged in under the same client id"),
    ];
    for (connack, answer, stage, words) in cases {
        let failure = failed(open(&url(&broker(connack, answer).await), json!({})).send(&message(), soon()).await);
        assert_eq!(failure.stage, stage, "{failure:?}");
        assert!(failure.reason.starts_with(words), "{failure:?}");
    }
}

#[test]
fn what_does_not_fit_mqtt_is_refused() {
    let refused = |more: Value, field: &str| {
        let mut document = json!({"id": "P", "channel": "mqtt", "url": "mqtts://b.example/r"});
        document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let problem = ess_core::partner::Partner::from_json(&document).expect_err(field);
        assert_eq!(problem.field.as_deref(), Some(field), "{problem:?}");
    };
    refused(json!({"url": "mqtts://b.example"}), "url");
    refused(json!({"url": "mqtts://b.example/a/+"}), "url");
    refused(json!({"url": "mqtts://b.example/{county}"}), "url");
    refused(json!({"protocol": "4"}), "protocol");
    refused(json!({"retain": "yes"}), "retain");
    refused(json!({"client_id": ""}), "client_id");
    refused(json!({"ack": {"by": "topic"}}), "ack.topic");
    refused(json!({"ack": {"by": "topic", "topic": "a/#/b"}}), "ack.topic");
    refused(json!({"codes": {"AR": "nack"}}), "codes");

    let document = document("mqtt", "mqtts://b.example/r", json!({"protocol": "3.1.1"}));
    let open =
        |url: &str, credential| Channel::open(&document, url, credential, &dialer(&[], vec![own_root()])).unwrap_err();
    let no_user = Credential::Password { user: None, password: "x".to_owned() };
    assert!(matches!(open("mqtt://b.example/r", no_user), ChannelError::Credential(_)));
    let mtls = Credential::Mtls { cert_pem: "x".to_owned(), key_pem: "x".to_owned() };
    assert!(matches!(open("mqtt://b.example/r", mtls), ChannelError::Url(_)));
}
