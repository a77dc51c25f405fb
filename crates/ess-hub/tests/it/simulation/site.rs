//! One partner in the simulated world: its real lane, its store, its network, and the checks that watch them.
//!
//! It does for one lane what `ess-hub/lanes` does for all, with every wait on the simulated clock.

use std::collections::BTreeSet;
use std::time::Duration;

use ess_core::id::{Digest, EventId, PartnerNo, Seq, Subject, Version};
use ess_core::lane::{
    Action, Attempt, Command, Lane, Offer, OpenDelivery, Outcome, Policy, Record, Report, Sent, Tried,
};
use ess_core::receipt::{Receipt, Verdict};
use ess_core::time::Time;

use super::checks::{Broken, Checks, Fact, Scene};
use super::dice::Dice;
use super::kept::{self, Change, Place, Store};
use super::operator::Act;
use super::partner::{PartnerModel, SaidWord};
use super::plan;

/// Outcomes wait so long for others before they are committed.
const OUTCOME_WINDOW: Duration = Duration::from_millis(25);
/// Stored deliveries of a line that are read at once.
const LINE_PAGE: usize = 16;
/// Open deliveries that a lane starts with; the real store's page is larger, its lines are longer.
const START_PAGE: usize = 40;
/// Actions that one step may bring about before the lane counts as one that never rests.
const ACTIONS_MAX: usize = 100_000;

/// Now, by the world's clock and by the hub's, which may have jumped.
#[derive(Debug, Clone, Copy, Default)]
pub struct Now {
    pub world: Duration,
    pub lane: Time,
}

/// What a lane asked the store for.
#[derive(Debug, Clone)]
pub enum Wanted {
    Backlog { after: Seq, limit: usize },
    Line { subject: Subject, test: bool },
    Open { after: Place, limit: usize },
    Urgent { after: Seq, scanned_to: Seq, limit: usize },
}

/// What the store answers.
#[derive(Debug, Clone)]
pub enum Read {
    Backlog(Vec<Offer>, Seq),
    Line { subject: Subject, test: bool, opened: Vec<OpenDelivery>, more: bool },
    Open(Vec<OpenDelivery>, Option<Place>),
    Urgent { offers: Vec<(Offer, u64)>, scanned_to: Seq, has_more: bool },
}

/// What happens at a site at some time.
#[derive(Debug, Clone)]
pub enum Doing {
    Wake(Time),
    Commit,
    Ended { attempt: Attempt, receipt: Option<Receipt> },
    Look(Wanted),
    Give(Read),
    Hear(Seq, SaidWord),
    Act(Act),
}

impl Doing {
    /// It happens outside of the hub, which may die meanwhile.
    pub fn outlives_the_hub(&self) -> bool {
        matches!(self, Doing::Hear(..) | Doing::Act(_))
    }
}

/// One partner.
pub struct Site {
    pub policy: Policy,
    pub lane: Lane,
    pub store: Store,
    pub dice: Dice,
    pub log: Vec<Offer>,
    pub now: Now,
    pub no_bridge: BTreeSet<String>,
    pub is_paused: bool,
    pub broken: Option<Broken>,
    /// What is to happen, by the world's clock.
    pub agenda: Vec<(Duration, Doing)>,
    /// What was sent, and when.
    pub sends: Vec<(Duration, Place, u32)>,
    pub lines: Option<Vec<String>>,
    model: PartnerModel,
    checks: Checks,
    subscribed: Vec<bool>,
    room: usize,
    /// How long the store may take to look, and to answer.
    reading_max: Duration,
    head: Seq,
    is_behind: bool,
    armed: Option<Time>,
    is_commit_armed: bool,
}

impl Site {
    pub fn new(seed: u64, part: u64, horizon: Duration, is_traced: bool) -> Self {
        let mut dice = Dice::new(seed, part);
        let policy = plan::policy(&mut dice);
        let model = PartnerModel::new(Dice::new(seed, part + 1_000), policy.ack.by, horizon);
        let subscribed = (0..plan::SUBJECTS).map(|_| dice.chance(70)).collect();
        let room = dice.pick(&[ess_core::lane::WINDOW_MIN, ess_core::lane::WINDOW_MIN, ess_core::lane::WINDOW]);
        let mut agenda = Vec::new();
        for (at, act) in plan::acts(&mut dice, horizon) {
            agenda.push((at, Doing::Act(act)));
        }
        let mut site = Self::with(policy, model, dice, subscribed, room);
        site.agenda = agenda;
        site.reading_max = Duration::from_millis(site.dice.pick(&[5, 5, 400]));
        site.lines = is_traced.then(Vec::new);
        site
    }

