//! Stories of a lane, told without a clock, and a simulated partner and store that play thousands of them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::delivery::DeliveryKey;
use crate::event::{Kind, Priority};
use crate::id::{Digest, Version};
use crate::partner::{AckBy, Redrive};
use crate::receipt::{Evidence, Verdict};

mod found;
mod simulation;
mod standing;
mod troubles;

const START: Time = Time::from_micros(1_000_000_000);

fn policy(order: Order) -> Policy {
    Policy {
        order,
        retry: RetryPolicy {
            first: Duration::from_secs(5),
            factor: 2.0,
            max: Duration::from_secs(3600),
            jitter: 0.0,
            give_up_after: Duration::from_secs(86_400),
            redrive: Redrive::OnRecovery,
        },
        ack: AckPolicy { by: AckBy::Body, within: Duration::from_secs(30), resend: 3, place: None },
        limits: Limits { in_flight: 16, per_second: 0.0 },
        fallback_after: None,
    }
}

fn offer(seq: u64, subject: &str) -> Offer {
    Offer {
        seq: Seq(seq),
        subject: Subject::trusted(subject),
        priority: Priority::Routine,
        kind: Kind::Change,
        test: false,
        recorded_at: START,
    }
}

fn lane(order: Order) -> Lane {
    Lane::new(PartnerNo(1), policy(order), Seq(0), 0)
}

/// Takes everything the lane wants now; answers the attempts.
fn sends(lane: &mut Lane, now: Time) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    while let Some(action) = lane.poll(now) {
        if let Action::Send(attempt) = action {
            attempts.push(attempt);
        }
    }
    attempts
}

fn seqs(attempts: &[Attempt]) -> Vec<u64> {
    attempts.iter().map(|attempt| attempt.seq.0).collect()
}

fn tried(attempt: &Attempt, now: Time) -> Tried {
    Tried {
        number: attempt.number,
        at: attempt.started,
        took: now.since(attempt.started),
        status: Some(200),
        outcome: "x",
        reason: String::new(),
    }
}

fn report(lane: &mut Lane, attempt: Attempt, verdict: Verdict, now: Time) {
    let tried = tried(&attempt, now);
    let sent = Sent { version: Version(1), body_digest: Digest([0; 32]), scripts: [].into() };
    lane.on_report(Report { attempt, outcome: Outcome::Verdict(verdict), sent: Some(sent), tried }, now, 0.5);
}

fn failure() -> Verdict {
    Verdict::Retry { reason: "connection refused".to_owned(), retry_after: None }
}

#[test]
fn an_attempt_that_was_taken_back_is_none_and_its_delivery_takes_its_turn_anew() {
    let mut lane = lane(Order::Subject);
    lane.offer(&offer(1, "A"), START);
    let first = sends(&mut lane, START).remove(0);
    let withdrawn = |attempt: Attempt| {
        let tried = tried(&attempt, START);
        Report { attempt, outcome: Outcome::Recalled, sent: None, tried }
    };
    let later = START.after(Duration::from_secs(90_000));
    lane.on_report(withdrawn(first), later, 0.5);
    assert_eq!((lane.in_flight(), lane.offline_since()), (0, None));
    let again = sends(&mut lane, later).remove(0);
    assert_eq!((again.seq, again.number), (Seq(1), 1));
    // One that was acknowledged meanwhile is not sent again.
    assert!(lane.on_ack(Seq(1), 0, Evidence::Callback, later));
    lane.on_report(withdrawn(again), later, 0.5);
    assert!(sends(&mut lane, later).is_empty() && lane.in_flight() == 0);
}

#[test]
fn a_subject_goes_out_one_by_one_and_subjects_side_by_side() {
    let mut lane = lane(Order::Subject);
    for (seq, subject) in [(1, "a"), (2, "a"), (3, "b")] {
        lane.offer(&offer(seq, subject), START);
    }
    let first = sends(&mut lane, START);
    assert_eq!(seqs(&first), [1, 3]);
    report(&mut lane, first[0], Verdict::Acked(Evidence::Body), START);
    assert_eq!(seqs(&sends(&mut lane, START)), [2]);
}

#[test]
fn a_failed_delivery_holds_its_subject_and_comes_back_when_due() {
    let mut lane = lane(Order::Subject);
    lane.offer(&offer(1, "a"), START);
    lane.offer(&offer(2, "a"), START);
    let first = sends(&mut lane, START);
    report(&mut lane, first[0], failure(), START);
    assert!(sends(&mut lane, START).is_empty());
    let due = lane.next_timeout().unwrap();
    assert_eq!(due.since(START), Duration::from_secs(5));
    lane.on_timeout(due);
    let again = sends(&mut lane, due);
    assert_eq!((seqs(&again), again[0].number), (vec![1], 2));
}

