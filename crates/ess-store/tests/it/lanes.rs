//! What a lane goes on with, and what its backlog costs.

use std::time::Instant;

use ess_core::delivery::State;
use ess_core::event::Priority;
use ess_core::id::{PartnerNo, Seq};
use ess_core::lane::{Health, OpenState};
use ess_core::time::Time;
use ess_store::Change;

use crate::support::{FIRST, acked, delivery, event, key, open, partner};

#[tokio::test]
async fn a_lane_goes_on_where_it_was() {
    let open = open();
    open.add_partners(2).await;
    for number in 1..=8 {
        open.publish(&format!("A-{number}"), 2).await;
    }
    let health = Health {
        offline_since: Some(Time::from_micros(5)),
        first_failed_at: Some(Time::from_micros(4)),
        failures: 3,
        gave_up_at: Some(Time::from_micros(6)),
    };
    open.record(vec![
        acked(key(Seq(1), 1)),
        Change::Opened(delivery(key(Seq(2), 1), OpenState::Blocked)),
        Change::CursorMoved { partner: PartnerNo(1), cursor: Seq(2), counted: 2 },
        acked(key(Seq(5), 1)),
        acked(key(Seq(6), 2)),
        Change::Opened(delivery(key(Seq(7), 1), OpenState::Retrying)),
        Change::Ended {
            open: delivery(key(Seq(8), 1), OpenState::Retrying),
            state: State::Superseded,
            at: Time::from_micros(1),
            reason: "a newer one".to_owned(),
            evidence: None,
            tried: None,
        },
        Change::HealthChanged { partner: PartnerNo(1), health },
    ])
    .await;
    let open = open.reopen().await;
    let mut start = open.store.lane_start(PartnerNo(1)).await.unwrap();
    start.ended.sort_unstable();
    assert_eq!((start.cursor, start.counted), (Seq(2), 2));
    assert_eq!(start.ended, [Seq(5), Seq(7), Seq(8)]);
    assert_eq!(start.open.iter().map(|open| open.key.seq.0).collect::<Vec<_>>(), [2, 7]);
    assert_eq!(start.health, health);
    assert_eq!(open.store.first_pending(PartnerNo(1)).await.unwrap().unwrap().seq, Seq(3));
    // 3, 4 and 6 are pending, 2 and 7 open.
    assert_eq!(open.store.backlog_count(PartnerNo(1), 1_000).await.unwrap(), 5);
    assert_eq!(open.store.backlog_count(PartnerNo(1), 3).await.unwrap(), 3);
}

#[tokio::test]
async fn a_partner_starts_at_the_end_of_the_log() {
    let open = open();
    open.add_partners(1).await;
    open.publish("A-1", 2).await;
    open.publish("A-2", 2).await;
    open.store.put_partner(partner("late"), crate::support::audit("partner.add")).await.unwrap();
    let start = open.store.lane_start(PartnerNo(2)).await.unwrap();
    assert_eq!((start.cursor, start.counted), (Seq(2), 0));
    assert_eq!(open.store.backlog_count(PartnerNo(2), 10).await.unwrap(), 0);
    assert!(open.store.first_pending(PartnerNo(2)).await.unwrap().is_none());
}

#[tokio::test]
async fn a_backlog_is_read_in_pages_that_end() {
    let open = open();
    open.add_partners(2).await;
    let news = (0..100).map(|number| event(&format!("A-{number}"), "1", if number % 3 == 0 { 2 } else { 1 })).collect();
    open.store.publish_many(news).await;
    let (mut after, mut seqs) = (Seq(0), Vec::new());
    loop {
        let page = open.store.backlog(PartnerNo(2), after, 10).await.unwrap();
        if page.scanned_to == after {
            break;
        }
        assert!(page.entries.len() <= 10);
        after = page.scanned_to;
        seqs.extend(page.entries.iter().map(|offer| offer.seq.0));
    }
    assert_eq!(seqs, (0..100).filter(|number| number % 3 == 0).map(|number| number + 1).collect::<Vec<_>>());
    assert_eq!(after, Seq(100));
}

/// Reading a lane's start once walked the receipts of everybody else since the dead partner's cursor.
#[tokio::test]
async fn a_dead_partners_backlog_costs_its_lane_nothing() {
    let open = open();
    open.add_partners(20).await;
    for round in 0..15 {
        let news = (0..1_000).map(|number| event(&format!("A-{round}-{number}"), "1", 20)).collect();
        open.store.publish_many(news).await;
        let mut changes = Vec::new();
        for number in 0..1_000 {
            // Partner 20 is dead; the others acknowledge everything.
            changes.extend((1..20).map(|partner| acked(key(Seq(round * 1_000 + number + 1), partner))));
        }
        for partner in 1..20 {
            let cursor = Seq((round + 1) * 1_000);
            changes.push(Change::CursorMoved { partner: PartnerNo(partner), cursor, counted: cursor.0 });
        }
        open.record(changes).await;
    }
    let open = open.reopen().await;
    let time = |partner: u32| {
        let store = open.store.clone();
        async move {
            // The first question opens the connection.
            store.lane_start(PartnerNo(partner)).await.unwrap();
            let began = Instant::now();
            let start = store.lane_start(PartnerNo(partner)).await.unwrap();
            (start, began.elapsed())
        }
    };
    let (alive, of_alive) = time(1).await;
    let (dead, of_dead) = time(20).await;
    assert_eq!((alive.cursor, alive.ended.len()), (Seq(15_000), 0));
    assert_eq!((dead.cursor, dead.ended.len()), (Seq(0), 0));
    // 285,000 receipts lie past its cursor; decoding them takes two orders of magnitude longer than this bound.
    let bound = of_alive * 20 + std::time::Duration::from_millis(20);
    assert!(of_dead < bound, "{of_dead:?} against {of_alive:?}");
    let page = open.store.backlog(PartnerNo(20), Seq(0), 1_024).await.unwrap();
    assert_eq!((page.entries.len(), page.scanned_to), (1_024, Seq(1_024)));
}