    pub fn with(policy: Policy, model: PartnerModel, dice: Dice, subscribed: Vec<bool>, room: usize) -> Self {
        let mut lane = Lane::new(PartnerNo(1), policy.clone(), Seq(0), 0);
        lane.set_room(room);
        let mut site = Self {
            policy,
            lane,
            store: Store::default(),
            dice,
            log: Vec::new(),
            now: Now::default(),
            no_bridge: BTreeSet::new(),
            is_paused: false,
            broken: None,
            agenda: Vec::new(),
            sends: Vec::new(),
            lines: None,
            model,
            checks: Checks::default(),
            subscribed,
            room,
            reading_max: Duration::from_millis(5),
            head: Seq(0),
            is_behind: false,
            armed: None,
            is_commit_armed: false,
        };
        let policy = site.policy.clone();
        site.tell(&Fact::Commanded(&Command::Policy(policy)));
        site
    }

    /// Another behaviour of the same partner.
    pub fn set_model(&mut self, model: PartnerModel) {
        self.model = model;
    }

    /// Shows a fact to the checks; the first that is broken ends the run.
    pub fn tell(&mut self, fact: &Fact<'_>) {
        if self.broken.is_some() {
            return;
        }
        let scene = Scene {
            now: self.now.lane,
            policy: &self.policy,
            store: &self.store,
            lane: &self.lane,
            room: self.room,
            log: &self.log,
        };
        self.broken = self.checks.see(fact, &scene).err();
    }

