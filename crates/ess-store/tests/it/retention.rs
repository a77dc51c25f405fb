//! Retention, legal holds and redaction: what goes, what stays, and what is still right afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ess_core::delivery::State;
use ess_core::event::GoneCause;
use ess_core::id::{PartnerNo, Seq};
use ess_core::lane::{OpenState, Tried};
use ess_core::retention::Keep;
use ess_core::time::Time;
use ess_store::{
    AttemptPlace, Audit, Change, HoldOn, Lifted, NewEvent, NewHold, Publication, Redaction, Step, StoreError, Sweep,
    Swept,
};
use proptest::prelude::*;

use crate::support::{Open, acked, acked_late, audit, delivery, event, key, open, tried};

const DAY: Duration = Duration::from_secs(86_400);
const KEEP: Keep = Keep {
    events: Duration::from_secs(100 * 86_400),
    tests: Duration::from_secs(10 * 86_400),
    attempts: Duration::from_secs(50 * 86_400),
    audit: Duration::from_secs(100 * 86_400),
};

pub(crate) fn day(number: u32) -> Time {
    Time::from_micros(0).after(DAY * number)
}

/// An event recorded on a day.
pub(crate) fn event_of(id: &str, payload: &str, partners: u32, on: u32) -> NewEvent {
    NewEvent { recorded_at: day(on), ..event(id, payload, partners) }
}

pub(crate) async fn publish(open: &Open, new: NewEvent) -> Seq {
    match open.store.publish(new).await.unwrap() {
        Publication::Recorded(event) => event.seq,
        other => panic!("not recorded: {other:?}"),
    }
}

pub(crate) async fn step(open: &Open, step: Step, now: Time, rows_max: usize) -> Swept {
    let cursors = Arc::from(open.store.cursors().await.unwrap());
    let sweep = Sweep { step, keep: KEEP, now, cursors, rows_max, time_max: Duration::from_secs(1) };
    open.store.sweep(sweep).await.unwrap()
}

/// A whole pass in steps of so many rows; answers what went in each part.
pub(crate) async fn pass(open: &Open, now: Time, rows_max: usize) -> [u64; 5] {
    let parts = [
        Step::Later(Seq(0)),
        Step::Payloads { test: false },
        Step::Payloads { test: true },
        Step::Attempts(AttemptPlace::START),
        Step::Audit,
    ];
    let mut removed = [0; 5];
    for (part, removed) in parts.into_iter().zip(&mut removed) {
        let mut next = Some(part);
        while let Some(part) = next {
            let swept = step(open, part, now, rows_max).await;
            assert!(swept.removed <= rows_max as u64, "a step stays within its bound");
            *removed += swept.removed;
            next = swept.next;
        }
    }
    removed
}

async fn is_gone(open: &Open, seq: Seq) -> bool {
    let event = open.store.event(seq).await.unwrap().unwrap().event;
    assert_eq!(event.gone.is_some(), event.content.payload.get() == "null", "{seq}");
    event.gone.is_some()
}

async fn attempts(open: &Open, seq: Seq) -> usize {
    open.store.deliveries_of_event(seq).await.unwrap().iter().map(|delivery| delivery.attempts.len()).sum()
}

fn failed(seq: Seq, partner: u32, number: u32, on: u32) -> Change {
    let tried = Tried { at: day(on), ..tried(number) };
    Change::AttemptFailed { open: delivery(key(seq, partner), OpenState::Retrying), tried }
}

fn ended(seq: Seq, partner: u32, state: State) -> Change {
    let (open, at, reason) = (delivery(key(seq, partner), OpenState::Retrying), day(1), "over".to_owned());
    Change::Ended { open, state, at, reason, evidence: None, tried: None }
}

fn hold(on: HoldOn) -> NewHold {
    NewHold { on, at: day(1), by: "tok_1".to_owned(), reason: "Doe v. County".to_owned() }
}

fn lifted() -> Lifted {
    Lifted { at: day(2), by: "tok_2".to_owned(), reason: "settled".to_owned() }
}

pub(crate) fn redaction(seq: Seq) -> Redaction {
    Redaction { seq, at: day(3), by: "tok_3".to_owned(), reason: "a minor is named".to_owned() }
}