#[test]
fn another_order_takes_hold_of_what_is_loaded() {
    let mut lane = lane(Order::Subject);
    for seq in 1..=3 {
        lane.offer(&offer(seq, "a"), START);
    }
    let first = sends(&mut lane, START);
    assert_eq!(seqs(&first), [1]);
    lane.on_command(Command::Policy(policy(Order::None)), START);
    let rest = sends(&mut lane, START);
    assert_eq!(seqs(&rest), [2, 3]);

    report(&mut lane, rest[0], failure(), START);
    report(&mut lane, rest[1], failure(), START);
    lane.on_command(Command::Policy(policy(Order::Subject)), START);
    report(&mut lane, first[0], Verdict::Acked(Evidence::Body), START);
    lane.offer(&offer(4, "a"), START);
    let due = lane.next_timeout().unwrap();
    lane.on_timeout(due);
    assert!(!seqs(&sends(&mut lane, due)).contains(&4), "4 waits for 2 and 3");

    lane.on_command(Command::Policy(policy(Order::Latest)), due);
    let mut later = Vec::new();
    while let Some(action) = lane.poll(due) {
        if let Action::Record(record) = action
            && let Record::Ended { ended, .. } = *record
        {
            assert_eq!(ended.state, State::Superseded);
            later.push(ended.state);
        }
    }
    assert!(later.len() <= 2);
}

#[test]
fn the_newest_takes_the_place_of_what_was_not_delivered() {
    let mut lane = lane(Order::Latest);
    for seq in 1..=3 {
        lane.offer(&offer(seq, "a"), START);
    }
    let mut ended = Vec::new();
    let mut sent = Vec::new();
    while let Some(action) = lane.poll(START) {
        match action {
            Action::Record(record) => {
                if let Record::Ended { open, ended: end } = *record {
                    ended.push((open.key.seq.0, end.state));
                }
            }
            Action::Send(attempt) => sent.push(attempt.seq.0),
            _ => {}
        }
    }
    assert_eq!(ended, [(1, State::Superseded), (2, State::Superseded)]);
    assert_eq!(sent, [3]);
}

#[test]
fn an_unanswered_delivery_is_sent_again_three_times_and_then_left_outstanding() {
    let mut lane = lane(Order::Subject);
    lane.offer(&offer(1, "a"), START);
    let mut now = START;
    let mut count = 0;
    let mut outstanding = false;
    for _ in 0..10 {
        while let Some(action) = lane.poll(now) {
            match action {
                Action::Send(attempt) => {
                    count += 1;
                    report(&mut lane, attempt, Verdict::Unacknowledged { reason: "no ack".to_owned() }, now);
                }
                Action::Outstanding { .. } => outstanding = true,
                _ => {}
            }
        }
        let Some(due) = lane.next_timeout() else { break };
        now = due;
        lane.on_timeout(now);
    }
    assert_eq!((count, outstanding), (4, true));
    assert!(lane.offline_since().is_none());
    assert!(lane.on_ack(Seq(1), 0, Evidence::Callback, now));
}

#[test]
fn an_offline_partner_is_probed_one_at_a_time_and_drained_on_recovery() {
    let mut lane = lane(Order::None);
    for seq in 1..=50 {
        lane.offer(&offer(seq, "a"), START);
    }
    let mut now = START;
    let mut rounds = Vec::new();
    for _ in 0..12 {
        let attempts = sends(&mut lane, now);
        rounds.push(attempts.len());
        now = now.after(Duration::from_millis(1));
        for attempt in attempts {
            report(&mut lane, attempt, failure(), now);
        }
        let Some(due) = lane.next_timeout() else { continue };
        now = now.max(due);
        lane.on_timeout(now);
    }
    assert!(lane.offline_since().is_some());
    assert!(rounds.ends_with(&[1, 1, 1]), "{rounds:?}");
    let probe = sends(&mut lane, now);
    let probe = if probe.is_empty() {
        now = lane.next_timeout().unwrap();
        lane.on_timeout(now);
        sends(&mut lane, now)
    } else {
        probe
    };
    report(&mut lane, probe[0], Verdict::Acked(Evidence::Body), now);
    assert!(lane.offline_since().is_none());
    let mut drained = 1;
    for _ in 0..100 {
        let attempts = sends(&mut lane, now);
        if attempts.is_empty() {
            break;
        }
        for attempt in attempts {
            drained += 1;
            report(&mut lane, attempt, Verdict::Acked(Evidence::Body), now);
        }
    }
    assert_eq!(lane.loaded() + drained, 50, "everything is delivered or still there");
    assert_eq!(lane.loaded(), 0);
}

