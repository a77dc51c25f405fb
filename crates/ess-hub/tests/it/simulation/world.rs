//! The simulated world: one clock, one log, many partners, and what befalls them, all from one seed and in one thread.

use std::collections::BTreeMap;
use std::time::Duration;

use ess_core::event::{Kind, Priority};
use ess_core::id::{Seq, Subject};
use ess_core::lane::Offer;
use ess_core::time::Time;

use super::checks::{Broken, Fact};
use super::dice::Dice;
use super::plan;
use super::site::{Doing, Now, Site};

/// 2026-11-26, about.
const START: i64 = 1_795_000_000_000_000;
/// Events of a world before it counts as one that never settles.
const STEPS_MAX: u64 = 3_000_000;
/// The last lines that a failure shows.
const TRACE_LINES: usize = 60;

/// What is asked of a run.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    pub seed: u64,
    /// Keeps what happened, to be shown.
    pub is_traced: bool,
    /// This partner behaves as another seed says.
    pub altered: Option<usize>,
}

/// What a run was.
#[derive(Debug, Default)]
pub struct Played {
    pub events: u64,
    pub attempts: u64,
    pub crashes: u64,
    pub simulated: Duration,
    /// By partner: what was sent, and when.
    pub sends: Vec<Vec<(Duration, super::kept::Place, u32)>>,
    /// The log, with the partners that each event was for.
    pub log: Vec<(Offer, Vec<usize>)>,
    /// By partner: its store, when its history was asked for.
    pub stores: Vec<super::kept::Store>,
}

/// A run in which something did not hold.
#[derive(Debug)]
pub struct Failure {
    pub seed: u64,
    pub partner: usize,
    pub at: Duration,
    pub broken: Broken,
    pub lines: Vec<String>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = if std::env::var_os("ESS_SIM_TRACE").is_some() { usize::MAX } else { TRACE_LINES };
        let from = self.lines.len().saturating_sub(shown);
        for line in &self.lines[from..] {
            writeln!(f, "{line}")?;
        }
        writeln!(
            f,
            "seed {}, partner {} after {:?}: `{}` does not hold: {}",
            self.seed, self.partner, self.at, self.broken.check, self.broken.why
        )?;
        write!(f, "repeat with: ESS_SIM_SEED={} cargo test -p ess-hub --test it simulation::", self.seed)
    }
}

/// What happens in the world at some time.
enum Event {
    Publish,
    /// The lanes of this life hear of the event.
    FanOut(u32, Seq),
    Crash,
    Restart,
    Calm,
    At(usize, u32, Doing),
}

/// The world.
pub struct World {
    pub sites: Vec<Site>,
    dice: Dice,
    world_now: Duration,
    /// How far the hub's clock is from the world's, in microseconds.
    clock_error: i64,
    agenda: BTreeMap<(Duration, u64), Event>,
    count: u64,
    head: Seq,
    life: u32,
    is_up: bool,
    seed: u64,
    crashes: u64,
    log: Vec<(Offer, Vec<usize>)>,
}

impl World {
    /// The world of a seed.
    pub fn of(run: Run) -> Self {
        let mut dice = Dice::new(run.seed, 0);
        let partners = if dice.chance(20) { 3 + dice.below(18) } else { 3 + dice.below(4) };
        let horizon = Duration::from_secs(dice.pick(&[600, 7_200, 43_200, 216_000]));
        let mut world = Self::empty(run.seed, dice);
        for index in 0..partners {
            let mut site = Site::new(run.seed, index + 1, horizon, run.is_traced);
            if run.altered == Some(index as usize) {
                let other = Dice::new(!run.seed, index + 1_000);
                let model = super::partner::PartnerModel::new(other, site.policy.ack.by, horizon);
                site.set_model(model);
            }
            world.sites.push(site);
        }
        let publishes = world.dice.pick(&[10, 40, 80]);
        for _ in 0..publishes {
            let at = world.dice.span(Duration::ZERO, horizon);
            world.at(at, Event::Publish);
        }
        if world.dice.chance(25) {
            // A flood.
            let at = world.dice.span(Duration::ZERO, horizon);
            let count = 50 + world.dice.below(150);
            for nth in 0..count {
                world.at(at + Duration::from_millis(nth), Event::Publish);
            }
        }
        for _ in 0..world.dice.pick(&[0, 1, 3, 8]) {
            let at = world.dice.span(Duration::ZERO, horizon);
            world.at(at, Event::Crash);
        }
        world.at(horizon, Event::Calm);
        world
    }

    /// A world where nothing happens yet.
    pub fn empty(seed: u64, dice: Dice) -> Self {
        Self {
            sites: Vec::new(),
            dice,
            world_now: Duration::ZERO,
            clock_error: 0,
            agenda: BTreeMap::new(),
            count: 0,
            head: Seq(0),
            life: 0,
            is_up: true,
            seed,
            crashes: 0,
            log: Vec::new(),
        }
    }

    /// An event is published then.
    pub fn publish_at(&mut self, at: Duration) {
        self.at(at, Event::Publish);
    }

    /// The hub dies then.
    pub fn crash_at(&mut self, at: Duration) {
        self.at(at, Event::Crash);
    }