#[tokio::test]
async fn payloads_and_attempts_go_at_their_age_and_the_log_has_no_gap() {
    let open = open();
    open.add_partners(2).await;
    let seqs = [
        publish(&open, event_of("A-1", "\"old\"", 2, 0)).await,
        publish(&open, event_of("A-2", "\"middle\"", 2, 40)).await,
        publish(&open, event_of("A-3", "\"young\"", 2, 90)).await,
    ];
    for (seq, on) in seqs.into_iter().zip([0, 40, 90]) {
        open.record(vec![failed(seq, 1, 1, on), failed(seq, 1, 2, on), acked_late(key(seq, 1)), acked(key(seq, 2))])
            .await;
    }
    assert_eq!(pass(&open, day(49), 100).await, [0; 5]);
    assert_eq!(pass(&open, day(100), 100).await, [0, 1, 0, 4, 0]);
    assert_eq!(pass(&open, day(100), 100).await, [0; 5], "what went is gone");
    let gone = [is_gone(&open, seqs[0]).await, is_gone(&open, seqs[1]).await, is_gone(&open, seqs[2]).await];
    assert_eq!(gone, [true, false, false]);
    assert_eq!(
        (attempts(&open, seqs[0]).await, attempts(&open, seqs[1]).await, attempts(&open, seqs[2]).await),
        (0, 0, 2)
    );
    let log = open.store.events(None, Seq(0), 10).await.unwrap();
    assert_eq!(log.iter().map(|recorded| recorded.event.seq).collect::<Vec<_>>(), seqs);
    assert_eq!(log[0].event.gone.as_ref().unwrap().cause, GoneCause::Expired);
    assert_eq!(log[0].audience.len(), 2);
    // The same id with the same content is known still, and other content is refused still.
    let again = open.store.publish(event("A-1", "\"old\"", 2)).await.unwrap();
    assert!(matches!(again, Publication::Duplicate { first } if first.event.seq == seqs[0]));
    let other = open.store.publish(event("A-1", "\"other\"", 2)).await.unwrap();
    assert!(matches!(other, Publication::Conflict { .. }));
    // A partner's events are counted as before, and its receipts are there.
    let backlog = open.store.backlog(PartnerNo(1), Seq(0), 10).await.unwrap();
    assert_eq!(backlog.entries.iter().map(|offer| offer.seq).collect::<Vec<_>>(), seqs);
    assert_eq!(open.store.verify_ledger().await.unwrap().0, 6);
    let states: Vec<State> =
        open.store.deliveries_of_event(seqs[0]).await.unwrap().iter().map(|delivery| delivery.state).collect();
    assert_eq!(states, [State::Acked; 2]);
}

#[tokio::test]
async fn dry_runs_go_sooner_than_events() {
    let open = open();
    let mut dry = event_of("A-1", "1", 0, 0);
    dry.content.test = true;
    let (dry, real) = (publish(&open, dry).await, publish(&open, event_of("A-1", "1", 0, 0)).await);
    assert_eq!(pass(&open, day(10), 100).await, [0, 0, 1, 0, 0]);
    assert_eq!((is_gone(&open, dry).await, is_gone(&open, real).await), (true, false));
    assert_eq!(pass(&open, day(100), 100).await, [0, 1, 0, 0, 0]);
}

#[tokio::test]
async fn what_somebody_may_need_stays_until_it_is_over() {
    let open = open();
    open.add_partners(1).await;
    let mut seqs = BTreeMap::new();
    for name in ["pending", "retrying", "blocked", "dead", "nack", "superseded", "held", "replayed"] {
        seqs.insert(name, publish(&open, event_of(&format!("{name}-1"), "\"x\"", 1, 0)).await);
    }
    let replay = ess_core::delivery::DeliveryKey { round: 1, ..key(seqs["replayed"], 1) };
    open.record(vec![
        failed(seqs["retrying"], 1, 1, 0),
        Change::Opened(delivery(key(seqs["blocked"], 1), OpenState::Blocked)),
        ended(seqs["dead"], 1, State::Dead),
        ended(seqs["nack"], 1, State::Nack),
        ended(seqs["superseded"], 1, State::Superseded),
        acked(key(seqs["held"], 1)),
        acked(key(seqs["replayed"], 1)),
        Change::Opened(delivery(replay, OpenState::Pending)),
    ])
    .await;
    let number = open.store.put_hold(hold(HoldOn::Subject("hel*".to_owned())), audit("hold.add")).await.unwrap();
    // Only the superseded one is over.
    assert_eq!(pass(&open, day(1_000), 3).await, [0, 1, 0, 0, 0]);
    assert!(is_gone(&open, seqs["superseded"]).await);
    open.record(vec![
        acked(key(seqs["pending"], 1)),
        acked_late(key(seqs["retrying"], 1)),
        acked_late(key(seqs["blocked"], 1)),
        ended(seqs["dead"], 1, State::Cancelled),
        ended(seqs["nack"], 1, State::Cancelled),
        acked_late(replay),
    ])
    .await;
    assert_eq!(pass(&open, day(1_000), 3).await, [6, 0, 0, 1, 0]);
    open.store.lift_hold(number, lifted(), audit("hold.remove")).await.unwrap();
    let [later, events, tests, attempts, audit] = pass(&open, day(1_000), 3).await;
    assert_eq!((later, events, tests, attempts), (1, 0, 0, 0));
    assert!(audit > 0, "the audit trail was whole under the hold");
    for (name, seq) in seqs {
        assert!(is_gone(&open, seq).await, "{name}");
    }
}

