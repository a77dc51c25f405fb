//! Publishing: who it is for, the durable append, and the word to the publisher.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use ess_core::access::Principal;
use ess_core::delivery::State;
use ess_core::event::{Content, Event, Kind, Trace};
use ess_core::id::{Digest, PartnerNo, Seq};
use ess_core::lane::Offer;
use ess_core::problem::{Code, Problem};
use ess_core::time::Time;
use ess_store::{Audience, NewEvent, Publication, Recorded, StoreError, StoredDelivery};
use tokio::time::timeout;

use crate::cells::Cell;
use crate::filters::{LOOK_MAX, Look, STOPPED_AFTER};
use crate::hub::Hub;
use crate::lanes::{Input, Retraction, offer_of};
use crate::metrics::{Limit, PublishResult};
use crate::registry::Snapshot;
use crate::scripts::Evaluation;
use crate::view::{BlockedPartner, Plan, PlanEntry, PublishReceipt};

/// How long a publisher waits for conversions after the event is durable, to be told of those that fail.
const CONVERSIONS_WAIT: Duration = Duration::from_millis(100);

/// Retractions that are looked at again when the hub starts.
const RETRACTIONS_REPEATED: usize = 1_000;

/// How often an audience is chosen anew because other nodes changed the registry meanwhile.
const CHOSEN_AGAIN_MAX: usize = 8;

/// By what an audience is chosen, and how many changes of the registry it has at least.
struct Known {
    number: u64,
    snapshot: Arc<Snapshot>,
}

/// Who gets an event, and what the predicates said on the way.
struct Chosen {
    audience: Arc<Audience>,
    looks: Vec<(Arc<[PartnerNo]>, Look)>,
}

impl Hub {
    /// Records the event and hands it to the lanes; answers after the fsync.
    ///
    /// # Errors
    /// A conflict with what was recorded under the same id, a retraction of nothing, or the store can't take it now.
    pub async fn publish(&self, content: Content, trace: Trace, by: &Principal) -> Result<PublishReceipt, Problem> {
        if self.cluster.is_none() {
            return self.publish_once(content, trace, by).await?.ok_or_else(changes_too_fast);
        }
        for _ in 0..CHOSEN_AGAIN_MAX {
            match self.publish_once(content.clone(), trace.clone(), by).await? {
                Some(receipt) => return Ok(receipt),
                // Another node changed who gets it meanwhile.
                None => self.catch_up().await.map_err(|error| unavailable(&error))?,
            }
        }
        Err(changes_too_fast())
    }

    async fn publish_once(
        &self,
        content: Content,
        trace: Trace,
        by: &Principal,
    ) -> Result<Option<PublishReceipt>, Problem> {
        self.check_room()?;
        let known = Known { number: self.delivery.registry.number(), snapshot: self.delivery.registry.snapshot() };
        self.check_payload(&known.snapshot, &content).await?;
        let chosen = self.choose(&known.snapshot, &content).await?;
        self.append(&known, content, chosen, trace, by).await
    }

    /// Records a dry run for these partners, whatever they subscribed to.
    ///
    /// # Errors
    /// As for `publish`.
    pub(crate) async fn publish_to(
        &self,
        snapshot: &Arc<Snapshot>,
        content: Content,
        to: Vec<PartnerNo>,
        trace: Trace,
        by: &Principal,
    ) -> Result<PublishReceipt, Problem> {
        self.check_room()?;
        self.check_payload(snapshot, &content).await?;
        for _ in 0..CHOSEN_AGAIN_MAX {
            let known = Known { number: self.delivery.registry.number(), snapshot: snapshot.clone() };
            let chosen = Chosen { audience: Arc::new(Audience::new(to.clone())), looks: Vec::new() };
            match self.append(&known, content.clone(), chosen, trace.clone(), by).await? {
                Some(receipt) => return Ok(receipt),
                None => self.catch_up().await.map_err(|error| unavailable(&error))?,
            }
        }
        Err(changes_too_fast())
    }

