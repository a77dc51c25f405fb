//! Drops in a directory: whole or not there, never over another file, and receipts that come as files.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ess_channels::{Awaited, Channel, ChannelError, Credential, Heard, Reach};
use ess_core::id::EventId;
use ess_core::message::Message;
use ess_core::receipt::{Evidence, Receipt, Said, Stage};
use rustix::fs::{FileType, Mode};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::conformance::{Described, conforms};
use crate::hanging_share::HangingShare;
use crate::partner::{dialer_with_dir, dialer_with_dirs, document, failed, message, soon};
use crate::sshd::Sshd;

/// A directory that the operator allowed, with a channel into it.
struct Share {
    dir: tempfile::TempDir,
    channel: Channel,
}

fn open(url: &str, allowed: &Path, more: serde_json::Value) -> Result<Channel, ChannelError> {
    let partner = document("file", "file:///mnt/court", more);
    Channel::open(&partner, url, Credential::None, &dialer_with_dir(allowed))
}

fn share(more: serde_json::Value) -> Share {
    let dir = tempfile::tempdir().unwrap();
    let channel = open(&format!("file://{}", dir.path().display()), dir.path(), more).unwrap();
    Share { dir, channel }
}

impl Share {
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn write(&self, name: &str, content: &str) {
        std::fs::write(self.dir.path().join(name), content).unwrap();
    }

    async fn look(&self, awaited: &Awaited) -> Vec<Heard> {
        self.channel.look(std::slice::from_ref(awaited), soon()).await.unwrap()
    }
}

fn awaited(message: &Message) -> Awaited {
    Awaited { event: message.event_id.clone(), version: message.version, test: message.test }
}

#[tokio::test]
async fn a_probe_says_whether_the_directory_is_there_and_leaves_nothing_in_it() {
    let share = share(serde_json::json!({}));
    let url = format!("file://{}", share.dir.path().display());
    let partner = document("file", "file:///mnt/court", serde_json::json!({}));
    let dialer = dialer_with_dir(share.dir.path());
    assert_eq!(share.channel.probe(&partner, &url, &dialer, soon()).await, Ok(Reach::Directory));
    assert_eq!(share.names(), Vec::<String>::new());
    std::fs::remove_dir(share.dir.path()).unwrap();
    let failure = share.channel.probe(&partner, &url, &dialer, soon()).await.unwrap_err();
    assert!(failure.reason.contains("is the share mounted?"), "{}", failure.reason);
}

#[tokio::test]
async fn file_does_what_every_channel_does() {
    conforms(async || {
        let Share { dir, channel } = share(serde_json::json!({}));
        let inbox = dir.path().to_owned();
        let there = inbox.clone();
        let delivered = Box::new(move || Sshd::delivered(&inbox));
        Described {
            channel: Arc::new(channel),
            link: None,
            delivered,
            shape: |message| message,
            refuse: Some(Box::new(move |message| {
                std::fs::write(there.join(message.file_name()), "the partner's own").unwrap();
                message
            })),
            connections: 0,
            under_way: &[0, 600],
            _server: Box::new(dir),
        }
    })
    .await;
}

#[tokio::test]
async fn a_drop_stands_whole_under_its_name_and_nothing_else_is_left() {
    let share = share(serde_json::json!({}));
    share.write("RULE-1-V3.v3.json.1.part", "half of an attempt before");
    let message = Message { attempt: 2, ..message() };
    assert!(matches!(share.channel.send(&message, soon()).await, Receipt::Confirmed));
    assert_eq!(share.names(), ["RULE-1-V3.v3.json"]);
    assert_eq!(std::fs::read(share.dir.path().join("RULE-1-V3.v3.json")).unwrap(), message.body);
}

