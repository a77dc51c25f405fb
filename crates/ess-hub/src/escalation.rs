//! Tells Ops of trouble: looks at partners, lets the core decide what to say, and sends it.
//!
//! The store is the truth. What lanes tell (`Attention`) only makes a look at a partner come sooner: partners in trouble are looked
//! at again and again, overdue ones are found by the age of their oldest delivery, and all others in turn, a few each second. What
//! was told is remembered in the store. A target that fails holds nothing up but itself.

mod ask;
mod look;
mod targets;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ess_core::escalation::{
    ALERT_AGAIN_EVERY, Cause, LOG, Note, Open, Quiet, Rules, Sighting, Target, TargetKind, TargetRules, Telling, Told,
    Watch, WatchedTrouble,
};
use ess_core::id::PartnerNo;
use ess_core::partner::Partner;
use ess_core::problem::{Code, Problem};
use ess_core::time::Time;
use ess_store::StoredEscalation;
use tokio::task::JoinSet;

use crate::hub::Hub;
use crate::lanes::LaneGlance;
use crate::metrics::{CauseLabels, OpsLabels};
use crate::registry::Opener;
use targets::Targets;

/// How often is looked.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Partners that are looked at in one round.
const LOOKS_MAX: usize = 128;
/// Of these, partners of which nothing was heard, in turn.
const SWEPT: usize = 16;
/// Messages before the loop looks again: each is an fsync, and after a great outage there are thousands for the log.
const TOLD_AT_ONCE: usize = 256;
/// How far deliveries are counted for a message.
const COUNT_MAX: u64 = 10_000;

/// Whom to tell of trouble.
#[derive(Debug, Clone)]
pub struct EscalationOptions {
    /// The targets, by name.
    pub targets: BTreeMap<String, Target>,
    /// Who is told of partners that say nothing of their own.
    pub to: Vec<String>,
    /// Age of an un-ACKed delivery, for the same partners.
    pub after: Duration,
    /// Between two beginnings of the same trouble.
    pub distance: Duration,
    /// Quiet hours of targets that say nothing of their own.
    pub quiet: Option<Quiet>,
}

/// A hub without targets: trouble goes to the log.
impl Default for EscalationOptions {
    fn default() -> Self {
        Self {
            targets: BTreeMap::new(),
            to: Vec::new(),
            after: Duration::from_secs(900),
            distance: Duration::from_secs(300),
            quiet: None,
        }
    }
}

/// Partners whose trouble may have changed.
#[derive(Debug, Default)]
pub struct Attention {
    /// Guards the set; held for one change.
    marked: Mutex<BTreeSet<PartnerNo>>,
    /// Guards the partners that came from another node, or went to one; held for one change.
    moved: Mutex<BTreeMap<PartnerNo, Moved>>,
}

/// Where a partner is looked after from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moved {
    Here,
    Elsewhere,
}

impl Attention {
    /// A look at this partner is worth it.
    pub fn mark(&self, no: PartnerNo) {
        self.marked.lock().unwrap_or_else(PoisonError::into_inner).insert(no);
    }

    /// The partner is looked after here from now on; what Ops were told of it is in the store.
    pub fn adopt(&self, no: PartnerNo) {
        self.moved.lock().unwrap_or_else(PoisonError::into_inner).insert(no, Moved::Here);
        self.mark(no);
    }

    /// Another node looks after the partner.
    pub fn leave(&self, no: PartnerNo) {
        self.moved.lock().unwrap_or_else(PoisonError::into_inner).insert(no, Moved::Elsewhere);
    }

