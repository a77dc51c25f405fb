//! What every channel does, whatever its protocol: it delivers, comes back after its server did, ends a hanging attempt
//! with its deadline, doubles nothing, marks dry runs and tells a refusal from a failure. Each channel describes itself
//! and calls `conforms`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ess_channels::Channel;
use ess_core::id::{EventId, Version};
use ess_core::message::Message;
use ess_core::receipt::{Answer, Receipt, Said};
use tokio::time::Instant;

use crate::link::{Fault, Link, wait_until};
use crate::partner::{failed, message, soon};

/// A channel with a fresh server behind it.
pub(crate) struct Described {
    pub(crate) channel: Arc<Channel>,
    /// The way to the server; none for a channel without a socket.
    pub(crate) link: Option<Link>,
    /// What the server has, whole messages and half ones, by name.
    pub(crate) delivered: Box<dyn Fn() -> Vec<(String, Vec<u8>)>>,
    /// Makes the message one that the protocol carries.
    pub(crate) shape: fn(Message) -> Message,
    /// Makes the message one that the server takes note of and refuses; none where only a later word can refuse.
    pub(crate) refuse: Option<Refuse>,
    /// Connections that three messages take one after the other.
    pub(crate) connections: usize,
    /// After so many bytes of the server an attempt is under way, so that it can be dropped there.
    pub(crate) under_way: &'static [i64],
    /// The server, which ends when this is dropped.
    pub(crate) _server: Box<dyn std::any::Any>,
}

/// Alters a message, or what its server holds.
pub(crate) type Refuse = Box<dyn Fn(Message) -> Message>;

/// Where an attempt is frozen or cut: at this many steps over all bytes that a server says in one delivery.
const POINTS: usize = 8;
/// Long enough for an attempt that is not disturbed, on a busy machine.
const HANG: Duration = Duration::from_millis(1_500);

/// More than all buffers on the way hold.
const BODY_BYTES_LONG: usize = 3 << 20;
/// After so much of it a server reads no more.
const BYTES_HEARD: i64 = 64 << 10;

/// Runs the whole suite.
pub(crate) async fn conforms(describe: impl AsyncFn() -> Described) {
    delivers_and_marks_dry_runs(&describe().await).await;
    a_refusal_is_the_servers_word_and_no_failure(&describe().await).await;
    let described = describe().await;
    if described.link.is_some() {
        a_second_message_takes_the_same_connection(&described).await;
        a_server_that_stops_reading_costs_the_attempt_its_time(&describe().await).await;
        a_server_that_vanishes_and_comes_back_gets_the_message_once(&describe().await).await;
        a_dropped_attempt_closes_its_connection(&describe().await).await;
        a_fault_at_any_step_costs_the_attempt_and_doubles_nothing(&describe().await).await;
    }
}

impl Described {
    /// A message of its own.
    fn numbered(&self, number: u32) -> Message {
        (self.shape)(numbered(number))
    }
}

fn numbered(number: u32) -> Message {
    let body = Bytes::from(format!("{{\"id\":\"RULE-{number}-V1\",\"text\":\"{}\"}}", "x".repeat(100_000)));
    let event_id = EventId::trusted(&format!("RULE-{number}-V1"));
    Message { id: format!("msg_{number}"), event_id, version: Version(1), body, ..message() }
}

#[track_caller]
fn arrived(receipt: &Receipt) {
    let is_fine = match receipt {
        Receipt::Answer(Answer { status, .. }) => (200..300).contains(status),
        Receipt::Confirmed | Receipt::Taken | Receipt::Said(_) => true,
        Receipt::Refused { .. } | Receipt::Failed(_) => false,
    };
    assert!(is_fine, "{receipt:?}");
}

async fn check_delivered(described: &Described, messages: &[&Message]) {
    // What was taken may be noted a moment after it was said.
    wait_until("everything arrived", || (described.delivered)().len() >= messages.len()).await;
    let mut wanted: Vec<(String, Vec<u8>)> =
        messages.iter().map(|message| (message.file_name(), message.body.to_vec())).collect();
    let mut found = (described.delivered)();
    wanted.sort();
    found.sort();
    let names =
        |all: &[(String, Vec<u8>)]| all.iter().map(|(name, body)| (name.clone(), body.len())).collect::<Vec<_>>();
    assert_eq!(names(&found), names(&wanted));
    assert!(found == wanted, "other bytes arrived than were sent");
}

async fn delivers_and_marks_dry_runs(described: &Described) {
    let (real, dry_run) =
        (described.numbered(1), (described.shape)(Message { test: true, id: "test_msg_1".to_owned(), ..numbered(1) }));
    arrived(&described.channel.send(&real, soon()).await);
    arrived(&described.channel.send(&dry_run, soon()).await);
    check_delivered(described, &[&real, &dry_run]).await;
    // At-least-once: the same again is no harm.
    arrived(&described.channel.send(&Message { attempt: 2, ..real.clone() }, soon()).await);
    check_delivered(described, &[&real, &dry_run]).await;
}

