//! When Ops are told: a state for each partner and cause, and in it one for each target.
//!
//! The owner calls `see` with what is wrong now, then sends every `Telling` that `next` yields and reports it with `on_told`. What
//! was told is compared with what is, so that nothing is told twice, and what changed back before it could be told is not told at
//! all. A target is given one message at a time; one that fails is left alone for longer and longer, and nothing else waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use super::{Cause, Quiet, Trouble};
use crate::id::PartnerNo;
use crate::time::Time;

/// Wait after a target's first failure; doubled by each further one.
const RETRY_FIRST: Duration = Duration::from_secs(5);
/// Longest wait for a target that fails.
const RETRY_MAX: Duration = Duration::from_secs(600);

/// What holds for all.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Between two beginnings of the same trouble of a partner: one that comes and goes is told this often at most.
    pub distance: Duration,
}

/// What holds for a target.
#[derive(Debug, Clone, Default)]
pub struct TargetRules {
    /// When it is told urgent things only.
    pub quiet: Option<Quiet>,
    /// Trouble that lasts is told again this often.
    pub again_every: Option<Duration>,
}

/// What was seen of a partner, by one cause.
#[derive(Debug)]
pub struct Sighting<'a> {
    /// Whose.
    pub partner: PartnerNo,
    /// By which cause.
    pub cause: Cause,
    /// What is wrong; `None` when nothing is.
    pub trouble: Option<Trouble>,
    /// Names of the targets that are told.
    pub to: &'a [String],
    /// How long it must be seen before it is told.
    pub settle: Duration,
}

/// A beginning that was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// When it was told.
    pub told_at: Time,
    /// Since when the trouble was there.
    pub since: Time,
    /// It was told as urgent.
    pub urgent: bool,
}

/// A message to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Telling {
    /// Whose trouble.
    pub partner: PartnerNo,
    /// By which cause.
    pub cause: Cause,
    /// Which target.
    pub target: String,
    /// What is told.
    pub told: Told,
}

/// What is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// Trouble began.
    Begun(Trouble),
    /// It lasts: for targets that forget.
    Lasts(Trouble, Open),
    /// It is over.
    Ended(Open),
}

/// Trouble as it is now, and who was told.
#[derive(Debug, Clone)]
pub struct WatchedTrouble {
    /// Whose.
    pub partner: PartnerNo,
    /// By which cause.
    pub cause: Cause,
    /// What is wrong.
    pub trouble: Trouble,
    /// Targets that were told its beginning.
    pub told: Vec<String>,
    /// Targets that are yet to be told, with the time before which they are not.
    pub waiting: Vec<(String, Time)>,
}

/// The states of all partners' troubles.
#[derive(Debug)]
pub struct Watch {
    rules: Rules,
    targets: BTreeMap<String, TargetState>,
    lines: BTreeMap<Key, Line>,
}

type Key = (PartnerNo, Cause);

#[derive(Debug, Default)]
struct TargetState {
    rules: TargetRules,
    is_busy: bool,
    failures: u32,
    not_before: Time,
    /// The line that was tried last: the next one comes after it, so that one bad message does not hold all others up.
    last: Option<Key>,
}

/// One partner's trouble by one cause.
#[derive(Debug, Default)]
struct Line {
    trouble: Option<Trouble>,
    /// Since when it is seen without a break.
    ripe_at: Time,
    to: BTreeSet<String>,
    targets: BTreeMap<String, LineTarget>,
}

/// What one target knows of it.
#[derive(Debug, Default)]
struct LineTarget {
    open: Option<Open>,
    begun_at: Option<Time>,
    again_at: Time,
}

/// What is to be done about one line at one target.
enum Due {
    Nothing,
    At(Time),
    Now(Told),
}

impl Watch {
    /// Nothing is wrong yet.
    #[must_use]
    pub fn new(rules: Rules, targets: BTreeMap<String, TargetRules>) -> Self {
        let state = |(name, rules)| (name, TargetState { rules, ..TargetState::default() });
        Self { rules, targets: targets.into_iter().map(state).collect(), lines: BTreeMap::new() }
    }