    /// Records it; `None` when other nodes changed the registry since the audience was chosen.
    async fn append(
        &self,
        known: &Known,
        content: Content,
        chosen: Chosen,
        trace: Trace,
        by: &Principal,
    ) -> Result<Option<PublishReceipt>, Problem> {
        let Chosen { audience, looks } = chosen;
        let snapshot = &known.snapshot;
        let id = content.id.clone();
        let new = NewEvent {
            content_digest: content.digest(),
            content,
            trace: Trace { publisher: Some(by.token_id.clone()), ..trace },
            message_uuid: uuid::Uuid::now_v7(),
            recorded_at: self.delivery.clock.now(),
            audience: audience.clone(),
            registry: self.cluster.is_some().then_some(known.number),
        };
        let metrics = &self.delivery.metrics;
        if new.content.kind == Kind::Retraction {
            let offer = unrecorded(&new.content, new.recorded_at);
            self.retractions.expect(&id, Arc::new(self.retraction(&new.content, offer).await?));
        }
        let test = new.content.test;
        let published = self.delivery.store.publish(new).await;
        if matches!(published, Ok(Publication::Conflict { .. }) | Err(_)) {
            self.retractions.forget_id(&id, test);
        }
        match published {
            Ok(Publication::Recorded(event)) => {
                metrics.count_publish(PublishResult::Recorded);
                self.delivery.flow.note_event(event.recorded_at);
                looks.iter().for_each(|(partners, look)| self.filters.count(partners, *look));
                self.tell_recorded(&event, by);
                self.delivery.workshop.tracer.published(&event, self.now(), audience.len());
                let blocked = self.blocked(snapshot, &event, &audience).await;
                Ok(Some(receipt(&event, audience.len(), blocked, false)))
            }
            Ok(Publication::Duplicate { first }) => {
                metrics.count_publish(PublishResult::Duplicate);
                let blocked = self.blocked(snapshot, &first.event, &first.audience).await;
                Ok(Some(receipt(&first.event, first.audience.len(), blocked, true)))
            }
            Ok(Publication::Conflict { first }) => {
                metrics.count_publish(PublishResult::Conflict);
                let at = first.event.recorded_at;
                let detail = format!("event {id} was recorded at {at} with other content; nothing was changed");
                let hint =
                    "an event never changes: publish the new content under a new id, such as the next `-V` number";
                Err(Problem::new(Code::EventConflict, detail).with_field("id").with_hint(hint))
            }
            Err(StoreError::Outdated) => Ok(None),
            Err(error) => {
                metrics.count_publish(PublishResult::Unavailable);
                // Of a server that does not answer it is open whether it has it.
                Err(unavailable(&error).with_hint("publish again with the same id: nothing is recorded twice"))
            }
        }
    }

    /// Who would get what, in which version; nothing is recorded or sent.
    ///
    /// # Errors
    /// A retraction of nothing, or the store can't be read.
    pub async fn plan(&self, content: Content) -> Result<Plan, Problem> {
        let snapshot = self.delivery.registry.snapshot();
        self.check_payload(&snapshot, &content).await?;
        let Chosen { audience, .. } = self.choose(&snapshot, &content).await?;
        let event = Arc::new(Event {
            seq: Seq(0),
            recorded_at: self.delivery.clock.now(),
            content_digest: Digest([0; 32]),
            message_uuid: uuid::Uuid::nil(),
            gone: None,
            trace: Trace::default(),
            content,
        });
        let cell = Cell::new(event.clone());
        let content = &event.content;
        let mut partners = Vec::new();
        for registered in audience.partners().iter().filter_map(|no| snapshot.by_no.get(no)) {
            let version = registered.version_of(&content.subject, content.version);
            let path = snapshot.rules.bridges.path(&content.subject, content.version, version).unwrap_or_default();
            let made = self.delivery.workshop.body(&cell, &snapshot, registered, false).await;
            let outcome = match made {
                Ok((_, body)) => Ok(String::from_utf8_lossy(&body.bytes).into_owned()),
                Err(blocked) => Err(BlockedPartner {
                    partner: registered.partner.id.clone(),
                    reason: blocked.reason,
                    mend: blocked.mend,
                }),
            };
            let bridges = path.iter().map(|bridge| bridge.id.clone()).collect();
            partners.push(PlanEntry { partner: registered.partner.id.clone(), version, bridges, outcome });
        }
        partners.sort_by(|a, b| a.partner.cmp(&b.partner));
        let (id, subject, version, test) = (content.id.clone(), content.subject.clone(), content.version, content.test);
        Ok(Plan { id, subject, version, test, partners })
    }

