//! The webhook channel with partners that behave.

use std::time::Duration;

use bytes::Bytes;
use ess_channels::{Channel, Credential, Dialer, DialerOptions};
use ess_core::id::{Digest, EventId, Subject, Version};
use ess_core::message::Message;
use ess_core::partner::{AllowNet, ChannelKind};
use ess_core::receipt::{Answer, Failure, Receipt};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::partner::{Partner, read_request};

#[tokio::test]
async fn a_connection_is_used_again() {
    let partner = Partner::start(async |mut stream, _| {
        while let Some(request) = read_request(&mut stream).await {
            assert!(request.head.starts_with("POST /hook HTTP/1.1\r\n"), "{}", request.head);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        }
    })
    .await;
    let channel = channel(&partner.url(), Credential::None);
    for _ in 0..10 {
        let answer = answered(channel.send(&message(), soon()).await);
        assert_eq!((answer.status, &answer.body[..]), (200, &b"ok"[..]));
    }
    assert_eq!(partner.connections(), 1);
}

pub(crate) fn dialer(allow: &[&str]) -> Dialer {
    Dialer::new(DialerOptions {
        allow: AllowNet(allow.iter().map(|net| net.parse().unwrap()).collect()),
        extra_roots_pem: Vec::new(),
        system_roots: false,
        user_agent: "hms-ess/test".to_owned(),
        proxy: None,
    })
    .unwrap()
}

pub(crate) fn channel(url: &str, credential: Credential) -> Channel {
    Channel::open(ChannelKind::Webhook, url, credential, &dialer(&["127.0.0.0/8"]), 16).unwrap()
}

pub(crate) fn message() -> Message {
    Message {
        id: "msg_1".to_owned(),
        event_id: EventId::trusted("RULE-1-V3"),
        subject: Subject::trusted("RULE-1"),
        version: Version(3),
        extension: "json",
        content_type: "application/json".to_owned(),
        headers: vec![("webhook-id".to_owned(), "msg_1".to_owned())],
        body: Bytes::from_static(b"{\"id\":\"RULE-1-V3\"}"),
        body_digest: Digest([0; 32]),
        test: false,
    }
}

pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

#[track_caller]
pub(crate) fn answered(receipt: Receipt) -> Answer {
    match receipt {
        Receipt::Answer(answer) => answer,
        Receipt::Failed(failure) => panic!("no answer: {failure:?}"),
    }
}

#[track_caller]
pub(crate) fn failed(receipt: Receipt) -> Failure {
    match receipt {
        Receipt::Failed(failure) => failure,
        Receipt::Answer(answer) => panic!("an answer: {answer:?}"),
    }
}
