//! Outcomes of deliveries: what is recorded is what is read back.

use std::time::Duration;

use ess_core::delivery::{DeliveryKey, State};
use ess_core::id::{Digest, PartnerNo, Seq, Subject, Version};
use ess_core::lane::OpenState;
use ess_core::receipt::Evidence;
use ess_core::time::Time;
use ess_store::{Change, Options, StoreError, StoredDelivery, Word};

use crate::support::{FIRST, Open, acked, acked_late, audience, delivery, event, key, open, open_with, tried};

fn ended(key: DeliveryKey, state: State) -> Change {
    Change::Ended {
        open: delivery(key, OpenState::Retrying),
        state,
        at: Time::from_micros(30),
        reason: "given up".to_owned(),
        evidence: (state == State::Nack).then_some(Evidence::Callback),
        tried: Some(tried(3)),
    }
}

async fn deliveries(open: &Open, seq: Seq) -> Vec<StoredDelivery> {
    open.store.deliveries_of_event(seq).await.unwrap()
}

async fn states(open: &Open, seq: Seq) -> Vec<State> {
    deliveries(open, seq).await.iter().map(|delivery| delivery.state).collect()
}

#[tokio::test]
async fn what_has_no_row_is_pending_and_what_has_is_what_it_says() {
    let open = open();
    open.add_partners(6).await;
    let seq = open.publish("A-1", 6).await;
    assert_eq!(states(&open, seq).await, [State::Pending; 6]);
    open.record(vec![
        acked(key(seq, 1)),
        Change::AttemptFailed { open: delivery(key(seq, 2), OpenState::Retrying), tried: tried(1) },
        Change::Opened(delivery(key(seq, 3), OpenState::Blocked)),
        ended(key(seq, 4), State::Dead),
        ended(key(seq, 5), State::Nack),
    ])
    .await;
    let open = open.reopen().await;
    let expected = [State::Acked, State::Retrying, State::Blocked, State::Dead, State::Nack, State::Pending];
    assert_eq!(states(&open, seq).await, expected);
    let found = deliveries(&open, seq).await;
    let (acked, failed, nack) = (&found[0], &found[1], &found[4]);
    assert_eq!((acked.ended_at, acked.evidence), (Some(Time::from_micros(9)), Some(Evidence::Body)));
    assert_eq!((acked.body_digest, acked.version), (Some(Digest([5; 32])), Some(Version(1))));
    assert_eq!((failed.attempts_made, failed.due_at), (2, Some(Time::from_micros(20))));
    assert_eq!(failed.attempts.len(), 1);
    assert_eq!((failed.attempts[0].status, failed.attempts[0].outcome.as_str()), (Some(503), "failed"));
    assert_eq!((nack.evidence, nack.reason.as_deref()), (Some(Evidence::Callback), Some("given up")));
}

#[tokio::test]
async fn an_open_delivery_is_read_back_field_by_field() {
    let open = open();
    open.add_partners(1).await;
    let seq = open.publish("A-1", 1).await;
    for state in [OpenState::Pending, OpenState::Retrying, OpenState::AwaitingAck, OpenState::Blocked] {
        let mut expected = delivery(key(seq, 1), state);
        if state == OpenState::Blocked {
            (expected.sent, expected.due_at, expected.message_uuid) = (None, None, None);
        }
        open.record(vec![Change::Opened(expected.clone())]).await;
        let found = open.store.open_deliveries(PartnerNo(1), (Seq(0), 0), 10).await.unwrap();
        assert_eq!(format!("{found:?}"), format!("{:?}", [expected]));
    }
}