#[tokio::test]
async fn receipts_far_ahead_of_the_cursor_are_remembered() {
    let open = open();
    open.add_partners(1).await;
    for round in 0..10 {
        let news = (0..1_000).map(|number| event(&format!("A-{round}-{number}"), "1", 1)).collect();
        open.store.publish_many(news).await;
    }
    open.record(vec![acked(key(Seq(2), 1)), acked(key(Seq(9_999), 1))]).await;
    let open = open.reopen().await;
    // What this process does not remember does not take back what is written.
    open.record(vec![acked(key(Seq(3), 1))]).await;
    let open = open.reopen().await;
    let mut ended = open.store.lane_start(PartnerNo(1)).await.unwrap().ended;
    ended.sort_unstable();
    assert_eq!(ended, [Seq(2), Seq(3), Seq(9_999)]);
}

#[tokio::test]
async fn what_waits_for_a_partner_that_is_given_up_is_a_dead_letter() {
    let open = open();
    open.add_partners(3).await;
    for number in 1..=6 {
        open.publish(&format!("A-{number}"), 3).await;
    }
    let health = Health {
        offline_since: Some(Time::from_micros(5)),
        first_failed_at: Some(Time::from_micros(4)),
        failures: 9,
        gave_up_at: Some(Time::from_micros(6)),
    };
    let changes = |partner: u32| {
        vec![
            acked(key(Seq(1), partner)),
            Change::Opened(delivery(key(Seq(2), partner), OpenState::Retrying)),
            Change::Opened(delivery(key(Seq(3), partner), OpenState::Blocked)),
            Change::HealthChanged { partner: PartnerNo(partner), health },
        ]
    };
    open.record(changes(1)).await;
    open.record(changes(2)).await;
    // Partner 1: 2 and 4 to 6 wait, 1 is done, 3 waits for a bridge. Partner 2 alike; partner 3 is well.
    let places = |letters: Vec<ess_store::StoredDelivery>| -> Vec<(u64, u32)> {
        assert!(letters.iter().all(|letter| letter.waits && letter.state == State::Dead));
        letters.iter().map(|letter| (letter.key.seq.0, letter.key.partner.0)).collect()
    };
    let all = [(2, 1), (2, 2), (4, 1), (4, 2), (5, 1), (5, 2), (6, 1), (6, 2)];
    let mut after = FIRST;
    let mut paged = Vec::new();
    loop {
        let page = open.store.dead_letters(None, None, after, 3).await.unwrap();
        let Some(last) = page.last() else { break };
        after = last.key;
        paged.extend(places(page));
    }
    assert_eq!(paged, all);
    let of_one = open.store.dead_letters(Some(PartnerNo(2)), None, FIRST, 10).await.unwrap();
    assert_eq!(places(of_one), [(2, 2), (4, 2), (5, 2), (6, 2)]);
    let of_event = open.store.dead_letters(None, Some(Seq(4)), FIRST, 10).await.unwrap();
    assert_eq!(places(of_event), [(4, 1), (4, 2)]);

    let well = vec![Change::HealthChanged { partner: PartnerNo(1), health: Health::default() }];
    open.record(well).await;
    let left = open.store.dead_letters(Some(PartnerNo(1)), None, FIRST, 10).await.unwrap();
    assert!(left.is_empty(), "it answers again");
}

#[tokio::test]
async fn what_is_urgent_in_a_backlog_is_named_unless_its_subject_has_something_older_there() {
    let open = open();
    open.add_partners(2).await;
    for number in 1..=3 {
        open.publish(&format!("A-{number}"), 1).await;
    }
    for (id, partners) in [("B-1", 2), ("A-4", 1), ("C-1", 1)] {
        let mut new = event(id, "1", partners);
        new.content.priority = Priority::Urgent;
        open.store.publish(new).await.unwrap();
    }
    let page = open.store.urgent_backlog(PartnerNo(1), (Seq(1), Seq(1)), 10).await.unwrap();
    let named: Vec<(u64, u64)> = page.entries.iter().map(|(offer, distance)| (offer.seq.0, *distance)).collect();
    assert_eq!(named, [(4, 3), (6, 5)], "A-4 comes after A-2 and A-3");
    assert_eq!((page.scanned_to, page.has_more), (Seq(6), false));
    let page = open.store.urgent_backlog(PartnerNo(2), (Seq(0), Seq(0)), 1).await.unwrap();
    assert_eq!((page.entries[0].1, page.scanned_to, page.has_more), (1, Seq(4), true));
}