    /// Plays it to the end.
    pub fn play(mut self) -> Result<Played, Failure> {
        for index in 0..self.sites.len() {
            self.collect(index);
        }
        let mut steps = 0;
        while let Some(((at, _), event)) = self.agenda.pop_first() {
            steps += 1;
            self.world_now = self.world_now.max(at);
            if let Some(failure) = self.happen(event) {
                return Err(failure);
            }
            if steps > STEPS_MAX {
                let broken = Broken { check: "settles", why: format!("{STEPS_MAX} steps, and still no rest") };
                return Err(self.failure(0, broken));
            }
        }
        for index in 0..self.sites.len() {
            self.set_now(index);
            self.sites[index].tell(&Fact::Settled);
            if let Some(broken) = self.sites[index].broken.take() {
                return Err(self.failure(index, broken));
            }
        }
        let sends: Vec<_> = self.sites.iter_mut().map(|site| std::mem::take(&mut site.sends)).collect();
        let attempts = sends.iter().map(|sends| sends.len() as u64).sum();
        Ok(Played {
            events: self.head.0,
            attempts,
            crashes: self.crashes,
            simulated: self.world_now,
            sends,
            log: self.log,
            stores: self.sites.into_iter().map(|site| site.store).collect(),
        })
    }

    fn happen(&mut self, event: Event) -> Option<Failure> {
        match event {
            Event::Publish => return self.publish(),
            Event::FanOut(life, seq) if life == self.life => return self.each(|site| site.fan_out(seq)),
            Event::FanOut(..) => {}
            Event::Crash => {
                if self.is_up {
                    (self.is_up, self.life, self.crashes) = (false, self.life + 1, self.crashes + 1);
                    let down = self.dice.span(Duration::from_millis(200), Duration::from_secs(300));
                    self.at(self.world_now + down, Event::Restart);
                }
            }
            Event::Restart => {
                self.is_up = true;
                self.jump();
                let head = self.head;
                return self.each(|site| site.restart(head));
            }
            Event::Calm if self.is_up => return self.each(Site::calm),
            Event::Calm => self.at(self.world_now + Duration::from_secs(1), Event::Calm),
            Event::At(index, life, doing) => return self.at_site(index, life, doing),
        }
        None
    }

    fn at_site(&mut self, index: usize, life: u32, doing: Doing) -> Option<Failure> {
        if !self.is_up && doing.outlives_the_hub() {
            let is_given_up = matches!(doing, Doing::Act(act) if !act.can_wait());
            if !is_given_up {
                self.at(self.world_now + Duration::from_secs(60), Event::At(index, life, doing));
            }
            return None;
        }
        if life == self.life || doing.outlives_the_hub() { self.one(index, |site| site.perform(doing)) } else { None }
    }

    fn publish(&mut self) -> Option<Failure> {
        if !self.is_up {
            return None; // Nobody answers; the publisher comes again or not.
        }
        let subject = self.dice.below(plan::SUBJECTS);
        let offer = Offer {
            seq: Seq(self.head.0 + 1),
            subject: Subject::trusted(&format!("s{subject}")),
            priority: if self.dice.chance(10) { Priority::Urgent } else { Priority::Routine },
            kind: if self.dice.chance(5) { Kind::Retraction } else { Kind::Change },
            test: self.dice.chance(8),
            recorded_at: self.lane_now(),
        };
        self.head = offer.seq;
        self.at(self.world_now + Duration::from_millis(1), Event::FanOut(self.life, offer.seq));
        let takers = (0..self.sites.len()).filter(|index| self.sites[*index].takes(subject as usize)).collect();
        self.log.push((offer.clone(), takers));
        self.each(|site| site.publish(subject as usize, &offer))
    }

    /// The machine's clock is set while the hub is down.
    fn jump(&mut self) {
        if self.dice.chance(40) {
            let most = self.dice.pick(&[2, 3_600, 90_000]);
            let by = self.dice.span(Duration::ZERO, Duration::from_secs(most)).as_micros() as i64;
            self.clock_error += if self.dice.chance(50) { by } else { -by };
        }
    }

    fn each(&mut self, mut step: impl FnMut(&mut Site)) -> Option<Failure> {
        for index in 0..self.sites.len() {
            if let Some(failure) = self.one(index, &mut step) {
                return Some(failure);
            }
        }
        None
    }

    fn one(&mut self, index: usize, step: impl FnOnce(&mut Site)) -> Option<Failure> {
        self.set_now(index);
        let site = &mut self.sites[index];
        step(site);
        site.tell(&Fact::Stepped);
        if let Some(broken) = site.broken.take() {
            return Some(self.failure(index, broken));
        }
        self.collect(index);
        None
    }

    fn lane_now(&self) -> Time {
        Time::from_micros(START + self.clock_error + self.world_now.as_micros() as i64)
    }

    fn set_now(&mut self, index: usize) {
        self.sites[index].now = Now { world: self.world_now, lane: self.lane_now() };
    }

    fn collect(&mut self, index: usize) {
        for (at, doing) in std::mem::take(&mut self.sites[index].agenda) {
            self.at(at, Event::At(index, self.life, doing));
        }
    }

    fn at(&mut self, at: Duration, event: Event) {
        self.count += 1;
        self.agenda.insert((at, self.count), event);
    }

    fn failure(&mut self, partner: usize, broken: Broken) -> Failure {
        let lines = self.sites[partner].lines.take().unwrap_or_default();
        Failure { seed: self.seed, partner, at: self.world_now, broken, lines }
    }
}