#[tokio::test]
async fn a_partner_that_was_removed_or_is_not_meant_holds_nothing_up() {
    let open = open();
    open.add_partners(2).await;
    let seq = publish(&open, event_of("A-1", "\"x\"", 1, 0)).await;
    let other = publish(&open, event_of("A-2", "\"x\"", 2, 0)).await;
    open.record(vec![acked(key(seq, 1)), acked(key(other, 1)), failed(other, 2, 1, 0)]).await;
    assert_eq!(pass(&open, day(200), 100).await[..4], [0, 1, 0, 0], "the second is open at partner 2");
    open.store.remove_partner(PartnerNo(2), day(200), audit("partner.remove")).await.unwrap();
    assert_eq!(pass(&open, day(200), 100).await[..4], [1, 0, 0, 1]);
}

#[tokio::test]
async fn a_hold_on_an_event_holds_its_dry_run_and_is_on_record_when_it_was_lifted() {
    let open = open();
    let mut dry = event_of("A-1", "1", 0, 0);
    dry.content.test = true;
    publish(&open, dry).await;
    publish(&open, event_of("A-1", "1", 0, 0)).await;
    let number = open.store.put_hold(hold(HoldOn::Event("A-1".to_owned())), audit("hold.add")).await.unwrap();
    assert_eq!(pass(&open, day(1_000), 100).await, [0; 5]);
    let error = open.store.redact(redaction(Seq(2)), audit("event.redact")).await.unwrap_err();
    assert!(matches!(&error, StoreError::Refused(why) if why.contains("legal hold")), "{error}");
    open.store.lift_hold(number, lifted(), audit("hold.remove")).await.unwrap();
    let open = open.reopen().await;
    let holds = open.store.holds().await.unwrap();
    assert_eq!((holds[0].number, &holds[0].lifted), (number, &Some(lifted())));
    assert!(open.store.lift_hold(number, lifted(), audit("hold.remove")).await.is_err(), "lifted once");
    open.store.redact(redaction(Seq(2)), audit("event.redact")).await.unwrap();
}

/// Empties the log; the thread that moves it may be at it just now.
pub(crate) async fn wipe(open: &Open) {
    let wiped = async {
        while !open.store.wipe_log().await.unwrap() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wiped).await.expect("nobody reads from the log");
}

/// Whether any file of the store holds the bytes.
pub(crate) fn is_on_disk(open: &Open, bytes: &str) -> bool {
    let files = std::fs::read_dir(open.dir.path()).unwrap().map(|entry| entry.unwrap().path());
    files.into_iter().filter(|path| path.is_file()).any(|path| {
        let held = std::fs::read(path).unwrap();
        held.windows(bytes.len()).any(|window| window == bytes.as_bytes())
    })
}