#[tokio::test]
async fn the_same_drop_again_is_no_second_one_and_another_file_is_left_alone() {
    let share = share(serde_json::json!({}));
    share.channel.send(&message(), soon()).await;
    assert!(matches!(share.channel.send(&message(), soon()).await, Receipt::Confirmed));
    share.write("RULE-1-V3.v3.json", "the partner's own");
    let Receipt::Refused { reason } = share.channel.send(&message(), soon()).await else { panic!("not refused") };
    assert!(reason.contains("RULE-1-V3.v3.json"), "{reason}");
    assert_eq!(std::fs::read_to_string(share.dir.path().join("RULE-1-V3.v3.json")).unwrap(), "the partner's own");
    assert_eq!(share.names().len(), 1);
    // Who replays an event wants it in the place of the last.
    assert!(matches!(share.channel.send(&Message { replay: true, ..message() }, soon()).await, Receipt::Confirmed));
    assert_eq!(std::fs::read(share.dir.path().join("RULE-1-V3.v3.json")).unwrap(), message().body);
}

#[tokio::test]
async fn a_link_in_the_way_is_not_followed() {
    let share = share(serde_json::json!({}));
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret");
    std::fs::write(&secret, "untouched").unwrap();
    for name in ["RULE-1-V3.v3.json.1.part", "RULE-1-V3.v3.json"] {
        std::os::unix::fs::symlink(&secret, share.dir.path().join(name)).unwrap();
    }
    assert!(matches!(share.channel.send(&message(), soon()).await, Receipt::Refused { .. }));
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), "untouched");
}