    /// A line of the trace, when there is one.
    pub fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:>14.6}  {}", self.now.world.as_secs_f64(), line()));
        }
    }

    pub fn later(&mut self, delay: Duration, doing: Doing) {
        self.agenda.push((self.now.world + delay, doing));
    }

    pub fn offer(&self, seq: Seq) -> &Offer {
        &self.log[self.log.partition_point(|offer| offer.seq < seq)]
    }

    /// Whether events of the subject are for it.
    pub fn takes(&self, subject: usize) -> bool {
        self.subscribed[subject]
    }

    /// The event is in the log; the lane has not heard of it yet.
    pub fn publish(&mut self, subject: usize, offer: &Offer) {
        if self.takes(subject) {
            self.log.push(offer.clone());
            self.note(|| {
                format!("published {} of {} ({:?}, test {})", offer.seq, offer.subject, offer.priority, offer.test)
            });
            self.tell(&Fact::Published { offer, rank: self.log.len() as u64 });
        }
    }

    /// The event comes to the lanes, as `Lanes::offer` does it.
    pub fn fan_out(&mut self, seq: Seq) {
        self.head = seq;
        let at = self.log.partition_point(|offer| offer.seq < seq);
        let Some(offer) = self.log.get(at).filter(|offer| offer.seq == seq).cloned() else { return };
        let is_urgent = offer.class() == ess_core::lane::URGENT;
        if self.is_behind && !is_urgent {
            return;
        }
        if self.lane.offer(&offer, self.now.lane) || is_urgent {
            self.pump();
        }
    }

    /// The hub died and is there again.
    pub fn restart(&mut self, head: Seq) {
        let survived = self.dice.below(self.store.pending() as u64 + 1) as usize;
        self.store.commit(survived);
        self.store.forget_pending();
        let kept = &self.store.durable;
        let mut lane = Lane::new(PartnerNo(1), self.policy.clone(), kept.cursor, kept.counted);
        lane.resume(kept.health, self.is_paused, kept.done_past_cursor(), head);
        self.lane = lane;
        (self.head, self.armed, self.is_commit_armed, self.is_behind) = (head, None, false, false);
        self.note(|| format!("restarted; {survived} outcomes survived"));
        self.tell(&Fact::Restarted);
        let (open, next) = self.store.durable.open_after((Seq(0), 0), START_PAGE);
        let now = self.now.lane;
        self.lane.on_opened(open, now);
        if let Some(after) = next {
            let (left, _) = self.store.durable.open_after(after, usize::MAX);
            for open in left {
                self.lane.leave_in_store(&open.subject, open.test, after);
            }
        }
        self.lane.on_command(Command::Unblock, now);
        self.lane.want_urgent();
        self.lane.set_room(self.room);
        self.pump();
    }

    /// From now on all is well.
    pub fn calm(&mut self) {
        self.act(Act::AddBridges);
        if self.is_paused {
            self.act(Act::Resume);
        }
    }

    pub fn perform(&mut self, doing: Doing) {
        let now = self.now.lane;
        match doing {
            Doing::Wake(due) => {
                if self.armed == Some(due) {
                    self.armed = None;
                    self.lane.on_timeout(now);
                    self.pump();
                }
            }
            Doing::Commit => {
                self.is_commit_armed = false;
                self.store.commit_all();
            }
            Doing::Ended { attempt, receipt } => self.on_ended(attempt, receipt),
            Doing::Look(wanted) => {
                let read = self.look(wanted);
                let delay = self.dice.span(Duration::from_micros(50), self.reading_max);
                self.later(delay, Doing::Give(read));
            }
            Doing::Give(read) => {
                self.give(read);
                self.pump();
            }
            Doing::Hear(seq, word) => self.hear(seq, word),
            Doing::Act(act) => self.act(act),
        }
    }

    fn look(&mut self, wanted: Wanted) -> Read {
        match wanted {
            Wanted::Backlog { after, limit } => {
                // Only what went into the lanes is asked for, but the log may hold more by now.
                let head = self.log.last().map_or(self.head, |last| last.seq.max(self.head));
                let (offers, scanned_to) = kept::backlog(&self.log, head, after, limit);
                Read::Backlog(offers, scanned_to)
            }
            Wanted::Urgent { after, scanned_to, limit } => {
                let (offers, scanned_to, has_more) = kept::urgent(&self.log, after, scanned_to, limit);
                Read::Urgent { offers, scanned_to, has_more }
            }
            Wanted::Line { subject, test } => {
                self.store.commit_all();
                let (opened, more) = self.store.durable.line(&subject, test, LINE_PAGE);
                Read::Line { subject, test, opened, more }
            }
            Wanted::Open { after, limit } => {
                self.store.commit_all();
                let (opened, next) = self.store.durable.open_after(after, limit);
                Read::Open(opened, next)
            }
        }
    }

    fn give(&mut self, read: Read) {
        let now = self.now.lane;
        match read {
            Read::Backlog(offers, scanned_to) => self.lane.on_loaded(offers, scanned_to, now),
            Read::Line { subject, test, opened, more } => {
                self.lane.on_line_loaded(&subject, test, opened, more, now);
            }
            Read::Urgent { offers, scanned_to, has_more } => {
                self.lane.on_urgent_loaded(offers, scanned_to, has_more, now);
            }
            Read::Open(opened, next) => self.lane.on_open_loaded(opened, next, now),
        }
    }

    fn on_ended(&mut self, attempt: Attempt, receipt: Option<Receipt>) {
        let (event, digest) = (event_id(attempt.seq), digest(attempt.seq));
        let (outcome, status) = match &receipt {
            None => (Outcome::Blocked { reason: "no bridge".to_owned(), mend: "add one".to_owned() }, None),
            Some(receipt) => {
                let status = match receipt {
                    Receipt::Answer(answer) => Some(answer.status),
                    _ => None,
                };
                (Outcome::Verdict(Verdict::of(receipt, &self.policy.ack, &event, &digest)), status)
            }
        };
        self.note(|| format!("attempt {} of {:?} ended: {outcome:?}", attempt.number, (attempt.seq, attempt.round)));
        self.tell(&Fact::Answered { attempt: &attempt, outcome: &outcome });
        let now = self.now.lane;
        let tried = Tried {
            number: attempt.number,
            at: attempt.started,
            took: now.since(attempt.started),
            status,
            outcome: "x",
            reason: String::new(),
        };
        let sent = receipt.is_some().then(|| sent_of(attempt.seq));
        let dice = self.dice.unit();
        self.lane.on_report(Report { attempt, outcome, sent, tried }, now, dice);
        self.pump();
    }

    pub fn record(&mut self, change: Change) {
        self.store.record(change.clone());
        self.note(|| short(&change));
        self.tell(&Fact::Recorded(&change));
        if !self.is_commit_armed {
            self.is_commit_armed = true;
            let window = OUTCOME_WINDOW.as_micros() as u64;
            let next = (self.now.world.as_micros() as u64 / window + 1) * window;
            self.agenda.push((Duration::from_micros(next), Doing::Commit));
        }
    }

    /// Takes what the lane asks for, and arms its timer; as `Lanes::pump` does it.
    pub fn pump(&mut self) {
        if self.is_behind {
            self.lane.hear_of(self.head);
        }
        let mut count = 0;
        while self.broken.is_none()
            && let Some(action) = self.lane.poll(self.now.lane)
        {
            count += 1;
            if count > ACTIONS_MAX {
                let why = format!("the lane asks for more and more: {action:?}");
                self.broken = Some(Broken { check: "rests", why });
                return;
            }
            self.obey(action);
        }
        self.is_behind = !self.lane.keeps_up();
        if let Some(next) = self.lane.next_timeout()
            && self.armed.is_none_or(|armed| next < armed)
        {
            self.armed = Some(next);
            self.later(next.since(self.now.lane), Doing::Wake(next));
        }
    }

    fn obey(&mut self, action: Action) {
        match action {
            Action::Send(attempt) => self.send(attempt),
            Action::Record(record) => self.record(Change::Lane(*record)),
            Action::Load { after, limit } => self.want(Wanted::Backlog { after, limit }),
            Action::LoadLine { subject, test } => self.want(Wanted::Line { subject, test }),
            Action::LoadUrgent { after, scanned_to, limit } => self.want(Wanted::Urgent { after, scanned_to, limit }),
            Action::LoadOpen { after, limit } => self.want(Wanted::Open { after, limit }),
            other => {
                self.note(|| format!("{other:?}"));
                self.tell(&Fact::Asked(&other));
                if matches!(other, Action::PausePartner { .. }) {
                    self.is_paused = true;
                    self.tell(&Fact::Commanded(&Command::Pause));
                    let back = self.dice.span(Duration::from_secs(60), Duration::from_secs(20_000));
                    self.later(back, Doing::Act(Act::Resume));
                }
            }
        }
    }

    fn want(&mut self, wanted: Wanted) {
        self.note(|| format!("wants {wanted:?}"));
        let delay = self.dice.span(Duration::from_micros(50), self.reading_max);
        self.later(delay, Doing::Look(wanted));
    }

    fn send(&mut self, attempt: Attempt) {
        let place = (attempt.seq, attempt.round);
        self.note(|| format!("attempt {} of {place:?} leaves", attempt.number));
        self.sends.push((self.now.world, place, attempt.number));
        self.tell(&Fact::Sent(&attempt));
        if self.no_bridge.contains(self.offer(attempt.seq).subject.as_str()) {
            return self.later(Duration::from_millis(1), Doing::Ended { attempt, receipt: None });
        }
        if self.policy.ack.by == ess_core::partner::AckBy::Callback {
            self.lane.on_prepared(attempt.seq, attempt.round, sent_of(attempt.seq));
        }
        let reaction = self.model.react(self.now.world, &event_id(attempt.seq), &digest(attempt.seq));
        for (delay, word) in reaction.words {
            self.later(delay, Doing::Hear(attempt.seq, word));
        }
        self.later(reaction.took, Doing::Ended { attempt, receipt: Some(reaction.receipt) });
    }
}

fn event_id(seq: Seq) -> EventId {
    EventId::trusted(&format!("E{seq}"))
}

fn digest(seq: Seq) -> Digest {
    Digest::of(&seq.0.to_le_bytes())
}

fn sent_of(seq: Seq) -> Sent {
    Sent { version: Version(1), body_digest: digest(seq), scripts: [].into() }
}

fn short(change: &Change) -> String {
    match change {
        Change::Lane(Record::Opened(open) | Record::Failed { open, .. }) => {
            format!("recorded {:?} {:?} due {:?}", kept::place_of(open), open.state, open.due_at)
        }
        Change::Lane(Record::Acked { seq, round, .. }) => format!("recorded {:?} acked", (seq, round)),
        Change::Lane(Record::Ended { open, ended }) => {
            format!("recorded {:?} {:?}: {}", kept::place_of(open), ended.state, ended.reason)
        }
        other => format!("recorded {other:?}"),
    }
}