#[tokio::test]
async fn a_late_ack_closes_a_dead_letter() {
    let open = open();
    open.add_partners(2).await;
    let seq = open.publish("A-1", 2).await;
    open.record(vec![ended(key(seq, 1), State::Dead), ended(key(seq, 2), State::Nack)]).await;
    open.record(vec![acked_late(key(seq, 1)), acked_late(key(seq, 2))]).await;
    assert_eq!(states(&open, seq).await, [State::Acked; 2]);
    assert!(open.store.dead_letters(None, None, FIRST, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_ack_that_is_said_twice_counts_once() {
    let open = open();
    open.add_partners(1).await;
    let seq = open.publish("A-1", 1).await;
    // In one commit, and in the next.
    open.record(vec![acked_late(key(seq, 1)), acked_late(key(seq, 1))]).await;
    open.record(vec![acked_late(key(seq, 1))]).await;
    assert_eq!(open.store.ledger(0, 10).await.unwrap().len(), 1);
}

/// Every way to say four things of a delivery: to one partner's in one commit, to the other's in four.
#[tokio::test]
async fn what_one_commit_says_of_a_delivery_is_what_several_would() {
    const WORDS: usize = 5;
    let word = |which: usize, key: DeliveryKey| match which % WORDS {
        0 => Change::Opened(delivery(key, OpenState::Blocked)),
        1 => Change::AttemptFailed { open: delivery(key, OpenState::Retrying), tried: tried(1) },
        2 => ended(key, State::Dead),
        3 => Change::Reopened(delivery(key, OpenState::Pending)),
        _ => acked_late(key),
    };
    let open = open();
    open.add_partners(2).await;
    let mut seqs = Vec::new();
    for number in 0..WORDS.pow(4) {
        seqs.push(open.publish(&format!("A-{number}"), 2).await);
    }
    let said = |number: usize, at: u32| number / WORDS.pow(at);
    let at_once = seqs.iter().enumerate().flat_map(|(number, seq)| (0..4).map(move |at| (number, *seq, at)));
    open.record(at_once.map(|(number, seq, at)| word(said(number, at), key(seq, 1))).collect()).await;
    for at in 0..4 {
        let one_each = seqs.iter().enumerate().map(|(number, seq)| word(said(number, at), key(*seq, 2)));
        open.record(one_each.collect()).await;
    }
    for (number, seq) in seqs.iter().enumerate() {
        let mut found = deliveries(&open, *seq).await;
        found[1].key.partner = PartnerNo(1);
        assert_eq!(format!("{:?}", found[0]), format!("{:?}", found[1]), "sequence {number}");
    }
    let (size, _) = open.store.ledger_head().await.unwrap();
    let receipts = |partner| {
        let store = open.store.clone();
        async move {
            let lines = store.ledger(0, 10_000).await.unwrap();
            lines.iter().filter(|line| line.entry.partner == PartnerNo(partner)).count() as u64
        }
    };
    let (at_once, by_and_by) = (receipts(1).await, receipts(2).await);
    assert_eq!(at_once, by_and_by);
    assert_eq!(at_once + by_and_by, size);
}

#[tokio::test]
async fn a_dead_letter_that_is_redriven_is_open_again_and_can_end_again() {
    let open = open();
    open.add_partners(1).await;
    let seq = open.publish("A-1", 1).await;
    open.record(vec![ended(key(seq, 1), State::Dead)]).await;
    open.record(vec![Change::Reopened(delivery(key(seq, 1), OpenState::Pending))]).await;
    assert_eq!(states(&open, seq).await, [State::Pending]);
    assert!(open.store.dead_letters(None, None, FIRST, 10).await.unwrap().is_empty());
    open.record(vec![acked_late(key(seq, 1))]).await;
    assert_eq!(states(&open, seq).await, [State::Acked]);
    assert!(open.store.open_deliveries(PartnerNo(1), (Seq(0), 0), 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_replay_is_a_delivery_of_its_own_also_to_a_partner_that_was_not_meant() {
    let open = open();
    open.add_partners(2).await;
    let seq = open.publish("A-1", 1).await;
    let replay = DeliveryKey { round: 1, ..key(seq, 2) };
    open.record(vec![acked(key(seq, 1)), Change::Opened(delivery(replay, OpenState::Pending))]).await;
    assert_eq!(states(&open, seq).await, [State::Acked, State::Pending]);
    open.record(vec![acked_late(replay)]).await;
    let found = deliveries(&open, seq).await;
    assert_eq!((found[1].key, found[1].state), (replay, State::Acked));
}

#[tokio::test]
async fn dead_letters_are_listed_by_partner_and_event_in_pages_without_dry_runs() {
    let open = open();
    open.add_partners(3).await;
    let mut seqs = Vec::new();
    for number in 1..=3 {
        seqs.push(open.publish(&format!("A-{number}"), 3).await);
    }
    for seq in &seqs {
        let changes = vec![
            ended(key(*seq, 1), State::Dead),
            ended(key(*seq, 2), State::Superseded),
            ended(key(*seq, 3), State::Nack),
        ];
        open.record(changes).await;
    }
    let mut test = delivery(DeliveryKey { round: 1, ..key(seqs[0], 1) }, OpenState::Retrying);
    test.test = true;
    let dry_run = Change::Ended {
        open: test,
        state: State::Dead,
        at: Time::from_micros(1),
        reason: String::new(),
        evidence: None,
        tried: None,
    };
    open.record(vec![dry_run]).await;
    let list = |partner: Option<u32>, event: Option<Seq>, after: DeliveryKey, limit: usize| {
        let store = open.store.clone();
        async move {
            let found = store.dead_letters(partner.map(PartnerNo), event, after, limit).await.unwrap();
            found.iter().map(|letter| (letter.key.seq.0, letter.key.partner.0)).collect::<Vec<_>>()
        }
    };
    assert_eq!(list(None, None, FIRST, 10).await, [(1, 1), (1, 3), (2, 1), (2, 3), (3, 1), (3, 3)]);
    assert_eq!(list(None, None, key(seqs[0], 1), 2).await, [(1, 3), (2, 1)]);
    assert_eq!(list(Some(3), None, FIRST, 2).await, [(1, 3), (2, 3)]);
    assert_eq!(list(Some(3), None, key(seqs[1], 3), 2).await, [(3, 3)]);
    assert_eq!(list(None, Some(seqs[1]), FIRST, 10).await, [(2, 1), (2, 3)]);
    assert_eq!(list(Some(1), Some(seqs[1]), FIRST, 10).await, [(2, 1)]);
    assert_eq!(list(Some(2), None, FIRST, 10).await, []);
}

#[tokio::test]
async fn open_deliveries_are_listed_oldest_first_and_by_line() {
    let open = open();
    open.add_partners(2).await;
    let mut changes = Vec::new();
    for number in 1..=4u64 {
        let seq = open.publish(&format!("A-{number}"), 2).await;
        let mut other = delivery(key(seq, 2), OpenState::Retrying);
        other.test = number == 2;
        changes.push(Change::Opened(other));
        let mut own = delivery(key(seq, 1), OpenState::AwaitingAck);
        own.subject = Subject::trusted(if number % 2 == 0 { "even" } else { "odd" });
        changes.push(Change::Opened(own));
    }
    open.record(changes).await;
    let places = |found: Vec<StoredDelivery>| -> Vec<(u64, u32)> {
        found.iter().map(|open| (open.key.seq.0, open.key.partner.0)).collect()
    };
    let all = open.store.open_everywhere(FIRST, 5).await.unwrap();
    assert_eq!(places(all), [(1, 1), (1, 2), (2, 1), (3, 1), (3, 2)], "dry runs are left out");
    let rest = open.store.open_everywhere(key(Seq(3), 2), 5).await.unwrap();
    assert_eq!(places(rest), [(4, 1), (4, 2)]);
    let line = open.store.open_of_subject(PartnerNo(1), &Subject::trusted("odd"), false, 10).await.unwrap();
    assert_eq!(line.iter().map(|open| open.key.seq.0).collect::<Vec<_>>(), [1, 3]);
    let page = open.store.open_deliveries(PartnerNo(1), (Seq(1), 0), 2).await.unwrap();
    assert_eq!(page.iter().map(|open| open.key.seq.0).collect::<Vec<_>>(), [2, 3]);
}

#[tokio::test]
async fn a_newer_acknowledged_event_of_the_subject_is_found() {
    let open = open();
    open.add_partners(2).await;
    for id in ["A-1", "B-1", "A-2", "A-3"] {
        open.publish(id, 2).await;
    }
    open.record(vec![acked(key(Seq(1), 1)), acked(key(Seq(3), 1)), acked(key(Seq(4), 2))]).await;
    let newer = |partner: u32, seq: u64| {
        let store = open.store.clone();
        async move { store.acked_after_of_subject(PartnerNo(partner), &Subject::trusted("A"), Seq(seq)).await.unwrap() }
    };
    assert_eq!(newer(1, 1).await, Some(Seq(3)));
    assert_eq!(newer(1, 3).await, None);
    assert_eq!(newer(2, 1).await, Some(Seq(4)));
}

#[tokio::test]
async fn outcomes_are_durable_within_the_window_and_a_publish_takes_them_along() {
    let open = open();
    open.add_partners(1).await;
    let seq = open.publish("A-1", 1).await;
    let mut commits = open.store.commits();
    commits.mark_unchanged();
    open.store.record(vec![acked(key(seq, 1))]);
    tokio::time::timeout(std::time::Duration::from_secs(5), commits.changed()).await.unwrap().unwrap();
    assert_eq!(open.store.unrecorded(), 0);
    // Where outcomes alone would wait for a minute, a publish takes them along at once.
    let open = open_with(|options| Options { outcome_window: Duration::from_secs(60), ..options });
    open.add_partners(1).await;
    let second = open.publish("A-2", 1).await;
    let commits = open.store.commits();
    let before = *commits.borrow();
    open.store.record(vec![acked(key(second, 1))]);
    open.publish("A-3", 1).await;
    assert_eq!(*commits.borrow() - before, 1, "one commit for both");
    assert_eq!(states(&open, second).await, [State::Acked]);
}

#[tokio::test]
async fn an_outcome_that_breaks_a_rule_of_the_schema_holds_nothing_up() {
    let open = open();
    open.add_partners(1).await;
    let seq = open.publish("A-1", 1).await;
    // No partner has this number.
    let stray = Change::CursorMoved { partner: PartnerNo(99), cursor: Seq(1), counted: 1 };
    let answer = open.store.record_durably(vec![acked(key(seq, 1)), stray.clone(), acked(key(seq, 77))]).await;
    assert!(matches!(answer, Err(StoreError::Refused(_))), "{answer:?}");
    assert_eq!((open.store.failing(), open.store.unrecorded()), (None, 0));
    assert_eq!(states(&open, seq).await, [State::Acked]);
    open.store.record(vec![stray]);
    assert_eq!(open.publish("A-2", 1).await, Seq(2), "a publish in the same commit goes in");
    let ledger = open.store.ledger(0, 10).await.unwrap();
    assert!(ledger.iter().all(|line| line.entry.word == Word::Ack && line.entry.partner == PartnerNo(1)));
    open.store.verify_ledger().await.unwrap();
}

#[tokio::test]
async fn a_question_sees_one_moment() {
    let open = open();
    open.add_partners(1).await;
    let writer = open.store.clone();
    // Each delivery is opened, then acknowledged: in every moment it has a row or a receipt, never neither.
    let writing = tokio::spawn(async move {
        for number in 0..300 {
            let Ok(ess_store::Publication::Recorded(event)) =
                writer.publish(event(&format!("A-{number}"), "1", 1)).await
            else {
                panic!("not recorded")
            };
            writer.record(vec![Change::Opened(delivery(key(event.seq, 1), OpenState::Pending))]);
            writer.record_durably(vec![acked_late(key(event.seq, 1))]).await.unwrap();
        }
    });
    while !writing.is_finished() {
        let (size, _) = open.store.ledger_head().await.unwrap();
        let start = open.store.lane_start(PartnerNo(1)).await.unwrap();
        assert!(start.ended.len() as u64 >= size, "{} of {size}", start.ended.len());
        let mut seqs: Vec<u64> = start.ended.iter().map(|seq| seq.0).collect();
        seqs.sort_unstable();
        assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>(), "none is missing in between");
    }
    writing.await.unwrap();
    assert_eq!(audience(1).len(), 1);
}
