//! A partner and a store that behave as the seed says; every delivery must end once, in order.

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
        let mut lane = lane(Order::Subject);
        lane.set_room(if dice.next(2) == 0 { WINDOW_MIN } else { WINDOW });
        Self {
            dice,
            now: START,
            store: Store::default(),
            lane,
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
        self.lane.offer(&offer, self.now);
    }

    /// The hub dies and starts again from what was recorded.
    fn restart(&mut self) {
        self.under_way.clear();
        let (cursor, counted) = self.store.cursor;
        self.lane = Lane::new(PartnerNo(1), policy(Order::Subject), cursor, counted);
        self.lane.set_room(if self.dice.next(2) == 0 { WINDOW_MIN } else { WINDOW });
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
                Action::Record(record) => self.record(*record),
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
