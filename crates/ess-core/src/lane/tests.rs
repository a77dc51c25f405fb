//! Stories of a lane, told without a clock, and a simulated partner and store that play thousands of them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::delivery::DeliveryKey;
use crate::event::{Kind, Priority};
use crate::id::{Digest, Version};
use crate::partner::{AckBy, Redrive};

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
        ack: AckPolicy { by: AckBy::Body, within: Duration::from_secs(30), resend: 3 },
        limits: Limits { in_flight: 16, per_second: 0.0 },
    }
}

fn offer(seq: u64, subject: &str) -> Offer {
    Offer {
        seq: Seq(seq),
        subject: Subject::trusted(subject),
        priority: Priority::Routine,
        kind: Kind::Change,
        test: false,
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
fn a_subject_goes_out_one_by_one_and_subjects_side_by_side() {
    let mut lane = lane(Order::Subject);
    for (seq, subject) in [(1, "a"), (2, "a"), (3, "b")] {
        lane.offer(offer(seq, subject), START);
    }
    let first = sends(&mut lane, START);
    assert_eq!(seqs(&first), [1, 3]);
    report(&mut lane, first[0], Verdict::Acked(Evidence::Body), START);
    assert_eq!(seqs(&sends(&mut lane, START)), [2]);
}

#[test]
fn a_failed_delivery_holds_its_subject_and_comes_back_when_due() {
    let mut lane = lane(Order::Subject);
    lane.offer(offer(1, "a"), START);
    lane.offer(offer(2, "a"), START);
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
fn the_newest_takes_the_place_of_what_was_not_delivered() {
    let mut lane = lane(Order::Latest);
    for seq in 1..=3 {
        lane.offer(offer(seq, "a"), START);
    }
    let mut ended = Vec::new();
    let mut sent = Vec::new();
    while let Some(action) = lane.poll(START) {
        match action {
            Action::Record(Record::Ended { open, ended: end }) => ended.push((open.key.seq.0, end.state)),
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
    lane.offer(offer(1, "a"), START);
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
        lane.offer(offer(seq, "a"), START);
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
        lane.offer(offer(seq, &subject), START);
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
                Action::Record(Record::Opened(open)) => {
                    store.insert((open.key.seq, open.key.round), open);
                }
                Action::Record(Record::Acked { seq, round, .. }) => {
                    acked.push(seq.0);
                    store.remove(&(seq, round));
                }
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

/// A partner and a store that behave as the seed says; every delivery must end once, in order.
mod simulation {
    use super::*;

    struct Dice(u64);

    impl Dice {
        fn next(&mut self, bound: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % bound
        }
    }

    #[derive(Default)]
    struct Store {
        log: Vec<Offer>,
        open: BTreeMap<Place, OpenDelivery>,
        acked: BTreeMap<Place, u32>,
        cursor: (Seq, u64),
        health: Health,
    }

    struct World {
        dice: Dice,
        now: Time,
        store: Store,
        lane: Lane,
        under_way: Vec<Attempt>,
        /// Subject by subject: what the partner was sent, in order.
        seen: HashMap<Subject, Vec<u64>>,
        failing: bool,
        blocked: bool,
    }

    impl World {
        fn new(seed: u64) -> Self {
            let mut dice = Dice(seed);
            for _ in 0..3 {
                dice.next(2);
            }
            Self {
                dice,
                now: START,
                store: Store::default(),
                lane: lane(Order::Subject),
                under_way: Vec::new(),
                seen: HashMap::new(),
                failing: false,
                blocked: false,
            }
        }

        fn publish(&mut self) {
            let seq = self.store.log.len() as u64 + 1;
            let subject = format!("s{}", self.dice.next(6));
            let offer = offer(seq, &subject);
            self.store.log.push(offer.clone());
            self.lane.offer(offer, self.now);
        }

        /// The hub dies and starts again from what was recorded.
        fn restart(&mut self) {
            self.under_way.clear();
            let (cursor, counted) = self.store.cursor;
            self.lane = Lane::new(PartnerNo(1), policy(Order::Subject), cursor, counted);
            let ended: Vec<Seq> = self
                .store
                .acked
                .keys()
                .filter(|place| place.0 > cursor)
                .map(|place| place.0)
                .chain(self.store.open.keys().filter(|place| place.0 > cursor).map(|place| place.0))
                .collect();
            self.lane.resume(self.store.health, false, ended, Seq(self.store.log.len() as u64));
            let open: Vec<OpenDelivery> = self.store.open.values().cloned().collect();
            self.lane.on_opened(open, self.now);
        }

        fn act(&mut self) {
            let mut steps = 0;
            while let Some(action) = self.lane.poll(self.now) {
                steps += 1;
                assert!(steps < 100_000, "the lane never rests");
                match action {
                    Action::Send(attempt) => {
                        let offer = &self.store.log[attempt.seq.0 as usize - 1];
                        let others = self
                            .under_way
                            .iter()
                            .any(|other| self.store.log[other.seq.0 as usize - 1].subject == offer.subject);
                        assert!(!others, "two of one subject under way");
                        assert_eq!(attempt.partner_seq, Some(attempt.seq.0), "the counter is gapless");
                        self.under_way.push(attempt);
                    }
                    Action::Record(record) => self.record(record),
                    Action::Load { after, limit } => {
                        let page: Vec<Offer> =
                            self.store.log.iter().filter(|offer| offer.seq > after).take(limit).cloned().collect();
                        let to = page.last().map_or(Seq(self.store.log.len() as u64), |offer| offer.seq);
                        self.lane.on_loaded(page, to, self.now);
                    }
                    Action::LoadLine { subject, test } => {
                        let line: Vec<OpenDelivery> =
                            self.store.open.values().filter(|open| open.subject == subject).cloned().collect();
                        let more = line.len() > 3;
                        self.lane.on_line_loaded(&subject, test, line.into_iter().take(3).collect(), more, self.now);
                    }
                    Action::LoadOpen { after, limit } => {
                        let mut page: Vec<OpenDelivery> = self
                            .store
                            .open
                            .range(after..)
                            .filter(|(place, _)| **place > after)
                            .map(|(_, open)| open.clone())
                            .collect();
                        let more = page.len() > limit;
                        page.truncate(limit);
                        let next = more.then(|| page.last().map(|open| (open.key.seq, open.key.round))).flatten();
                        self.lane.on_open_loaded(page, next, self.now);
                    }
                    _ => {}
                }
            }
        }

        fn record(&mut self, record: Record) {
            match record {
                Record::Opened(open) | Record::Failed { open, .. } => {
                    self.store.open.insert((open.key.seq, open.key.round), open);
                }
                Record::Acked { seq, round, .. } => {
                    self.store.open.remove(&(seq, round));
                    *self.store.acked.entry((seq, round)).or_default() += 1;
                }
                Record::Ended { open, ended } => panic!("{:?} ended as {ended:?}", open.key),
                Record::Cursor { cursor, counted } => self.store.cursor = (cursor, counted),
                Record::Health(health) => self.store.health = health,
            }
        }

        fn answer_one(&mut self) {
            if self.under_way.is_empty() {
                return;
            }
            let index = self.dice.next(self.under_way.len() as u64) as usize;
            let attempt = self.under_way.swap_remove(index);
            let subject = self.store.log[attempt.seq.0 as usize - 1].subject.clone();
            if self.blocked && subject.as_str() == "s0" {
                let outcome = Outcome::Blocked { reason: String::new(), mend: String::new() };
                let tried = tried(&attempt, self.now);
                return self.lane.on_report(Report { attempt, outcome, sent: None, tried }, self.now, 0.5);
            }
            if self.failing || self.dice.next(10) == 0 {
                return report(&mut self.lane, attempt, failure(), self.now);
            }
            let seen = self.seen.entry(subject).or_default();
            if seen.last() != Some(&attempt.seq.0) {
                seen.push(attempt.seq.0);
            }
            report(&mut self.lane, attempt, Verdict::Acked(Evidence::Body), self.now);
        }

        fn settle(&mut self) {
            self.failing = false;
            self.blocked = false;
            self.lane.on_command(Command::Unblock, self.now);
            for _ in 0..200_000 {
                self.act();
                if !self.under_way.is_empty() {
                    self.answer_one();
                } else if let Some(due) = self.lane.next_timeout() {
                    self.now = self.now.max(due);
                    self.lane.on_timeout(self.now);
                } else {
                    break;
                }
            }
        }
    }

    fn play(seed: u64) {
        let mut world = World::new(seed);
        for _ in 0..600 {
            match world.dice.next(100) {
                0..35 => world.publish(),
                35..85 => world.answer_one(),
                85..93 => {
                    world.now = world.now.after(Duration::from_millis(1 + world.dice.next(9_000)));
                    world.lane.on_timeout(world.now);
                }
                93..95 => world.failing = !world.failing,
                95..97 => {
                    world.blocked = !world.blocked;
                    world.lane.on_command(Command::Unblock, world.now);
                }
                97..98 => world.restart(),
                _ => world.lane.note_cursor(),
            }
            world.act();
            assert!(world.under_way.len() <= 16);
        }
        world.settle();
        let expected = world.store.log.len();
        assert_eq!(world.store.acked.len(), expected, "seed {seed}: not everything ended");
        assert!(world.store.acked.values().all(|ends| *ends == 1), "seed {seed}: an end was recorded twice");
        for (subject, seen) in &world.seen {
            assert!(seen.is_sorted(), "seed {seed}: {subject} out of order: {seen:?}");
        }
    }

    #[test]
    fn every_delivery_ends_once_and_in_order_whatever_happens() {
        for seed in 0..300 {
            play(seed);
        }
    }
}

#[test]
fn a_paused_lane_sends_nothing_and_goes_on_when_resumed() {
    let mut lane = lane(Order::Subject);
    lane.on_command(Command::Pause, START);
    lane.offer(offer(1, "a"), START);
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
        lane.offer(offer(seq, "a"), START);
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
    lane.offer(offer(1, "a"), START);
    let attempt = sends(&mut lane, START)[0];
    assert!(lane.on_ack(Seq(1), 0, Evidence::Callback, START));
    report(&mut lane, attempt, Verdict::Received, START);
    let acked = std::iter::from_fn(|| lane.poll(START))
        .filter(|action| matches!(action, Action::Record(Record::Acked { .. })))
        .count();
    assert_eq!((acked, lane.in_flight()), (1, 0));
}

#[test]
fn a_replay_goes_before_what_is_newer_and_not_yet_under_way() {
    let mut lane = lane(Order::Subject);
    lane.on_command(Command::Pause, START);
    lane.offer(offer(5, "a"), START);
    lane.on_opened(
        vec![OpenDelivery {
            key: DeliveryKey { seq: Seq(2), partner: PartnerNo(1), round: 1 },
            subject: Subject::trusted("a"),
            priority: Priority::Routine,
            kind: Kind::Change,
            test: false,
            state: OpenState::Pending,
            attempts: 0,
            resends: 0,
            due_at: None,
            first_failed_at: None,
            partner_seq: None,
            reason: None,
            mend: None,
            message_uuid: None,
            sent: None,
        }],
        START,
    );
    lane.on_command(Command::Resume, START);
    assert_eq!(seqs(&sends(&mut lane, START)), [2]);
}