async fn a_second_message_takes_the_same_connection(described: &Described) {
    let link = described.link.as_ref().unwrap();
    for number in 1..=3 {
        arrived(&described.channel.send(&described.numbered(number), soon()).await);
    }
    assert_eq!(link.accepted(), described.connections);
    described.channel.sweep();
    let kept = usize::from(described.connections == 1);
    wait_until("no other connection is open", || link.open() == kept).await;
}

async fn a_refusal_is_the_servers_word_and_no_failure(described: &Described) {
    let Some(refuse) = &described.refuse else { return };
    let refused = refuse(described.numbered(1));
    for attempt in 1..=2 {
        match described.channel.send(&Message { attempt, ..refused.clone() }, soon()).await {
            Receipt::Answer(Answer { status: 400..=499, .. }) | Receipt::Said(Said::Nack { .. }) => {}
            Receipt::Refused { reason } => assert!(!reason.is_empty()),
            other => panic!("no refusal: {other:?}"),
        }
    }
    // It is about that message, and nothing else waits for it.
    arrived(&described.channel.send(&described.numbered(2), soon()).await);
}

async fn a_server_that_stops_reading_costs_the_attempt_its_time(described: &Described) {
    let link = described.link.as_ref().unwrap();
    link.set(Fault::DeafAfter(BYTES_HEARD));
    let body = Bytes::from(format!("{{\"text\":\"{}\"}}", "x".repeat(BODY_BYTES_LONG)));
    let message = (described.shape)(Message { body, ..numbered(1) });
    let began = Instant::now();
    let failure = failed(described.channel.send(&message, began + HANG).await);
    assert!(began.elapsed() < HANG + Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(failure.reason.contains("timed out"), "{failure:?}");
    link.set(Fault::Down);
    wait_until("the connection is closed", || link.open() == 0).await;
    link.set(Fault::None);
    arrived(&described.channel.send(&described.numbered(2), soon()).await);
}

async fn a_server_that_vanishes_and_comes_back_gets_the_message_once(described: &Described) {
    let link = described.link.as_ref().unwrap();
    arrived(&described.channel.send(&described.numbered(1), soon()).await);
    link.set(Fault::Down);
    for attempt in 1..=3 {
        failed(described.channel.send(&Message { attempt, ..described.numbered(2) }, soon()).await);
    }
    link.set(Fault::None);
    arrived(&described.channel.send(&Message { attempt: 4, ..described.numbered(2) }, soon()).await);
    check_delivered(described, &[&described.numbered(1), &described.numbered(2)]).await;
}

async fn a_dropped_attempt_closes_its_connection(described: &Described) {
    let link = described.link.as_ref().unwrap();
    for bytes in described.under_way {
        link.set(Fault::FreezeAfter(*bytes));
        {
            let message = described.numbered(1);
            let mut sending = std::pin::pin!(described.channel.send(&message, soon()));
            let waited = wait_until("the attempt has connected", || link.open() > 0);
            tokio::select! {
                receipt = &mut sending => panic!("{receipt:?}"),
                () = waited => {}
            }
        }
        wait_until("the connection is closed", || link.open() == 0).await;
    }
}

async fn a_fault_at_any_step_costs_the_attempt_and_doubles_nothing(described: &Described) {
    let link = described.link.as_ref().unwrap();
    arrived(&described.channel.send(&described.numbered(1), soon()).await);
    let whole = link.bytes_said();
    let mut sent = vec![described.numbered(1)];
    let mut failures = 0;
    for point in 0..POINTS {
        let bytes = i64::try_from(whole * point / POINTS).unwrap();
        for fault in [Fault::FreezeAfter(bytes), Fault::CutAfter(bytes)] {
            // No kept connection: each fault meets a whole delivery.
            link.set(Fault::Down);
            wait_until("every connection is closed", || link.open() == 0).await;
            link.set(fault);
            let message = described.numbered(u32::try_from(sent.len()).unwrap() + 1);
            let began = Instant::now();
            let receipt = described.channel.send(&message, began + HANG).await;
            assert!(began.elapsed() < HANG + Duration::from_secs(5), "{fault:?}: {:?}", began.elapsed());
            failures += usize::from(matches!(receipt, Receipt::Failed(_)));
            if let Some((name, body)) = (described.delivered)().iter().find(|(name, _)| *name == message.file_name()) {
                assert!(body.len() == message.body.len(), "{fault:?}: {name} has {} bytes", body.len());
            }
            link.set(Fault::None);
            arrived(&described.channel.send(&Message { attempt: 2, ..message.clone() }, soon()).await);
            sent.push(message);
            check_delivered(described, &sent.iter().collect::<Vec<_>>()).await;
        }
    }
    assert!(failures >= POINTS, "only {failures} faults were felt");
}
