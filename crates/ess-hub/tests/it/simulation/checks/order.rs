//! Order: under `subject` a partner never sees a newer event before the older one ended, under `latest` never an older one after
//! a newer one.
//!
//! What was under way already when an older delivery was opened (a replay, a redrive, another `order`) may finish.

use std::collections::{BTreeMap, HashMap, HashSet};

use ess_core::id::Subject;
use ess_core::lane::{Command, Policy};
use ess_core::partner::Order;

use super::super::kept::Place;
use super::{Fact, Scene};
use crate::simulation::kept::Change;
use ess_core::lane::Record;

#[derive(Default)]
struct Line {
    /// Not ended; since which fact.
    open: BTreeMap<Place, u64>,
    /// Sent for the first time by which fact.
    sent: BTreeMap<Place, u64>,
}

#[derive(Default)]
pub struct InOrder {
    tick: u64,
    lines: HashMap<(Subject, bool), Line>,
    /// What another `order` found under way.
    excused: HashSet<Place>,
    policy: Option<Policy>,
}

impl InOrder {
    pub fn see(&mut self, fact: &Fact<'_>, scene: &Scene<'_>) -> Result<(), String> {
        self.tick += 1;
        match fact {
            Fact::Published { offer, .. } => self.open((offer.seq, 0), scene),
            Fact::OpenedByOperator(place) => {
                self.line(*place, scene).sent.remove(place);
                self.excused.remove(place);
                self.open(*place, scene);
            }
            Fact::Recorded(change) => {
                if let Some(place) = ended_by(change) {
                    self.line(place, scene).open.remove(&place);
                }
            }
            Fact::Commanded(Command::Policy(policy)) => self.on_policy(policy),
            Fact::Restarted => self.on_restart(scene),
            Fact::Sent(attempt) => return self.on_sent((attempt.seq, attempt.round), scene),
            _ => {}
        }
        Ok(())
    }

    fn line(&mut self, place: Place, scene: &Scene<'_>) -> &mut Line {
        let offer = scene.offer(place);
        self.lines.entry((offer.subject.clone(), offer.test)).or_default()
    }

    fn open(&mut self, place: Place, scene: &Scene<'_>) {
        let tick = self.tick;
        self.line(place, scene).open.insert(place, tick);
    }

    fn on_sent(&mut self, place: Place, scene: &Scene<'_>) -> Result<(), String> {
        let tick = self.tick;
        let is_excused = self.excused.contains(&place);
        let line = self.line(place, scene);
        let first_sent = line.sent.get(&place).copied();
        let opened = line.open.get(&place).copied().unwrap_or(tick);
        line.sent.entry(place).or_insert(tick);
        if is_excused {
            return Ok(());
        }
        match scene.policy.order {
            Order::Subject => {
                let was_before = |since: u64| first_sent.is_none_or(|sent| since < sent);
                // A replay of what is outstanding is no newer event.
                let mut older = line.open.range(..(place.0, 0)).filter(|(_, since)| was_before(**since));
                if let Some((older, _)) = older.next() {
                    return Err(format!("{place:?} was sent before the older {older:?} of its subject ended"));
                }
            }
            Order::Latest => {
                let mut newer = line.sent.iter().filter(|(other, sent)| other.0 > place.0 && **sent > opened);
                if let Some((newer, _)) = newer.next() {
                    return Err(format!("{place:?} was sent after the newer {newer:?} of its subject"));
                }
            }
            Order::None => {}
        }
        Ok(())
    }

    fn on_policy(&mut self, policy: &Policy) {
        let has_other_order = self.policy.as_ref().is_some_and(|before| before.order != policy.order);
        self.policy = Some(policy.clone());
        if !has_other_order {
            return;
        }
        for line in self.lines.values() {
            for place in line.open.keys() {
                let newer_was_sent = line.sent.keys().any(|other| other.0 > place.0);
                let may_finish = match policy.order {
                    Order::Subject => line.sent.contains_key(place),
                    Order::Latest => newer_was_sent,
                    Order::None => false,
                };
                if may_finish {
                    self.excused.insert(*place);
                }
            }
        }
    }

    /// What the crash undid is open again, and was not sent as far as the hub knows.
    fn on_restart(&mut self, scene: &Scene<'_>) {
        let kept = &scene.store.durable;
        for line in self.lines.values_mut() {
            line.sent.retain(|place, _| {
                kept.end_of(place).is_some() || kept.open.get(place).is_some_and(|open| open.attempts > 0)
            });
            line.open.retain(|place, _| place.1 == 0 || kept.open.contains_key(place));
        }
        self.excused.retain(|place| kept.open.get(place).is_some_and(|open| open.attempts > 0));
        for offer in scene.log {
            let place = (offer.seq, 0);
            let is_open = kept.end_of(&place).is_none();
            let tick = self.tick;
            let line = self.line(place, scene);
            if is_open {
                line.open.entry(place).or_insert(tick);
            } else {
                line.open.remove(&place);
            }
        }
        for place in kept.open.keys() {
            let tick = self.tick;
            self.line(*place, scene).open.entry(*place).or_insert(tick);
        }
    }
}

fn ended_by(change: &Change) -> Option<Place> {
    match change {
        Change::Lane(Record::Acked { seq, round, .. }) => Some((*seq, *round)),
        Change::Lane(Record::Ended { open, .. }) => Some((open.key.seq, open.key.round)),
        Change::AckedInStore(place) => Some(*place),
        Change::Discarded(open) => Some((open.key.seq, open.key.round)),
        _ => None,
    }
}
