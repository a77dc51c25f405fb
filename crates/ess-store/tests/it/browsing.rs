//! Questions of people who look: newest first, cut where they are asked to be.

use ess_core::delivery::State;
use ess_core::event::{Gone, GoneCause};
use ess_core::id::{PartnerNo, Seq};
use ess_core::lane::OpenState;
use ess_core::partner::Glob;
use ess_core::search::Sought;
use ess_core::time::Time;
use ess_store::{Change, Direction, LogSearch, Redaction, StoredEscalation, TextSearch};

use crate::support::{acked, audience, audit, delivery, event, key, open, tried};

#[tokio::test]
async fn the_log_is_told_newest_first_by_subject_and_by_the_beginning_of_an_id() {
    let open = open();
    open.add_partners(2).await;
    for id in ["A-1", "B-1", "A-2", "AB-1"] {
        open.publish(id, 2).await;
    }
    let ids = async |search: LogSearch, before: u64, limit: usize| {
        let found = open.store.log_before(search, Seq(before), limit).await.unwrap();
        found.into_iter().map(|line| line.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(LogSearch::All, u64::MAX, 3).await, ["AB-1", "A-2", "B-1"]);
    assert_eq!(ids(LogSearch::All, 2, 3).await, ["A-1"]);
    assert_eq!(ids(LogSearch::Id("A".to_owned()), u64::MAX, 10).await, ["A-1", "A-2", "AB-1"]);
    assert_eq!(ids(LogSearch::Id("A-2".to_owned()), 1, 10).await, ["A-2"]);
    assert!(ids(LogSearch::Id("%".to_owned()), u64::MAX, 10).await.is_empty());
    let line = &open.store.log_before(LogSearch::All, Seq(2), 1).await.unwrap()[0];
    let of_subject = ids(LogSearch::Subject(line.subject.clone()), u64::MAX, 10).await;
    assert!(of_subject.contains(&line.id));
    assert_eq!((line.seq, line.partners), (Seq(1), 2));
}

#[tokio::test]
async fn the_last_event_before_a_moment_is_found_without_walking_the_log() {
    let open = open();
    open.add_partners(1).await;
    for number in 1..=20 {
        let mut new = event(&format!("A-{number}"), "1", 1);
        new.recorded_at = Time::from_micros(number * 10);
        open.store.publish(new).await.unwrap();
    }
    for (micros, seq) in [(5, 0), (10, 1), (19, 1), (20, 2), (135, 13), (200, 20), (1_000, 20)] {
        let found = open.store.last_before(Time::from_micros(micros), Seq(20)).await.unwrap();
        assert_eq!(found, Seq(seq), "at {micros}");
    }
    assert_eq!(open.store.last_before(Time::from_micros(5), Seq(0)).await.unwrap(), Seq(0));
}

#[tokio::test]
async fn a_partners_newest_events_and_its_own_deliveries_are_found_among_others() {
    let open = open();
    open.add_partners(3).await;
    let first = open.publish("A-1", 3).await;
    open.publish("A-2", 1).await;
    let third = open.publish("A-3", 3).await;
    open.record(vec![
        acked(key(first, 2)),
        acked(key(first, 3)),
        Change::AttemptFailed { open: delivery(key(third, 2), OpenState::Retrying), tried: tried(1) },
    ])
    .await;
    let newest =
        async |before: u64, limit: usize| open.store.seqs_of_partner(PartnerNo(2), Seq(before), limit).await.unwrap();
    assert_eq!(newest(u64::MAX, 10).await, (vec![third, first], Seq(0)));
    assert_eq!(newest(u64::MAX, 1).await, (vec![third], third));
    assert_eq!(newest(third.0, 1).await.0, [first]);
    let states = async |seq: Seq| {
        let found = open.store.deliveries_to(seq, PartnerNo(2)).await.unwrap();
        found.iter().map(|delivery| (delivery.state, delivery.attempts.len())).collect::<Vec<_>>()
    };
    assert_eq!(states(first).await, [(State::Acked, 0)]);
    assert_eq!(states(third).await, [(State::Retrying, 1)]);
    // The same as among all deliveries of the event.
    let all = open.store.deliveries_of_event(third).await.unwrap();
    let own = open.store.deliveries_to(third, PartnerNo(2)).await.unwrap();
    assert_eq!(format!("{:?}", all[1]), format!("{:?}", own[0]));
    assert_eq!(audience(3).len(), 3);
}

#[tokio::test]
async fn dead_letters_are_counted_by_partner_and_up_to_a_bound() {
    let open = open();
    open.add_partners(2).await;
    for number in 0..5 {
        let seq = open.publish(&format!("A-{number}"), 2).await;
        let ended = |partner: u32| Change::Ended {
            open: delivery(key(seq, partner), OpenState::Retrying),
            state: State::Dead,
            at: Time::from_micros(30),
            reason: "given up".to_owned(),
            evidence: None,
            tried: None,
        };
        open.record(if number < 2 { vec![ended(1), ended(2)] } else { vec![ended(1)] }).await;
    }
    let mut counted = open.store.dead_by_partner(100).await.unwrap();
    counted.sort_unstable();
    assert_eq!(counted, [(PartnerNo(1), 5), (PartnerNo(2), 2)]);
    let bounded: usize = open.store.dead_by_partner(3).await.unwrap().iter().map(|(_, count)| count).sum();
    assert_eq!(bounded, 3);
}

#[tokio::test]
async fn the_audit_trail_is_told_newest_first() {
    let open = open();
    for act in ["one", "two", "three"] {
        open.store.put_audit(audit(act)).await.unwrap();
    }
    let acts = async |before: u64, limit: usize| {
        let found = open.store.audit_before(before, limit).await.unwrap();
        found.into_iter().map(|line| line.act).collect::<Vec<_>>()
    };
    assert_eq!(acts(u64::MAX, 2).await, ["three", "two"]);
    assert_eq!(acts(2, 2).await, ["one"]);
}

#[tokio::test]
async fn a_text_is_found_in_steps_both_ways_and_only_in_the_subjects_that_may_be_seen() {
    let open = open();
    open.add_partners(1).await;
    for (id, payload) in [
        ("A-1", r#"{"judge":"Müller"}"#),
        ("B-1", r#"{"judge":"M\u00fcller"}"#),
        ("A-2", r#"{"judge":"Lee"}"#),
        ("A-3", r#"{"note":"for MÜLLER"}"#),
    ] {
        open.store.publish(event(id, payload, 1)).await.unwrap();
    }
    let subject = open.store.log_before(LogSearch::Id("B-1".to_owned()), Seq(9), 1).await.unwrap()[0].subject.clone();
    let search = |within: &[&str]| TextSearch {
        text: Sought::parse("müller").unwrap(),
        subject: None,
        within: within.iter().map(|glob| Glob::trusted(glob)).collect(),
    };
    let found = async |search: TextSearch, direction, place: u64, limit| {
        let page = open.store.events_with_text(search, direction, Seq(place), limit).await.unwrap();
        (
            page.items.iter().map(|found| found.event.content.id.to_string()).collect::<Vec<_>>(),
            page.reached.map(|reached| reached.seq),
        )
    };
    let all = found(search(&[]), Direction::Older, u64::MAX, 10).await;
    assert_eq!(all, (vec!["A-3".to_owned(), "B-1".to_owned(), "A-1".to_owned()], None));
    let first = found(search(&[]), Direction::Newer, 0, 2).await;
    assert_eq!(first, (vec!["A-1".to_owned(), "B-1".to_owned()], Some(Seq(2))));
    let rest = found(search(&[]), Direction::Newer, 2, 2).await;
    assert_eq!(rest, (vec!["A-3".to_owned()], None));
    let own = found(search(&[&subject]), Direction::Newer, 0, 1).await;
    assert_eq!(own, (vec!["B-1".to_owned()], Some(Seq(2))), "others' events do not even end a step");
    let of_subject = TextSearch { subject: Some(subject), ..search(&[]) };
    assert_eq!(found(of_subject, Direction::Older, u64::MAX, 10).await, (vec!["B-1".to_owned()], None));
}

#[tokio::test]
async fn what_was_redacted_is_found_by_no_text_and_the_log_says_that_it_is_gone() {
    let open = open();
    open.add_partners(1).await;
    open.store.publish(event("A-1", r#"{"name":"Doe"}"#, 1)).await.unwrap();
    let seq = Seq(1);
    let redaction =
        Redaction { seq, at: Time::from_micros(7), by: "tok_1".to_owned(), reason: "a minor is named".to_owned() };
    open.store.redact(redaction, audit("event.redact")).await.unwrap();
    for text in ["doe", "null"] {
        let search = TextSearch { text: Sought::parse(text).unwrap(), subject: None, within: Vec::new() };
        let page = open.store.events_with_text(search, Direction::Older, Seq(u64::MAX), 10).await.unwrap();
        assert!(page.items.is_empty(), "{text}");
    }
    let line = &open.store.log_before(LogSearch::All, Seq(u64::MAX), 1).await.unwrap()[0];
    let cause = GoneCause::Redacted { by: "tok_1".to_owned(), reason: "a minor is named".to_owned() };
    assert_eq!(line.gone, Some(Gone { at: Time::from_micros(7), cause }));
}

#[tokio::test]
async fn what_ops_were_told_stays_on_record_when_it_is_over() {
    let open = open();
    open.add_partners(1).await;
    let told = StoredEscalation {
        partner: PartnerNo(1),
        cause: "offline".to_owned(),
        target: "pager".to_owned(),
        told_at: Time::from_micros(5),
        since: Time::from_micros(1),
        urgent: true,
    };
    open.store.put_escalation(told.clone()).await.unwrap();
    open.store.remove_escalation(StoredEscalation { told_at: Time::from_micros(9), ..told }).await.unwrap();
    let found = open.store.tellings_before(u64::MAX, 10).await.unwrap();
    let short: Vec<_> = found.iter().map(|line| (line.number, line.at.as_micros(), line.is_end)).collect();
    assert_eq!(short, [(2, 9, true), (1, 5, false)]);
    assert_eq!(open.store.tellings_before(2, 10).await.unwrap().len(), 1);
}