#[tokio::test]
async fn only_what_the_operator_allowed_is_written_to() {
    let allowed = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let url = |dir: &Path| format!("file://{}", dir.display());
    for wrong in [url(other.path()), format!("{}/%2e%2e/x", url(allowed.path())), "file://host/x".to_owned()] {
        assert!(open(&wrong, allowed.path(), serde_json::json!({})).is_err(), "{wrong}");
    }
    let error = open(&url(other.path()), allowed.path(), serde_json::json!({})).unwrap_err();
    assert!(error.to_string().contains("--allow-dir"), "{error}");
    // A link that leads out is found when it is used.
    std::os::unix::fs::symlink(other.path(), allowed.path().join("out")).unwrap();
    let channel = open(&format!("{}/out", url(allowed.path())), allowed.path(), serde_json::json!({})).unwrap();
    let failure = failed(channel.send(&message(), soon()).await);
    assert!(failure.reason.contains("--allow-dir"), "{failure:?}");
    assert_eq!(std::fs::read_dir(other.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_share_that_is_not_mounted_is_worth_another_attempt() {
    let allowed = tempfile::tempdir().unwrap();
    let url = format!("file://{}/inbox", allowed.path().display());
    let channel = open(&url, allowed.path(), serde_json::json!({})).unwrap();
    let failure = failed(channel.send(&message(), soon()).await);
    assert!(failure.reason.contains("is the share mounted?"), "{failure:?}");
    std::fs::create_dir(allowed.path().join("inbox")).unwrap();
    assert!(matches!(channel.send(&message(), soon()).await, Receipt::Confirmed));
}

#[tokio::test]
async fn a_receipt_file_is_heard_once_it_rests_and_goes_when_it_is_settled() {
    let share = share(serde_json::json!({"ack": {"pattern": "done/{id}.ack"}}));
    let one = awaited(&message());
    assert_eq!(share.look(&one).await, []);
    std::fs::create_dir(share.dir.path().join("done")).unwrap();
    share.write("done/RULE-1-V3.ack", "");
    // Empty it may still be written: a NACK may follow.
    assert_eq!(share.look(&one).await, []);
    let ack = Heard { event: EventId::trusted("RULE-1-V3"), test: false, said: Said::Ack, evidence: Evidence::File };
    assert_eq!(share.look(&one).await, [ack]);
    share.channel.settle(&one, soon()).await.unwrap();
    assert_eq!(std::fs::read_dir(share.dir.path().join("done")).unwrap().count(), 0);
    // A whole document needs no second look.
    share.write("done/RULE-1-V3.ack", r#"{"nack": "RULE-1-V3", "reason": "unknown county"}"#);
    let said = Said::Nack { reason: "unknown county".to_owned() };
    assert_eq!(share.look(&one).await.into_iter().map(|heard| heard.said).collect::<Vec<_>>(), [said]);
    // One that speaks of another event counts for nothing.
    share.write("done/RULE-1-V3.ack", r#"{"ack": "RULE-1-V2"}"#);
    assert_eq!(share.look(&one).await, []);
    assert_eq!(share.look(&one).await, []);
}

#[tokio::test]
async fn a_dry_run_and_its_receipt_carry_the_mark() {
    let share = share(serde_json::json!({"ack": {"by": "file"}}));
    let dry_run = Message { test: true, ..message() };
    share.channel.send(&dry_run, soon()).await;
    assert_eq!(share.names(), ["test_RULE-1-V3.v3.json"]);
    share.write("RULE-1-V3.ack", r#"{"ack": "RULE-1-V3"}"#);
    assert_eq!(share.look(&awaited(&dry_run)).await, []);
    share.write("test_RULE-1-V3.ack", r#"{"ack": "RULE-1-V3"}"#);
    assert!(share.look(&awaited(&dry_run)).await[0].test);
}

#[tokio::test]
async fn an_old_receipt_does_not_count_for_a_replay() {
    let share = share(serde_json::json!({"ack": {"by": "file"}}));
    share.write("RULE-1-V3.ack", r#"{"ack": "RULE-1-V3"}"#);
    share.channel.send(&Message { replay: true, ..message() }, soon()).await;
    assert_eq!(share.look(&awaited(&message())).await, []);
}

#[tokio::test]
async fn a_pipe_in_the_way_is_not_opened() {
    // Whoever opens a pipe that nobody reads hangs.
    let share = share(serde_json::json!({"ack": {"by": "file"}}));
    for name in ["RULE-1-V3.v3.json", "RULE-1-V3.ack"] {
        let path = share.dir.path().join(name);
        rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    }
    assert!(matches!(share.channel.send(&message(), soon()).await, Receipt::Refused { .. }));
    assert_eq!(share.look(&awaited(&message())).await, []);
}

#[tokio::test]
async fn a_directory_that_hangs_holds_a_bounded_number_of_threads_and_nobody_else() {
    let (mounted, well) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let inbox = mounted.path().join("inbox");
    std::fs::create_dir(&inbox).unwrap();
    // The one that hangs is allowed first: it must not be looked at on the way to the other.
    let dialer = dialer_with_dirs(&[&inbox, well.path()]);
    let into = |dir: &Path| {
        let url = format!("file://{}", dir.display());
        let partner = document("file", &url, serde_json::json!({"limits": {"in_flight": 16}}));
        Arc::new(Channel::open(&partner, &url, Credential::None, &dialer).unwrap())
    };
    let Some(share) = HangingShare::over(mounted.path()) else { return };
    // Attempts of so many partners in one share, so many each; and then those of one round more.
    let mut threads = 0;
    for (partners, threads_max) in [(1, 4), (10, 32)] {
        let mut attempts = JoinSet::new();
        for channel in (0..partners).map(|_| into(&inbox)) {
            for number in 0..8 {
                let (channel, deadline) = (Arc::clone(&channel), Instant::now() + Duration::from_millis(1_500));
                let message = Message { event_id: EventId::trusted(&format!("E-{number}")), ..message() };
                attempts.spawn(async move { failed(channel.send(&message, deadline).await) });
            }
        }
        let beside = into(well.path());
        for number in 0..16 {
            let message = Message { event_id: EventId::trusted(&format!("{partners}-{number}")), ..message() };
            let receipt = beside.send(&message, soon()).await;
            assert!(matches!(receipt, Receipt::Confirmed), "{receipt:?}");
        }
        let failures = attempts.join_all().await;
        assert!(failures.iter().all(|failure| failure.reason.contains("timed out")), "{failures:?}");
        // An attempt that got no thread never began to send.
        threads += failures.iter().filter(|failure| failure.stage == Stage::Send).count();
        assert_eq!(threads, threads_max, "{failures:?}");
    }
    let after = into(&inbox);
    let failure = failed(after.send(&message(), Instant::now() + Duration::from_millis(500)).await);
    assert_eq!(failure.stage, Stage::Connect, "it got a thread more: {failure:?}");
    drop(share);
    // The threads came back, and nothing of what was given up is there.
    assert!(matches!(after.send(&message(), soon()).await, Receipt::Confirmed));
    assert_eq!(std::fs::read_dir(&inbox).unwrap().count(), 1);
}