#[tokio::test]
async fn a_redacted_payload_is_on_the_disk_no_more_and_proves_still() {
    let open = open();
    open.add_partners(3).await;
    let large = format!("\"{}CANARYLARGE{}\"", "x".repeat(60_000), "y".repeat(60_000));
    let mut seqs = Vec::new();
    for number in 0..40 {
        seqs.push(publish(&open, event(&format!("N-{number}"), &format!("\"neighbour {number}\""), 3)).await);
        if number == 20 {
            seqs.push(publish(&open, event("S-1", "{\"name\":\"CANARYSMALL\"}", 3)).await);
            seqs.push(publish(&open, event("L-1", &large, 3)).await);
        }
    }
    let (small, large) = (Seq(22), Seq(23));
    let said = |seq, partner, state| {
        let mut change = ended(seq, partner, state);
        if let Change::Ended { reason, tried, .. } = &mut change {
            *reason = "no such name: CANARYSMALL".to_owned();
            *tried = Some(Tried { reason: reason.clone(), ..crate::support::tried(1) });
        }
        change
    };
    open.record(vec![acked(key(small, 1)), said(small, 2, State::Dead), acked(key(large, 1))]).await;
    // The files of a server are its operator's.
    if open.url.is_none() {
        assert!(is_on_disk(&open, "CANARYSMALL") && is_on_disk(&open, "CANARYLARGE"));
    }
    let digest = open.store.event(small).await.unwrap().unwrap().event.content_digest;
    for seq in [small, large] {
        open.store.redact(redaction(seq), audit("event.redact")).await.unwrap();
    }
    wipe(&open).await;
    assert!(!is_on_disk(&open, "CANARYSMALL") && !is_on_disk(&open, "CANARYLARGE"));
    assert!(open.store.redact(redaction(small), audit("event.redact")).await.is_err(), "it is gone already");
    let event = open.store.event(small).await.unwrap().unwrap().event;
    assert_eq!(event.content_digest, digest);
    let cause = GoneCause::Redacted { by: "tok_3".to_owned(), reason: "a minor is named".to_owned() };
    assert_eq!(event.gone.as_ref().map(|gone| (gone.at, &gone.cause)), Some((day(3), &cause)));
    // Acknowledged stays so; the dead letter is discarded, and what was pending will not be sent.
    let deliveries = open.store.deliveries_of_event(small).await.unwrap();
    let states: Vec<State> = deliveries.iter().map(|delivery| delivery.state).collect();
    assert_eq!(states, [State::Acked, State::Cancelled, State::Cancelled]);
    assert!(open.store.dead_letters(None, None, crate::support::FIRST, 10).await.unwrap().is_empty());
    assert_eq!(open.store.verify_ledger().await.unwrap().0, 2);
}

#[tokio::test]
async fn a_pass_that_was_cut_off_at_any_step_ends_as_one_that_was_not() {
    for cut in 0..12 {
        let open = filled_for_a_cut().await;
        let mut next = vec![Step::Payloads { test: false }, Step::Attempts(AttemptPlace::START)];
        for _ in 0..cut {
            let Some(part) = next.pop() else { break };
            let swept = step(&open, part, day(200), 3).await;
            next.extend(swept.next);
        }
        let open = open.cut_off();
        pass(&open, day(200), 3).await;
        let mut left = Vec::new();
        for number in 1..=8 {
            left.push((is_gone(&open, Seq(number)).await, attempts(&open, Seq(number)).await));
        }
        let expected: Vec<(bool, usize)> =
            (1..=8).map(|number| if number == 4 { (false, 2) } else { (true, 0) }).collect();
        assert_eq!(left, expected, "cut after {cut} steps");
    }
}

/// Eight old events with two attempts each; the fourth is open still.
async fn filled_for_a_cut() -> Open {
    let open = open();
    open.add_partners(1).await;
    for number in 1..=8 {
        let seq = publish(&open, event_of(&format!("A-{number}"), "\"x\"", 1, 0)).await;
        open.record(vec![failed(seq, 1, 1, 0), failed(seq, 1, 2, 0)]).await;
        if number != 4 {
            open.record(vec![acked_late(key(seq, 1))]).await;
        }
    }
    open
}

#[tokio::test]
async fn old_lines_of_the_audit_trail_go_from_the_front() {
    let open = open();
    for on in [0, 1, 50] {
        open.store.put_audit(Audit { at: day(on), ..audit("x") }).await.unwrap();
    }
    assert_eq!(pass(&open, day(101), 100).await[4], 2);
    let left: Vec<Time> = open.store.audit(0, 10).await.unwrap().iter().map(|line| line.at).collect();
    assert_eq!(left, [day(50)]);
}

/// What happens to a delivery in the model.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Pending,
    Retrying,
    Blocked,
    Acked,
    AckedLate,
    Dead,
    Nack,
    Superseded,
    Cancelled,
    Discarded,
}

