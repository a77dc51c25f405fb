//! Drops on OpenSSH's server: the host's key, both ways to log in, collisions, receipts, and links that are cut.

use ess_channels::{Awaited, Channel, Credential, Heard};
use ess_core::message::Message;
use ess_core::receipt::{Evidence, Receipt, Said, Stage};
use serde_json::{Value, json};

use crate::conformance::{Described, conforms};
use crate::link::Link;
use crate::partner::{dialer_with_dir, document, failed, message, soon};
use crate::sshd::{Sshd, SystemUser};

fn open(sshd: &Sshd, address: std::net::SocketAddr, credential: Credential, more: Value) -> Channel {
    let url = format!("sftp://{address}{}", sshd.inbox.display());
    let partner = document("sftp", &url, more);
    Channel::open(&partner, &url, credential, &dialer_with_dir(&sshd.inbox)).unwrap()
}

fn pinned(sshd: &Sshd) -> Value {
    json!({"host_key": sshd.host_key})
}

fn content(sshd: &Sshd, name: &str) -> Vec<u8> {
    std::fs::read(sshd.inbox.join(name)).unwrap()
}

#[tokio::test]
async fn sftp_does_what_every_channel_does() {
    conforms(async || {
        let sshd = Sshd::start().await;
        let link = Link::to(sshd.address).await;
        let channel = open(&sshd, link.address, sshd.key(), pinned(&sshd));
        let inbox = sshd.inbox.clone();
        let there = inbox.clone();
        let delivered = Box::new(move || Sshd::delivered(&inbox));
        Described {
            channel: channel.into(),
            link: Some(link),
            delivered,
            shape: |message| message,
            refuse: Some(Box::new(move |message| {
                std::fs::write(there.join(message.file_name()), "the partner's own").unwrap();
                message
            })),
            connections: 1,
            under_way: &[0, 600],
            _server: Box::new(sshd),
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_without_rename_gets_the_file_under_its_own_name() {
    let sshd = Sshd::start().await;
    let channel = open(&sshd, sshd.address, sshd.key(), json!({"host_key": sshd.host_key, "write": "once"}));
    // An attempt before was cut in the middle.
    std::fs::write(sshd.inbox.join("RULE-1-V3.v3.json"), &message().body[..7]).unwrap();
    for attempt in [2, 3] {
        let receipt = channel.send(&Message { attempt, ..message() }, soon()).await;
        assert!(matches!(receipt, Receipt::Confirmed), "{receipt:?}");
        assert_eq!(content(&sshd, "RULE-1-V3.v3.json"), message().body);
    }
    std::fs::write(sshd.inbox.join("RULE-1-V3.v3.json"), "the partner's own").unwrap();
    assert!(matches!(channel.send(&message(), soon()).await, Receipt::Refused { .. }));
}

#[tokio::test]
async fn a_host_that_is_not_pinned_gets_nothing_and_its_key_is_shown() {
    let sshd = Sshd::start().await;
    let failure = failed(open(&sshd, sshd.address, sshd.key(), json!({})).send(&message(), soon()).await);
    assert_eq!(failure.stage, Stage::Auth);
    assert!(failure.reason.contains(&format!("host_key: \"{}\"", sshd.host_key)), "{failure:?}");
    assert!(failure.reason.contains("SHA256:"), "{failure:?}");
    let fingerprint = failure.reason.split_whitespace().find(|word| word.starts_with("SHA256:")).unwrap();
    let by_fingerprint = json!({"host_key": fingerprint.trim_end_matches(';')});
    let receipt = open(&sshd, sshd.address, sshd.key(), by_fingerprint).send(&message(), soon()).await;
    assert!(matches!(receipt, Receipt::Confirmed), "{receipt:?}");
}

#[tokio::test]
async fn another_host_key_than_the_pinned_one_is_refused() {
    let (sshd, other) = (Sshd::start().await, Sshd::start().await);
    let failure = failed(open(&sshd, sshd.address, sshd.key(), pinned(&other)).send(&message(), soon()).await);
    assert!(failure.reason.contains("another than the pinned one"), "{failure:?}");
    assert!(Sshd::delivered(&sshd.inbox).is_empty());
    // While a key is changed both are pinned.
    let both = json!({"host_key": [other.host_key, sshd.host_key]});
    let receipt = open(&sshd, sshd.address, sshd.key(), both).send(&message(), soon()).await;
    assert!(matches!(receipt, Receipt::Confirmed), "{receipt:?}");
}

#[tokio::test]
async fn a_password_lets_the_hub_in_and_a_wrong_one_does_not() {
    let Some(user) = SystemUser::add() else { return };
    let sshd = Sshd::start().await;
    let login = |password: &str| Credential::Password { user: Some(user.name.clone()), password: password.to_owned() };
    let receipt = open(&sshd, sshd.address, login(&user.password), pinned(&sshd)).send(&message(), soon()).await;
    assert!(matches!(receipt, Receipt::Confirmed), "{receipt:?}");
    assert_eq!(content(&sshd, "RULE-1-V3.v3.json"), message().body);
    let failure = failed(open(&sshd, sshd.address, login("wrong"), pinned(&sshd)).send(&message(), soon()).await);
    assert_eq!(failure.stage, Stage::Auth);
    assert!(failure.reason.contains("does not take the password") && !failure.reason.contains("wrong"), "{failure:?}");
}

#[tokio::test]
async fn another_file_of_the_name_is_left_alone_and_a_replay_takes_its_place() {
    let sshd = Sshd::start().await;
    let channel = open(&sshd, sshd.address, sshd.key(), pinned(&sshd));
    std::fs::write(sshd.inbox.join("RULE-1-V3.v3.json"), "the partner's own").unwrap();
    let receipt = channel.send(&message(), soon()).await;
    assert!(matches!(&receipt, Receipt::Refused { reason } if reason.contains("RULE-1-V3.v3.json")), "{receipt:?}");
    assert_eq!(content(&sshd, "RULE-1-V3.v3.json"), b"the partner's own");
    assert_eq!(Sshd::delivered(&sshd.inbox).len(), 1);
    let receipt = channel.send(&Message { replay: true, ..message() }, soon()).await;
    assert!(matches!(receipt, Receipt::Confirmed), "{receipt:?}");
    assert_eq!(content(&sshd, "RULE-1-V3.v3.json"), message().body);
}

#[tokio::test]
async fn receipt_files_are_heard_asked_for_singly_and_in_a_list() {
    let sshd = Sshd::start().await;
    let more = json!({"host_key": sshd.host_key, "ack": {"pattern": "done/{id}.ack"}});
    let channel = open(&sshd, sshd.address, sshd.key(), more);
    let awaited = |number: u32| Awaited {
        event: ess_core::id::EventId::trusted(&format!("RULE-{number}-V1")),
        version: ess_core::id::Version(1),
        test: false,
    };
    for count in [1, 40] {
        let all: Vec<Awaited> = (1..=count).map(awaited).collect();
        assert_eq!(channel.look(&all, soon()).await.unwrap(), []);
    }
    std::fs::create_dir(sshd.inbox.join("done")).unwrap();
    std::fs::write(sshd.inbox.join("done/RULE-1-V1.ack"), r#"{"nack":"RULE-1-V1","reason":"no"}"#).unwrap();
    let said = Said::Nack { reason: "no".to_owned() };
    let nack = Heard { event: awaited(1).event, test: false, said, evidence: Evidence::File };
    for count in [1, 40] {
        let all: Vec<Awaited> = (1..=count).map(awaited).collect();
        assert_eq!(channel.look(&all, soon()).await.unwrap(), std::slice::from_ref(&nack));
    }
    channel.settle(&awaited(1), soon()).await.unwrap();
    assert_eq!(std::fs::read_dir(sshd.inbox.join("done")).unwrap().count(), 0);
}