    fn take_moved(&self) -> BTreeMap<PartnerNo, Moved> {
        std::mem::take(&mut *self.moved.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put_back(&self, moved: BTreeMap<PartnerNo, Moved>) {
        let mut known = self.moved.lock().unwrap_or_else(PoisonError::into_inner);
        for (no, place) in moved {
            known.entry(no).or_insert(place);
        }
    }

    fn take(&self) -> BTreeSet<PartnerNo> {
        std::mem::take(&mut *self.marked.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The targets, and what is known of trouble for those who ask.
pub struct Ops {
    options: EscalationOptions,
    hub_name: String,
    targets: Targets,
    /// Guards what the loop last knew; held for a copy.
    board: Mutex<Board>,
}

#[derive(Debug, Default)]
struct Board {
    troubles: Vec<WatchedTrouble>,
    fares: BTreeMap<String, Fares>,
}

/// How a target fares.
#[derive(Debug, Default, Clone)]
struct Fares {
    failures: u32,
    not_before: Time,
    sent_at: Option<Time>,
    last_error: Option<String>,
}

impl Ops {
    /// Opens the targets; one that can't be used is named in the log and fails when it is told something.
    pub(crate) fn open(options: EscalationOptions, hub_name: &str, opener: &Opener) -> Self {
        let targets = Targets::open(&options.targets, opener);
        Self { options, hub_name: hub_name.to_owned(), targets, board: Mutex::default() }
    }

    /// Refuses a partner that names a target that is not there. A hub without any target takes the partner: its trouble goes to the
    /// log and the stream.
    pub(crate) fn check(&self, partner: &Partner) -> Result<(), Problem> {
        let Some(escalate) = &partner.escalate else { return Ok(()) };
        let known = &self.options.targets;
        let Some(unknown) = escalate.to.iter().find(|name| !known.contains_key(*name)) else { return Ok(()) };
        if known.is_empty() {
            tracing::warn!(
                partner.id = %partner.id,
                "no `targets` are configured: trouble of {} goes to the log, not to {unknown}", partner.id
            );
            return Ok(());
        }
        let names: Vec<&str> = known.keys().map(String::as_str).collect();
        let hint = match ess_core::nearest::nearest(unknown, &names) {
            Some(meant) => format!("did you mean `{meant}`? Known are {}", names.join(", ")),
            None => format!("known are {}; `targets:` in the hub's configuration has them", names.join(", ")),
        };
        let problem = Problem::new(Code::Invalid, format!("escalate.to: there is no target {unknown}"));
        Err(problem.with_field("escalate.to").with_hint(hint))
    }

    /// After which age of a delivery the partner's Ops are told.
    fn after(&self, partner: &Partner) -> Duration {
        partner.escalate.as_ref().map_or(self.options.after, |escalate| escalate.after)
    }

    /// Who is told of the partner's trouble: the log, and its own targets or the hub's.
    fn to(&self, partner: &Partner) -> Vec<String> {
        let is_known = |name: &&String| self.options.targets.contains_key(*name);
        let own = partner.escalate.iter().flat_map(|escalate| &escalate.to).filter(is_known);
        let mut to: Vec<String> = own.cloned().collect();
        if to.is_empty() {
            to.clone_from(&self.options.to);
        }
        to.push(LOG.to_owned());
        to
    }

    fn watch(&self) -> Watch {
        let rules = |target: &Target| TargetRules {
            quiet: target.quiet.clone().or_else(|| self.options.quiet.clone()),
            again_every: matches!(target.kind, TargetKind::Alertmanager { .. }).then_some(ALERT_AGAIN_EVERY),
        };
        let mut targets: BTreeMap<String, TargetRules> =
            self.options.targets.iter().map(|(name, target)| (name.clone(), rules(target))).collect();
        targets.insert(LOG.to_owned(), TargetRules::default());
        Watch::new(Rules { distance: self.options.distance }, targets)
    }
}

/// Looks and tells, until it is dropped.
pub(crate) async fn run(hub: Hub, told: Vec<StoredEscalation>) {
    let mut watch = hub.ops.watch();
    told.iter().for_each(|stored| restore(&mut watch, stored));
    let round = Round {
        hub,
        watch,
        again: BTreeSet::new(),
        swept_to: PartnerNo(0),
        unsaved: Vec::new(),
        under_way: HashMap::new(),
        pauses: HashMap::new(),
    };
    round.run().await;
}

/// The loop's state.
struct Round {
    hub: Hub,
    watch: Watch,
    /// Looked at once more: what lanes told may not have been in the store yet.
    again: BTreeSet<PartnerNo>,
    /// How far partners were looked at in turn.
    swept_to: PartnerNo,
    /// What could not be remembered yet.
    unsaved: Vec<(StoredEscalation, bool)>,
    /// What is being sent: one for each target at most.
    under_way: HashMap<tokio::task::Id, Telling>,
    /// Why partners are paused, by when: asked once.
    pauses: HashMap<PartnerNo, (Time, Option<String>)>,
}

impl Round {
    async fn run(mut self) {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut sends: JoinSet<Result<(), String>> = JoinSet::new();
        loop {
            tokio::select! {
                _ = tick.tick() => {
                    self.look().await;
                    self.save_again().await;
                    self.show();
                }
                Some(sent) = sends.join_next_with_id(), if !sends.is_empty() => {
                    let (id, result) = match sent {
                        Ok((id, result)) => (id, result),
                        Err(error) => (error.id(), Err("the try broke off: a fault of the hub".to_owned())),
                    };
                    if let Some(telling) = self.under_way.remove(&id) {
                        self.on_sent(&telling, result).await;
                    }
                }
            }
            self.send_due(&mut sends).await;
        }
    }

    /// Takes over what Ops were told of partners that came here, and forgets those that went.
    async fn follow_moves(&mut self) {
        let moved = self.hub.delivery.attention.take_moved();
        if moved.is_empty() {
            return;
        }
        let told = match self.hub.delivery.store.escalations().await {
            Ok(told) => told,
            Err(error) => {
                tracing::warn!(%error, "could not read what Ops were told of partners that came here; trying again");
                return self.hub.delivery.attention.put_back(moved);
            }
        };
        for no in moved.keys() {
            self.watch.forget(*no);
        }
        for stored in told.iter().filter(|stored| moved.get(&stored.partner) == Some(&Moved::Here)) {
            restore(&mut self.watch, stored);
        }
    }

    async fn look(&mut self) {
        self.follow_moves().await;
        let now = self.hub.now();
        // Without lanes nothing can be said: the hub stops.
        let Some(glances) = self.hub.lanes.inspect_all().await else { return };
        let glances: BTreeMap<PartnerNo, LaneGlance> = glances.into_iter().collect();
        for no in self.choose(&glances, now).await {
            let glance = glances.get(&no).copied().unwrap_or_default();
            let is_known = self.watch.knows(no, Cause::Unacked);
            let found = match look::troubles(&self.hub, no, (glance, is_known), &mut self.pauses).await {
                Ok(found) => found,
                Err(error) => {
                    tracing::warn!(%error, partner.no = no.0, "could not look at a partner's trouble; trying again");
                    self.hub.delivery.attention.mark(no);
                    continue;
                }
            };
            let snapshot = self.hub.delivery.registry.snapshot();
            let partner = snapshot.by_no.get(&no).map(|registered| registered.partner.clone());
            let to = partner.as_ref().map(|partner| self.hub.ops.to(partner)).unwrap_or_default();
            let after = partner.as_ref().map_or(self.hub.ops.options.after, |partner| self.hub.ops.after(partner));
            for (cause, trouble) in found {
                let sighting = Sighting { partner: no, cause, trouble, to: &to, settle: cause.settle(after) };
                self.watch.see(sighting, now);
            }
        }
    }

    /// Whom to look at in this round: who was heard of, who is in trouble, who is overdue, and some in turn.
    async fn choose(&mut self, glances: &BTreeMap<PartnerNo, LaneGlance>, now: Time) -> Vec<PartnerNo> {
        let marked = self.hub.delivery.attention.take();
        let mut wanted: BTreeSet<PartnerNo> = std::mem::replace(&mut self.again, marked.clone());
        wanted.extend(marked);
        wanted.extend(self.overdue(glances, now).await);
        let mut chosen: Vec<PartnerNo> = wanted.iter().copied().take(LOOKS_MAX - 2 * SWEPT).collect();
        // What did not fit comes first next time.
        self.again.extend(wanted.into_iter().skip(LOOKS_MAX - 2 * SWEPT));
        let in_trouble = self.watch.partners();
        let room = LOOKS_MAX - SWEPT - chosen.len();
        chosen.extend(in_turn(&in_trouble, self.swept_to).take(room));
        let known: BTreeSet<PartnerNo> = glances.keys().copied().collect();
        let swept: Vec<PartnerNo> = in_turn(&known, self.swept_to).take(SWEPT).collect();
        self.swept_to = swept.last().copied().unwrap_or(PartnerNo(0));
        chosen.extend(swept);
        chosen.sort();
        chosen.dedup();
        // Others look after the others; of one that was removed the end is still to be told.
        chosen.retain(|no| self.hub.serves(*no) || in_trouble.contains(no));
        chosen
    }

    /// Partners whose oldest delivery is older than they allow, as far as it is not known yet.
    async fn overdue(&self, glances: &BTreeMap<PartnerNo, LaneGlance>, now: Time) -> Vec<PartnerNo> {
        let snapshot = self.hub.delivery.registry.snapshot();
        let mut newest_overdue: HashMap<Duration, Option<ess_core::id::Seq>> = HashMap::new();
        let mut overdue = Vec::new();
        for (no, glance) in glances {
            let ([Some(oldest), _], Some(registered)) = (glance.oldest, snapshot.by_no.get(no)) else { continue };
            let after = self.hub.ops.after(&registered.partner);
            let newest = match newest_overdue.get(&after) {
                Some(newest) => *newest,
                None => {
                    let cut = Time::from_micros(
                        now.as_micros().saturating_sub(i64::try_from(after.as_micros()).unwrap_or(i64::MAX)),
                    );
                    let newest = self.hub.delivery.store.newest_at(cut).await.ok();
                    newest_overdue.insert(after, newest);
                    newest
                }
            };
            if newest.is_some_and(|newest| oldest <= newest) && !self.watch.is_in_trouble(*no, Cause::Unacked) {
                overdue.push(*no);
            }
        }
        overdue
    }

    async fn send_due(&mut self, sends: &mut JoinSet<Result<(), String>>) {
        let now = self.hub.now();
        for _ in 0..TOLD_AT_ONCE {
            let Some(telling) = self.watch.next(now) else { return };
            if telling.target == LOG {
                let note = note(&self.hub, &telling, now).await;
                tell_log(&self.hub, &telling, &note, now);
                self.on_sent(&telling, Ok(())).await;
                continue;
            }
            let (hub, sent) = (self.hub.clone(), telling.clone());
            let send = sends.spawn(async move {
                let note = note(&hub, &sent, now).await;
                hub.ops.targets.send(&sent.target, &note, &hub.delivery.workshop.key).await
            });
            self.under_way.insert(send.id(), telling);
        }
    }

    async fn on_sent(&mut self, telling: &Telling, result: Result<(), String>) {
        let now = self.hub.now();
        let remembered = self.watch.on_told(telling, result.is_ok(), now);
        self.count(telling, &result, now);
        if !self.hub.serves(telling.partner)
            && self.hub.delivery.registry.snapshot().by_no.contains_key(&telling.partner)
        {
            // It went to another node while this was being said.
            self.watch.forget(telling.partner);
        }
        let Some(open) = remembered else { return };
        let is_open = open.is_some();
        let open = open.unwrap_or(Open { told_at: now, since: now, urgent: false });
        let stored = StoredEscalation {
            partner: telling.partner,
            cause: telling.cause.word().to_owned(),
            target: telling.target.clone(),
            told_at: open.told_at,
            since: open.since,
            urgent: open.urgent,
        };
        self.unsaved.push((stored, is_open));
        self.save_again().await;
    }

    /// Writes down what was told; what can't be written now is kept for the next round.
    async fn save_again(&mut self) {
        let store = &self.hub.delivery.store;
        for (stored, is_open) in std::mem::take(&mut self.unsaved) {
            let saved = if is_open {
                store.put_escalation(stored.clone()).await
            } else {
                store.remove_escalation(stored.clone()).await
            };
            if let Err(error) = saved {
                tracing::warn!(%error, "could not write down what Ops were told; a restart now would say it again");
                self.unsaved.push((stored, is_open));
            }
        }
    }

    fn count(&self, telling: &Telling, result: &Result<(), String>, now: Time) {
        let ops = &self.hub.ops;
        let target = ops.options.targets.get(&telling.target).map_or(LOG, |target| target.kind.word());
        let word = if result.is_ok() { "sent" } else { "failed" };
        let messages = &self.hub.delivery.metrics.escalation_messages;
        messages.get_or_create(&OpsLabels { target, result: word }).inc();
        let (failures, not_before) = self.watch.fares(&telling.target);
        let mut board = ops.board.lock().unwrap_or_else(PoisonError::into_inner);
        let fares = board.fares.entry(telling.target.clone()).or_default();
        (fares.failures, fares.not_before) = (failures, not_before);
        match result {
            Ok(()) => (fares.sent_at, fares.last_error) = (Some(now), None),
            Err(reason) => {
                fares.last_error = Some(reason.clone());
                let wait = ess_core::duration::spoken(not_before.since(now));
                tracing::error!(target = telling.target, reason, "could not tell Ops; trying again in {wait}");
            }
        }
    }

    /// Puts what is known where it can be asked for.
    fn show(&self) {
        let troubles = self.watch.troubles(self.hub.now());
        for cause in Cause::ALL {
            let count = troubles.iter().filter(|trouble| trouble.cause == cause).count();
            let gauge = &self.hub.delivery.metrics.escalations_open;
            gauge.get_or_create(&CauseLabels { cause: cause.word() }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.hub.ops.board.lock().unwrap_or_else(PoisonError::into_inner).troubles = troubles;
    }
}

fn restore(watch: &mut Watch, stored: &StoredEscalation) {
    if let Some(cause) = Cause::parse(&stored.cause) {
        let open = Open { told_at: stored.told_at, since: stored.since, urgent: stored.urgent };
        watch.restore(stored.partner, cause, &stored.target, open);
    }
}

/// Members after a place, then from the beginning up to it.
fn in_turn(set: &BTreeSet<PartnerNo>, after: PartnerNo) -> impl Iterator<Item = PartnerNo> + '_ {
    let later = set.range(PartnerNo(after.0.saturating_add(1))..).copied();
    later.chain(set.range(..=after).copied())
}

/// The message. Its deliveries are counted now, as it is about to be said.
async fn note(hub: &Hub, telling: &Telling, now: Time) -> Note {
    let snapshot = hub.delivery.registry.snapshot();
    let partner = snapshot.name(telling.partner);
    let mut told = telling.told.clone();
    if let Told::Begun(trouble) | Told::Lasts(trouble, _) = &mut told
        && matches!(telling.cause, Cause::Unacked | Cause::Offline | Cause::GaveUp | Cause::Paused)
        && let Ok(count) = hub.delivery.store.backlog_count(telling.partner, COUNT_MAX).await
    {
        (trouble.count, trouble.has_more) = (count, count == COUNT_MAX);
    }
    let note = Note::of(&hub.ops.hub_name, &partner, telling.cause, &told, now);
    if note.is_end && !snapshot.by_no.contains_key(&telling.partner) { note.by_removal(&partner) } else { note }
}

fn tell_log(hub: &Hub, telling: &Telling, note: &Note, now: Time) {
    let Some((partner, _)) = &note.about else { return };
    let cause = telling.cause.word();
    let text = note.text().replace('\n', "; ");
    let is_for_operators =
        note.urgent || matches!(telling.cause, Cause::Blocked | Cause::DeadLetter | Cause::GaveUp | Cause::Paused);
    let oldest = note.trouble.as_ref().and_then(|trouble| trouble.oldest.clone());
    let event = oldest.as_ref().map(ToString::to_string);
    match (note.is_end, is_for_operators) {
        (true, _) => tracing::info!(partner.id = %partner, event.id = event, cause, "{text}"),
        (false, true) => tracing::error!(partner.id = %partner, event.id = event, cause, "{text}"),
        (false, false) => tracing::warn!(partner.id = %partner, event.id = event, cause, "{text}"),
    }
    let kind = if note.is_end { "ops.clear" } else { "ops.trouble" };
    hub.happenings.tell(now, kind, oldest, Some(partner.clone()), text);
}