fn fates() -> impl Strategy<Value = Fate> {
    prop_oneof![
        Just(Fate::Pending),
        Just(Fate::Retrying),
        Just(Fate::Blocked),
        Just(Fate::Acked),
        Just(Fate::AckedLate),
        Just(Fate::Dead),
        Just(Fate::Nack),
        Just(Fate::Superseded),
        Just(Fate::Cancelled),
        Just(Fate::Discarded),
    ]
}

fn changes(seq: Seq, partner: u32, fate: Fate, on: u32) -> Vec<Change> {
    match fate {
        Fate::Pending => vec![],
        Fate::Retrying => vec![failed(seq, partner, 1, on)],
        Fate::Blocked => vec![Change::Opened(delivery(key(seq, partner), OpenState::Blocked))],
        Fate::Acked => vec![acked(key(seq, partner))],
        Fate::AckedLate => vec![failed(seq, partner, 1, on), acked_late(key(seq, partner))],
        Fate::Dead => vec![failed(seq, partner, 1, on), ended(seq, partner, State::Dead)],
        Fate::Nack => vec![ended(seq, partner, State::Nack)],
        Fate::Superseded => vec![ended(seq, partner, State::Superseded)],
        Fate::Cancelled => vec![ended(seq, partner, State::Cancelled)],
        Fate::Discarded => vec![ended(seq, partner, State::Dead), ended(seq, partner, State::Cancelled)],
    }
}

/// The naive model: what is needed, from the fates alone. Partner 3 is removed.
fn is_needed(fates: &[Fate]) -> bool {
    let waits = |fate: &Fate| matches!(fate, Fate::Pending | Fate::Retrying | Fate::Blocked);
    let is_letter = |fate: &Fate| matches!(fate, Fate::Dead | Fate::Nack);
    fates[..2].iter().any(waits) || fates.iter().any(is_letter)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Whatever became of its deliveries, wherever the cursors are and however small the steps: what may be needed stays, the rest goes.
    #[test]
    fn nothing_that_is_open_is_ever_removed(
        events in proptest::collection::vec((proptest::collection::vec(fates(), 3), 0_u32..140, 0_u32..4), 1..14),
        held in proptest::collection::btree_set(0_usize..14, 0..3),
        cursors in proptest::collection::vec(0_u64..16, 2),
        rows_max in 1_usize..6,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(check_model(&events, &held, &cursors, rows_max));
    }
}

async fn check_model(events: &[(Vec<Fate>, u32, u32)], held: &BTreeSet<usize>, cursors: &[u64], rows_max: usize) {
    let now = day(150);
    let open = open();
    open.add_partners(3).await;
    // The log is in the order of time.
    let mut days: Vec<u32> = events.iter().map(|(_, on, _)| *on).collect();
    days.sort_unstable();
    for (number, ((fates, _, _), on)) in events.iter().zip(&days).enumerate() {
        let seq = publish(&open, event_of(&format!("E-{number}"), "\"x\"", 3, *on)).await;
        for (partner, fate) in (1..).zip(fates) {
            open.record(changes(seq, partner, *fate, *on)).await;
        }
        if held.contains(&number) {
            open.store.put_hold(hold(HoldOn::Event(format!("E-{number}"))), audit("hold.add")).await.unwrap();
        }
    }
    open.store.remove_partner(PartnerNo(3), now, audit("partner.remove")).await.unwrap();
    for (partner, wanted) in (1..).zip(cursors) {
        // A cursor never passes what is pending.
        let index = partner as usize - 1;
        let first =
            events.iter().position(|(fates, _, _)| matches!(fates[index], Fate::Pending)).unwrap_or(events.len());
        let cursor = Seq((*wanted).min(first as u64));
        open.record(vec![Change::CursorMoved { partner: PartnerNo(partner), cursor, counted: 0 }]).await;
    }
    pass(&open, now, rows_max).await;
    for (number, ((fates, _, _), on)) in events.iter().zip(&days).enumerate() {
        let seq = Seq(number as u64 + 1);
        let stays = is_needed(fates) || held.contains(&number);
        assert_eq!(is_gone(&open, seq).await, !stays && *on <= 50, "event {seq} of day {on}: {fates:?}");
        let tried = fates.iter().filter(|fate| matches!(fate, Fate::Retrying | Fate::AckedLate | Fate::Dead)).count();
        let expected = if !stays && *on <= 100 { 0 } else { tried };
        assert_eq!(attempts(&open, seq).await, expected, "attempts of event {seq} of day {on}: {fates:?}");
    }
    open.store.verify_ledger().await.unwrap();
}
