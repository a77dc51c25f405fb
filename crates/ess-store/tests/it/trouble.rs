//! What is wrong with a partner, and what Ops were told of it.

use ess_core::delivery::{DeliveryKey, State};
use ess_core::event::Priority;
use ess_core::id::{PartnerNo, Seq};
use ess_core::lane::{Health, OpenDelivery, OpenState};
use ess_core::time::Time;
use ess_store::{Change, NewEvent, Publication, StoredEscalation};
use uuid::Uuid;

use crate::support::{Open, acked, delivery, event, key, open};

const P1: PartnerNo = PartnerNo(1);

async fn publish_at(open: &Open, id: &str, at: i64) -> Seq {
    let new = NewEvent { recorded_at: Time::from_micros(at), ..event(id, "1", 2) };
    match open.store.publish(new).await.unwrap() {
        Publication::Recorded(event) => event.seq,
        other => panic!("{id} was not recorded: {other:?}"),
    }
}

fn routine(key: DeliveryKey, state: OpenState) -> OpenDelivery {
    OpenDelivery { priority: Priority::Routine, message_uuid: None, ..delivery(key, state) }
}

#[tokio::test]
async fn each_kind_of_trouble_is_found_with_its_oldest_event_and_is_gone_when_it_ended() {
    let open = open();
    open.add_partners(2).await;
    let mut seqs = Vec::new();
    for number in 0..5 {
        seqs.push(publish_at(&open, &format!("A-{number}"), 100 + number).await);
    }
    let outstanding = OpenDelivery { due_at: None, ..routine(key(seqs[2], 1), OpenState::AwaitingAck) };
    let dead = Change::Ended {
        open: routine(key(seqs[3], 1), OpenState::Retrying),
        state: State::Dead,
        at: Time::from_micros(500),
        reason: "answered 422".to_owned(),
        evidence: None,
        tried: None,
    };
    let health = Health { offline_since: Some(Time::from_micros(50)), ..Health::default() };
    let urgent = OpenDelivery { message_uuid: None, ..delivery(key(seqs[1], 1), OpenState::Retrying) };
    open.record(vec![
        Change::Opened(routine(key(seqs[0], 1), OpenState::Blocked)),
        Change::Opened(urgent),
        Change::Opened(outstanding),
        dead,
        Change::HealthChanged { partner: P1, health },
    ])
    .await;

    let found = open.store.troubles(P1, [Some(seqs[4]), None]).await.unwrap();
    let (blocked, dead) = (found.blocked.unwrap(), found.dead.unwrap());
    assert_eq!((blocked.count, blocked.oldest.as_str(), blocked.since), (1, "A-0", Time::from_micros(100)));
    assert_eq!(blocked.mend.as_deref(), Some("hms-ess bridge add"));
    assert_eq!((dead.oldest.as_str(), dead.since), ("A-3", Time::from_micros(500)));
    assert_eq!(dead.reason.as_deref(), Some("answered 422"));
    assert_eq!(found.outstanding.unwrap().oldest, "A-2");
    let all = found.open.unwrap();
    assert_eq!((all.count, all.has_more, all.oldest.as_str(), all.urgent), (4, true, "A-0", true));
    assert_eq!((found.open_urgent_since, found.offline_since), (Some(Time::from_micros(101)), health.offline_since));
    // Nothing of it is the other partner's.
    let other = open.store.troubles(PartnerNo(2), [None, None]).await.unwrap();
    assert!(other.blocked.is_none() && other.dead.is_none() && other.open.is_none() && other.offline_since.is_none());

    let late = |seq| {
        Change::Acked(match acked(key(seq, 1)) {
            Change::Acked(receipt) => ess_store::AckReceipt { has_rows: true, ..receipt },
            _ => unreachable!(),
        })
    };
    open.record(seqs.iter().map(|seq| late(*seq)).collect()).await;
    let found = open.store.troubles(P1, [None, None]).await.unwrap();
    assert!(found.blocked.is_none() && found.dead.is_none() && found.outstanding.is_none() && found.open.is_none());
}

#[tokio::test]
async fn a_replay_is_as_old_as_itself_and_not_as_its_event() {
    let open = open();
    open.add_partners(1).await;
    let seq = publish_at(&open, "A-1", 100).await;
    let replayed_at = uuid::Timestamp::from_unix_time(1_800_000_000, 0, 0, 0);
    let replay = OpenDelivery {
        message_uuid: Some(Uuid::new_v7(replayed_at)),
        ..routine(DeliveryKey { round: 1, ..key(seq, 1) }, OpenState::Pending)
    };
    open.record(vec![Change::Opened(replay)]).await;
    let found = open.store.troubles(P1, [None, None]).await.unwrap();
    assert_eq!(found.open.unwrap().since, Time::from_micros(1_800_000_000_000_000));
}

#[tokio::test]
async fn the_log_is_cut_at_a_time() {
    let open = open();
    open.add_partners(1).await;
    assert_eq!(open.store.newest_at(Time::from_micros(9)).await.unwrap(), Seq(0));
    let mut seqs = Vec::new();
    for number in 0..20 {
        seqs.push(publish_at(&open, &format!("A-{number}"), 100 + number * 10).await);
    }
    let newest = |at| open.store.newest_at(Time::from_micros(at));
    assert_eq!(newest(99).await.unwrap(), Seq(seqs[0].0 - 1));
    assert_eq!(newest(100).await.unwrap(), seqs[0]);
    assert_eq!(newest(155).await.unwrap(), seqs[5]);
    assert_eq!(newest(10_000).await.unwrap(), seqs[19]);
}

#[tokio::test]
async fn what_ops_were_told_is_there_after_a_restart_until_it_is_taken_back() {
    let open = open();
    open.add_partners(1).await;
    let told = StoredEscalation {
        partner: P1,
        cause: "unacked".to_owned(),
        target: "ops".to_owned(),
        told_at: Time::from_micros(7),
        since: Time::from_micros(5),
        urgent: true,
    };
    open.store.put_escalation(told.clone()).await.unwrap();
    let open = open.reopen().await;
    assert_eq!(open.start.escalations, std::slice::from_ref(&told));
    open.store.remove_escalation(told).await.unwrap();
    assert!(open.reopen().await.start.escalations.is_empty());
}