#[test]
fn a_blocked_subject_leaves_the_window_to_others_and_goes_on_when_mended() {
    let mut lane = lane(Order::Subject);
    let mut store: BTreeMap<Place, OpenDelivery> = BTreeMap::new();
    let mut acked = Vec::new();
    let mut mended = false;
    for seq in 1..=3_000u64 {
        let subject = if seq % 2 == 0 { "blocked".to_owned() } else { format!("s{seq}") };
        lane.offer(&offer(seq, &subject), START);
        drive(&mut lane, &mut store, &mut acked, mended);
    }
    assert_eq!(acked.len(), 1_500, "the other subjects went out");
    mended = true;
    lane.on_command(Command::Unblock, START);
    drive(&mut lane, &mut store, &mut acked, mended);
    let blocked: Vec<u64> = acked.iter().copied().filter(|seq| seq % 2 == 0).collect();
    assert_eq!(blocked, (1..=1_500).map(|half| half * 2).collect::<Vec<u64>>());

    fn drive(lane: &mut Lane, store: &mut BTreeMap<Place, OpenDelivery>, acked: &mut Vec<u64>, mended: bool) {
        while let Some(action) = lane.poll(START) {
            match action {
                Action::Send(attempt) if attempt.seq.0 % 2 == 0 && !mended => {
                    let outcome = Outcome::Blocked { reason: "no bridge".to_owned(), mend: "add one".to_owned() };
                    let tried = tried(&attempt, START);
                    lane.on_report(Report { attempt, outcome, sent: None, tried }, START, 0.5);
                }
                Action::Send(attempt) => report(lane, attempt, Verdict::Acked(Evidence::Body), START),
                Action::Record(record) => match *record {
                    Record::Opened(open) => {
                        store.insert((open.key.seq, open.key.round), open);
                    }
                    Record::Acked { seq, round, .. } => {
                        acked.push(seq.0);
                        store.remove(&(seq, round));
                    }
                    _ => {}
                },
                Action::LoadLine { subject, test } => {
                    let line: Vec<OpenDelivery> =
                        store.values().filter(|open| open.subject == subject).take(101).cloned().collect();
                    let more = line.len() > 100;
                    lane.on_line_loaded(&subject, test, line.into_iter().take(100).collect(), more, START);
                }
                _ => {}
            }
        }
    }
}

#[test]
fn a_paused_lane_sends_nothing_and_goes_on_when_resumed() {
    let mut lane = lane(Order::Subject);
    lane.on_command(Command::Pause, START);
    lane.offer(&offer(1, "a"), START);
    assert!(sends(&mut lane, START).is_empty());
    lane.on_command(Command::Resume, START);
    assert_eq!(seqs(&sends(&mut lane, START)), [1]);
}

#[test]
fn a_rate_limit_spaces_attempts() {
    let mut policy = policy(Order::None);
    policy.limits.per_second = 10.0;
    let mut lane = Lane::new(PartnerNo(1), policy, Seq(0), 0);
    for seq in 1..=3 {
        lane.offer(&offer(seq, "a"), START);
    }
    let mut now = START;
    let mut times = Vec::new();
    for _ in 0..3 {
        assert_eq!(sends(&mut lane, now).len(), 1);
        times.push(now.since(START).as_millis());
        now = lane.next_timeout().unwrap_or(now);
    }
    assert_eq!(times, [0, 100, 200]);
}

#[test]
fn an_ack_that_overtakes_the_answer_ends_the_delivery_once() {
    let mut lane = lane(Order::Subject);
    lane.offer(&offer(1, "a"), START);
    let attempt = sends(&mut lane, START)[0];
    assert!(lane.on_ack(Seq(1), 0, Evidence::Callback, START));
    report(&mut lane, attempt, Verdict::Received, START);
    let acked = std::iter::from_fn(|| lane.poll(START))
        .filter(|action| matches!(action, Action::Record(record) if matches!(**record, Record::Acked { .. })))
        .count();
    assert_eq!((acked, lane.in_flight()), (1, 0));
}

#[test]
fn a_replay_goes_before_what_is_newer_and_not_yet_under_way() {
    let mut lane = lane(Order::Subject);
    lane.on_command(Command::Pause, START);
    lane.offer(&offer(5, "a"), START);
    lane.on_opened(
        vec![OpenDelivery {
            key: DeliveryKey { seq: Seq(2), partner: PartnerNo(1), round: 1 },
            ..offer(2, "a").to_open(PartnerNo(1), None)
        }],
        START,
    );
    lane.on_command(Command::Resume, START);
    assert_eq!(seqs(&sends(&mut lane, START)), [2]);
}