    /// Who gets it: by subject and filter; a retraction goes to those who got what it takes back.
    async fn choose(&self, snapshot: &Snapshot, content: &Content) -> Result<Chosen, Problem> {
        if content.kind == Kind::Retraction {
            return Ok(Chosen { audience: self.retraction_audience(content).await?, looks: Vec::new() });
        }
        let wanting = snapshot.wanting(&content.subject, content.test);
        if wanting.filtered.is_empty() {
            return Ok(Chosen { audience: wanting.audience.clone(), looks: Vec::new() });
        }
        let mut unwanted: HashSet<PartnerNo> = HashSet::new();
        let mut looks = Vec::with_capacity(wanting.filtered.len());
        for filtered in &wanting.filtered {
            let look = self.look(&filtered.filter, content).await;
            if look == Look::LeftOut {
                unwanted.extend(filtered.partners.iter());
            }
            looks.push((filtered.partners.clone(), look));
        }
        let kept = wanting.audience.partners().iter().filter(|no| !unwanted.contains(no)).copied().collect();
        Ok(Chosen { audience: Arc::new(Audience::new(kept)), looks })
    }

    /// What a predicate says of the event.
    async fn look(&self, filter: &str, content: &Content) -> Look {
        let began = self.now();
        if self.filters.is_aside(filter, began) {
            return Look::Failed;
        }
        // `payload` is a name in the predicate, as the contract writes it: `payload.county = "Cook"`.
        let envelope = serde_json::json!({
            "id": content.id.as_str(),
            "version": content.version.0,
            "subject": content.subject.as_str(),
            "kind": content.kind.word(),
            "priority": content.priority.word(),
        })
        .to_string();
        let input = format!("{},\"payload\":{}}}", &envelope[..envelope.len() - 1], content.payload.get());
        let evaluation = Evaluation {
            script: Arc::from(format!("$boolean({filter})")),
            input: Some(Arc::from(input)),
            bindings: Arc::from([]),
            now: Some(self.delivery.clock.now()),
        };
        let failure = match timeout(LOOK_MAX, self.delivery.workshop.scripts.evaluate(evaluation)).await {
            Ok(Ok(Some(result))) if result == "true" => return Look::Matched,
            Ok(Ok(_)) => return Look::LeftOut,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it takes too long".to_owned(),
        };
        let now = self.now();
        if now.since(began) >= STOPPED_AFTER {
            self.filters.note_stop(filter, now);
        }
        tracing::warn!(filter, event.id = %content.id, error = failure, "a `where` filter failed; the event goes out");
        Look::Failed
    }

    /// A retraction goes to everyone who may have got what it takes back; lanes leave out those who were never sent it.
    async fn retraction_audience(&self, content: &Content) -> Result<Arc<Audience>, Problem> {
        if content.references.is_empty() {
            return Err(Problem::new(Code::Invalid, "a retraction must name the event that it takes back")
                .with_field("references"));
        }
        let mut partners: Vec<PartnerNo> = Vec::new();
        for id in &content.references {
            let recorded = self.recorded(id, content.test).await.map_err(|problem| problem.with_field("references"))?;
            // Everyone it was for, and everyone it was replayed to.
            let deliveries = self.stored_deliveries(&recorded).await?;
            let may_have_it = |delivery: &&StoredDelivery| {
                let never_got_it = matches!(delivery.state, State::Superseded | State::Cancelled | State::Dead)
                    && !delivery.waits
                    && delivery.body_digest.is_none();
                !never_got_it
            };
            partners.extend(deliveries.iter().filter(may_have_it).map(|delivery| delivery.key.partner));
        }
        Ok(Arc::new(Audience::new(partners)))
    }

    /// What a retraction takes back, as lanes are told.
    async fn retraction(&self, content: &Content, offer: Offer) -> Result<Retraction, Problem> {
        let mut events = Vec::new();
        for id in &content.references {
            events.push(offer_of(&self.recorded(id, content.test).await?.event));
        }
        let reason = format!("retracted by {}", content.id);
        let spared = "was never sent what this takes back".to_owned();
        Ok(Retraction { offer, events, reason, spared })
    }

    /// What a recorded retraction takes back.
    pub(crate) async fn retraction_of(&self, recorded: &Recorded) -> Result<Retraction, Problem> {
        self.retraction(&recorded.event.content, offer_of(&recorded.event)).await
    }