    /// What an earlier run told and did not take back. Of a target that is no more, nothing is remembered.
    pub fn restore(&mut self, partner: PartnerNo, cause: Cause, target: &str, open: Open) {
        if self.targets.contains_key(target) {
            let line = self.lines.entry((partner, cause)).or_default();
            let begun_at = Some(open.told_at);
            let known = LineTarget { open: Some(open), begun_at, again_at: Time::default() };
            line.targets.insert(target.to_owned(), known);
        }
    }

    /// Forgets a partner without a word: somebody else looks after it now.
    pub fn forget(&mut self, partner: PartnerNo) {
        self.lines.retain(|(known, _), _| *known != partner);
    }

    /// Takes what was seen now.
    pub fn see(&mut self, sighting: Sighting<'_>, now: Time) {
        let key = (sighting.partner, sighting.cause);
        if sighting.trouble.is_none() && !self.lines.contains_key(&key) {
            return;
        }
        let line = self.lines.entry(key).or_default();
        if sighting.trouble.is_some() && line.trouble.is_none() {
            line.ripe_at = now.after(sighting.settle);
        }
        line.trouble = sighting.trouble;
        line.to = sighting.to.iter().filter(|name| self.targets.contains_key(*name)).cloned().collect();
        let distance = self.rules.distance;
        let is_over = |known: &LineTarget| {
            known.open.is_none() && known.begun_at.is_none_or(|begun_at| now >= begun_at.after(distance))
        };
        if line.trouble.is_none() && line.targets.values().all(is_over) {
            self.lines.remove(&key);
        }
    }

    /// Partners of which something is known: they are looked at until it is over.
    #[must_use]
    pub fn partners(&self) -> BTreeSet<PartnerNo> {
        self.lines.keys().map(|(partner, _)| *partner).collect()
    }

    /// Whether anything is remembered of this trouble of the partner: it is there, or was told.
    #[must_use]
    pub fn knows(&self, partner: PartnerNo, cause: Cause) -> bool {
        self.lines.contains_key(&(partner, cause))
    }

    /// Whether this trouble of the partner is known to be there.
    #[must_use]
    pub fn is_in_trouble(&self, partner: PartnerNo, cause: Cause) -> bool {
        self.lines.get(&(partner, cause)).is_some_and(|line| line.trouble.is_some())
    }

    /// The next message to send; its target is busy until `on_told`.
    pub fn next(&mut self, now: Time) -> Option<Telling> {
        let names: Vec<String> = self.targets.keys().cloned().collect();
        for name in names {
            let Some(target) = self.targets.get(&name) else { continue };
            if target.is_busy || target.not_before > now {
                continue;
            }
            let Some((key, told)) = self.next_of(&name, target, now) else { continue };
            if let Some(target) = self.targets.get_mut(&name) {
                target.is_busy = true;
                target.last = Some(key);
            }
            return Some(Telling { partner: key.0, cause: key.1, target: name, told });
        }
        None
    }

    fn next_of(&self, name: &str, target: &TargetState, now: Time) -> Option<(Key, Told)> {
        let after = target.last.map_or(Bound::Unbounded, Bound::Excluded);
        let up_to = target.last.map_or(Bound::Unbounded, Bound::Included);
        let rest = self.lines.range((after, Bound::Unbounded));
        // Without a last one the first walk was the whole.
        let start = self.lines.range((Bound::Unbounded, up_to)).filter(|_| target.last.is_some());
        rest.chain(start).find_map(|(key, line)| match self.due(line, name, &target.rules, now) {
            Due::Now(told) => Some((*key, told)),
            Due::Nothing | Due::At(_) => None,
        })
    }

    fn due(&self, line: &Line, name: &str, rules: &TargetRules, now: Time) -> Due {
        let known = line.targets.get(name);
        let open = known.and_then(|known| known.open.as_ref());
        let quiet_end = || rules.quiet.as_ref().and_then(|quiet| quiet.end(now));
        match (&line.trouble, open) {
            (None, None) => Due::Nothing,
            (Some(trouble), None) if line.to.contains(name) => {
                let begun_at = known.and_then(|known| known.begun_at);
                let earliest =
                    begun_at.map_or(line.ripe_at, |begun_at| begun_at.after(self.rules.distance).max(line.ripe_at));
                match quiet_end().filter(|_| !trouble.urgent) {
                    _ if earliest > now => Due::At(earliest),
                    Some(end) => Due::At(end),
                    None => Due::Now(Told::Begun(trouble.clone())),
                }
            }
            (Some(_), None) => Due::Nothing,
            (None, Some(open)) => match quiet_end().filter(|_| !open.urgent) {
                Some(end) => Due::At(end),
                None => Due::Now(Told::Ended(open.clone())),
            },
            (Some(trouble), Some(open)) => match rules.again_every {
                None => Due::Nothing,
                Some(_) => {
                    let again_at = known.map_or(Time::default(), |known| known.again_at);
                    if again_at > now {
                        Due::At(again_at)
                    } else {
                        Due::Now(Told::Lasts(trouble.clone(), open.clone()))
                    }
                }
            },
        }
    }

    /// How a message fared. When it got there, answers what is now to be remembered of it: the beginning that is told, or none.
    pub fn on_told(&mut self, telling: &Telling, has_arrived: bool, now: Time) -> Option<Option<Open>> {
        let target = self.targets.get_mut(&telling.target)?;
        target.is_busy = false;
        if !has_arrived {
            target.failures = target.failures.saturating_add(1);
            let doubled = RETRY_FIRST.saturating_mul(1 << (target.failures - 1).min(16));
            target.not_before = now.after(doubled.min(RETRY_MAX));
            return None;
        }
        target.failures = 0;
        target.not_before = Time::default();
        let again_at = target.rules.again_every.map_or(Time::default(), |every| now.after(every));
        let line = self.lines.entry((telling.partner, telling.cause)).or_default();
        let known = line.targets.entry(telling.target.clone()).or_default();
        known.again_at = again_at;
        match &telling.told {
            Told::Begun(trouble) => {
                known.begun_at = Some(now);
                known.open = Some(Open { told_at: now, since: trouble.since, urgent: trouble.urgent });
                Some(known.open.clone())
            }
            Told::Lasts(..) => None,
            Told::Ended(_) => {
                known.open = None;
                Some(None)
            }
        }
    }

    /// When `next` may have something, if nothing else happens.
    #[must_use]
    pub fn next_timeout(&self, now: Time) -> Option<Time> {
        let mut earliest: Option<Time> = None;
        for (name, target) in self.targets.iter().filter(|(_, target)| !target.is_busy) {
            for line in self.lines.values() {
                let at = match self.due(line, name, &target.rules, now) {
                    Due::Nothing => continue,
                    Due::At(at) => at.max(target.not_before),
                    Due::Now(_) => target.not_before,
                };
                earliest = Some(earliest.map_or(at, |known| known.min(at)));
            }
        }
        earliest
    }

    /// What is wrong now, and who knows.
    #[must_use]
    pub fn troubles(&self, now: Time) -> Vec<WatchedTrouble> {
        let ripe = self.lines.iter().filter(|(_, line)| line.ripe_at <= now);
        let seen = ripe.filter_map(|((partner, cause), line)| Some((*partner, *cause, line, line.trouble.clone()?)));
        seen.map(|(partner, cause, line, trouble)| {
            let is_told = |(name, known): (&String, &LineTarget)| known.open.is_some().then(|| name.clone());
            let waits = |name: &String| {
                let target = self.targets.get(name)?;
                match self.due(line, name, &target.rules, now) {
                    Due::Now(Told::Begun(_)) => Some((name.clone(), target.not_before.max(now))),
                    Due::At(at) if line.targets.get(name).is_none_or(|known| known.open.is_none()) => {
                        Some((name.clone(), at.max(target.not_before)))
                    }
                    _ => None,
                }
            };
            let told = line.targets.iter().filter_map(is_told).collect();
            WatchedTrouble { partner, cause, trouble, told, waiting: line.to.iter().filter_map(waits).collect() }
        })
        .collect()
    }

    /// Failures in a row of a target, and the time before which it is left alone.
    #[must_use]
    pub fn fares(&self, target: &str) -> (u32, Time) {
        self.targets.get(target).map_or((0, Time::default()), |state| (state.failures, state.not_before))
    }
}

#[cfg(test)]
mod tests;