    /// What was taken back before the hub went down stays so: a retraction may have been recorded a moment before that.
    pub(crate) async fn take_back_again(&self) -> Result<(), Problem> {
        let last = self.delivery.store.last_retractions(RETRACTIONS_REPEATED).await;
        for recorded in last.map_err(|error| unavailable(&error))?.into_iter().rev() {
            let Ok(retraction) = self.retraction_of(&recorded).await else {
                continue;
            };
            let partners = recorded.audience.partners().to_vec();
            self.lanes.tell(Input::TakeBack(partners, Arc::new(retraction)));
        }
        Ok(())
    }

    /// Partners who can't get it yet: no way between the versions, or a script of the way fails.
    async fn blocked(&self, snapshot: &Snapshot, event: &Arc<Event>, audience: &Audience) -> Vec<BlockedPartner> {
        let content = &event.content;
        let wanting = snapshot.wanting(&content.subject, content.test);
        if event.gone.is_some() {
            return Vec::new();
        }
        let foreign: Vec<_> = wanting.versions.iter().filter(|version| **version != content.version).collect();
        if foreign.is_empty() {
            return Vec::new();
        }
        let cell = self.delivery.cells.keep(event);
        let deadline = tokio::time::Instant::now() + CONVERSIONS_WAIT;
        let mut blocked = Vec::new();
        for version in foreign {
            let conversion = self.delivery.workshop.payload(&cell, snapshot, *version);
            if let Ok(Err(reason)) = tokio::time::timeout_at(deadline, conversion).await {
                blocked.extend(snapshot.those_on(audience, &content.subject, *version, &reason));
            }
        }
        blocked.sort_by(|a, b| a.partner.cmp(&b.partner));
        blocked
    }

    /// Refuses before it is too late: what is accepted must fit.
    fn check_room(&self) -> Result<(), Problem> {
        match self.unready() {
            None => Ok(()),
            Some(reason) => {
                self.delivery.metrics.count_publish(PublishResult::Unavailable);
                self.delivery.metrics.count_limit(Limit::Room);
                Err(Problem::new(Code::Unavailable, reason)
                    .with_hint("nothing was recorded; publish again with the same id")
                    .with_retry_after(Duration::from_secs(1)))
            }
        }
    }

    fn tell_recorded(&self, event: &Event, by: &Principal) {
        let content = &event.content;
        tracing::info!(
            event.id = %content.id,
            event.seq = event.seq.0,
            actor = by.token_id,
            trace.id = event.trace.trace_id,
            traceparent = event.trace.traceparent,
            docket.id = event.trace.docket_id,
            "recorded {} as number {}",
            content.id,
            event.seq
        );
        if self.happenings.has_listeners() {
            let detail = format!("{} was recorded as number {}", content.id, event.seq);
            self.happenings.tell(event.recorded_at, "event.recorded", Some(content.id.clone()), None, detail);
        }
    }
}

fn unrecorded(content: &Content, recorded_at: Time) -> Offer {
    let Content { subject, priority, kind, test, .. } = content.clone();
    Offer { seq: Seq(0), subject, priority, kind, test, recorded_at }
}

fn receipt(event: &Event, partners: usize, blocked: Vec<BlockedPartner>, duplicate: bool) -> PublishReceipt {
    let content = &event.content;
    PublishReceipt {
        id: content.id.clone(),
        sequence: event.seq,
        subject: content.subject.clone(),
        recorded_at: event.recorded_at,
        test: content.test,
        partners: u32::try_from(partners).unwrap_or(u32::MAX),
        blocked,
        duplicate,
    }
}

fn changes_too_fast() -> Problem {
    Problem::new(Code::Unavailable, "other nodes change partners or rules too fast to say who gets this")
        .with_hint("nothing was recorded; publish again with the same id")
        .with_retry_after(Duration::from_secs(1))
}

/// The store can't: the cause goes to the log, the publisher is told to come back.
pub fn unavailable(error: &StoreError) -> Problem {
    tracing::error!(%error, "the store could not do it");
    if let StoreError::Unanswered(_) = error {
        return unanswered();
    }
    Problem::new(Code::Unavailable, "the hub's store can't take this now")
        .with_hint("nothing was changed; try again with the same request")
        .with_retry_after(Duration::from_secs(1))
}

/// What to say when the database was asked and does not answer.
pub(crate) fn unanswered() -> Problem {
    Problem::new(Code::Unavailable, "the hub's database does not answer")
        .with_hint("whether a change was made is open: look before you make it again; what has an id may be sent again at once")
        .with_retry_after(Duration::from_secs(1))
}
