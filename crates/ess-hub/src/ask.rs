//! Questions: the log, statuses, deliveries, the ledger, the audit trail.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ess_core::delivery::{DeliveryKey, State};
use ess_core::event::{Event, Priority};
use ess_core::id::{EventId, PartnerId, PartnerNo, Seq};
use ess_core::message::message_id;
use ess_core::problem::{Code, Problem};
use ess_store::{AuditLine, Recorded, StoreError, StoredDelivery, Word as LedgerWord};
use tokio::time::Instant;

use crate::hub::Hub;
use crate::publish::unavailable;
use crate::registry::{Registered, Snapshot};
use crate::verify::damaged;
use crate::view::{
    AttemptView, AuditView, DeliveryView, Direction, EventView, LedgerHead, LedgerView, Page, TextSearch,
};

/// How often a status is looked at where other nodes record outcomes too.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Outcomes by which the store's words for attempts are known outside.
const OUTCOMES: [&str; 8] = ["acked", "received", "unacknowledged", "nack", "failed", "refused", "gone", "blocked"];

impl Hub {
    /// A page of the Event Log.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn events(&self, subject: Option<&str>, after: Seq, limit: u32) -> Result<Page<EventView>, Problem> {
        let limit = limit as usize;
        let found = self.delivery.store.events(subject, after, limit).await.map_err(|error| unavailable(&error))?;
        let next = (found.len() == limit).then(|| found.last().map(|last| last.event.seq.to_string())).flatten();
        Ok(Page { items: found.iter().map(event_view).collect(), next })
    }

    /// One step of a search for a text in payloads, in the order of the log. The page may be short, or empty, and have a `next`:
    /// then the search goes on there.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn events_with_text(
        &self,
        search: TextSearch,
        after: Seq,
        limit: u32,
    ) -> Result<Page<EventView>, Problem> {
        let found = self.delivery.store.events_with_text(search, Direction::Newer, after, limit as usize).await;
        let found = found.map_err(|error| unavailable(&error))?;
        let next = found.reached.map(|reached| reached.seq.to_string());
        Ok(Page { items: found.items.iter().map(event_view).collect(), next })
    }

    /// One event.
    ///
    /// # Errors
    /// There is none of this id.
    pub async fn event(&self, id: &EventId, test: bool) -> Result<EventView, Problem> {
        self.recorded(id, test).await.map(|recorded| event_view(&recorded))
    }

    /// Partner -> status word, by partner. With `wait`, answers when all have ended or the span is over.
    ///
    /// # Errors
    /// There is no such event.
    pub async fn status(
        &self,
        id: &EventId,
        test: bool,
        wait: Option<Duration>,
    ) -> Result<Vec<(PartnerId, &'static str)>, Problem> {
        let recorded = self.recorded(id, test).await?;
        let deadline = Instant::now() + wait.unwrap_or_default();
        let mut commits = self.delivery.store.commits();
        loop {
            commits.mark_unchanged();
            let deliveries = self.stored_deliveries(&recorded).await?;
            let snapshot = self.delivery.registry.snapshot();
            let words = words(&deliveries, &snapshot);
            let is_open = |(_, delivery): (&PartnerNo, &&StoredDelivery)| !delivery.state.is_end();
            let has_open = newest(&deliveries).iter().any(is_open);
            if wait.is_none() || !has_open {
                return Ok(words);
            }
            // Of commits of other nodes is heard a moment later only.
            let until = if self.cluster.is_some() { deadline.min(Instant::now() + LOOK_AGAIN) } else { deadline };
            if tokio::time::timeout_at(until, commits.changed()).await.is_err() && Instant::now() >= deadline {
                return Ok(words);
            }
        }
    }

    /// Every delivery of an event, with its attempts.
    ///
    /// # Errors
    /// There is no such event.
    pub async fn deliveries(&self, id: &EventId, test: bool) -> Result<Vec<DeliveryView>, Problem> {
        let recorded = self.recorded(id, test).await?;
        let deliveries = self.stored_deliveries(&recorded).await?;
        let snapshot = self.delivery.registry.snapshot();
        let views = deliveries.into_iter().filter_map(|delivery| view(delivery, &recorded.event, &snapshot));
        let mut views: Vec<DeliveryView> = views.collect();
        views.sort_by(|a, b| (&a.partner, a.round).cmp(&(&b.partner, b.round)));
        Ok(views)
    }

    /// A partner's deliveries in the order of the log.
    ///
    /// # Errors
    /// There is no such partner, or the cursor is not one of ours.
    pub async fn partner_deliveries(
        &self,
        partner: &PartnerId,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Page<DeliveryView>, Problem> {
        let snapshot = self.delivery.registry.snapshot();
        let registered = snapshot.partner(partner)?;
        let mut after = Seq(read_cursor(after)?[0]);
        let mut items = Vec::new();
        while items.len() < limit as usize {
            let room = limit as usize - items.len();
            let page = self.delivery.store.backlog(registered.no, after, room).await;
            let page = page.map_err(|error| unavailable(&error))?;
            if page.scanned_to == after {
                return Ok(Page { items, next: None });
            }
            after = page.scanned_to;
            for entry in page.entries {
                let recorded = self.event_at(entry.seq).await?;
                let deliveries = self.stored_deliveries(&recorded).await?;
                let own = deliveries.into_iter().filter(|delivery| delivery.key.partner == registered.no);
                items.extend(own.filter_map(|delivery| view(delivery, &recorded.event, &snapshot)));
            }
        }
        Ok(Page { items, next: Some(after.to_string()) })
    }

    /// A partner's events by its own gapless counter, `from..=to`, each as the envelope that it is sent.
    ///
    /// # Errors
    /// There is no such partner.
    pub async fn partner_events(&self, partner: &PartnerId, from: u64, to: u64) -> Result<Vec<(u64, String)>, Problem> {
        let snapshot = self.delivery.registry.snapshot();
        let registered = snapshot.partner(partner)?;
        let (mut after, mut counted) = (Seq(0), 0u64);
        let mut found = Vec::new();
        loop {
            let page = self.delivery.store.backlog(registered.no, after, 1_000).await;
            let page = page.map_err(|error| unavailable(&error))?;
            if page.scanned_to == after {
                return Ok(found);
            }
            after = page.scanned_to;
            for entry in page.entries {
                counted += 1;
                if counted > to {
                    return Ok(found);
                }
                if counted >= from {
                    found.push((counted, self.envelope_for(&snapshot, registered, entry.seq).await?));
                }
            }
        }
    }

    async fn envelope_for(&self, snapshot: &Snapshot, registered: &Registered, seq: Seq) -> Result<String, Problem> {
        let recorded = self.event_at(seq).await?;
        let event = &recorded.event;
        if event.gone.is_some() {
            // The partner's counter has no gap; what it missed can't be read any more.
            let marks = ess_core::envelope::Marks { replay: true };
            return Ok(ess_core::envelope::envelope(event, event.content.version, "null", marks));
        }
        let cell = self.delivery.cells.keep(&recorded.event);
        let content = &recorded.event.content;
        let version = registered.version_of(&content.subject, content.version);
        let converted = self.delivery.workshop.payload(&cell, snapshot, version).await;
        let converted =
            converted.map_err(|blocked| Problem::new(Code::Conflict, blocked.reason).with_hint(blocked.mend))?;
        let marks = ess_core::envelope::Marks { replay: true };
        Ok(ess_core::envelope::envelope(&recorded.event, version, &converted.payload, marks))
    }

    /// Deliveries that are not acknowledged and have something to say: retrying, blocked, awaiting their ACK, given up.
    ///
    /// # Errors
    /// The cursor is not one of ours.
    pub async fn unacked(&self, after: Option<&str>, limit: u32) -> Result<Page<DeliveryView>, Problem> {
        let after = delivery_cursor(after)?;
        let found = self.delivery.store.open_everywhere(after, limit as usize).await;
        self.delivery_page(found.map_err(|error| unavailable(&error))?, limit).await
    }

    /// Receipts after an index.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn ledger(&self, after: Option<u64>, limit: u32) -> Result<Page<LedgerView>, Problem> {
        let from = after.map_or(0, |after| after.saturating_add(1));
        let found = self.delivery.store.ledger(from, limit as usize).await.map_err(|error| unavailable(&error))?;
        let next = (found.len() == limit as usize).then(|| found.last().map(|last| last.index.to_string())).flatten();
        let snapshot = self.delivery.registry.snapshot();
        let mut items = Vec::with_capacity(found.len());
        let mut event: Option<Recorded> = None;
        for line in found {
            let recorded = match event.take().filter(|known| known.event.seq == line.seq) {
                Some(known) => known,
                None => self.event_at(line.seq).await?,
            };
            items.push(LedgerView {
                index: line.index,
                event_id: recorded.event.content.id.clone(),
                sequence: line.seq,
                partner: snapshot.name(line.entry.partner),
                round: line.entry.round,
                word: if line.entry.word == LedgerWord::Ack { "ack" } else { "nack" },
                at: line.entry.at,
                attempt: line.entry.attempt,
                evidence: Some(line.entry.evidence),
                body_digest: line.entry.body_digest,
                chain: line.chain,
            });
            event = Some(recorded);
        }
        Ok(Page { items, next })
    }

    /// How many receipts there are, and the head of their chain.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn ledger_head(&self) -> Result<LedgerHead, Problem> {
        let (size, chain) = self.delivery.store.ledger_head().await.map_err(|error| unavailable(&error))?;
        Ok(LedgerHead { size, chain })
    }

    /// Walks the whole chain, makes the tree anew, and checks every checkpoint.
    ///
    /// # Errors
    /// A `Conflict` names the first entry that does not fit.
    pub async fn verify_ledger(&self) -> Result<LedgerHead, Problem> {
        match self.delivery.store.verify_ledger().await {
            Ok((size, chain)) => {
                self.verify_tree().await?;
                self.verify_tiles().await?;
                self.verify_events().await?;
                Ok(LedgerHead { size, chain })
            }
            Err(StoreError::Damaged(what)) => Err(damaged(what)),
            Err(error) => Err(unavailable(&error)),
        }
    }

    /// Lines of the audit trail after a number.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn audit_trail(&self, after: Option<u64>, limit: u32) -> Result<Page<AuditView>, Problem> {
        let found = self.delivery.store.audit(after.unwrap_or(0), limit as usize).await;
        let found = found.map_err(|error| unavailable(&error))?;
        let next = (found.len() == limit as usize).then(|| found.last().map(|last| last.number.to_string())).flatten();
        Ok(Page { items: found.into_iter().map(audit_view).collect(), next })
    }

    /// A page of deliveries of many events.
    pub(crate) async fn delivery_page(
        &self,
        found: Vec<StoredDelivery>,
        limit: u32,
    ) -> Result<Page<DeliveryView>, Problem> {
        let snapshot = self.delivery.registry.snapshot();
        let is_full = found.len() == limit as usize;
        let next = found.last().filter(|_| is_full).map(|last| {
            let key = last.key;
            format!("{}.{}.{}", key.seq, key.partner.0, key.round)
        });
        let mut items = Vec::with_capacity(found.len());
        for delivery in found {
            let recorded = self.event_at(delivery.key.seq).await?;
            items.extend(view(delivery, &recorded.event, &snapshot));
        }
        Ok(Page { items, next })
    }

    pub(crate) async fn event_at(&self, seq: Seq) -> Result<Recorded, Problem> {
        match self.delivery.store.event(seq).await {
            Ok(Some(recorded)) => Ok(recorded),
            Ok(None) => Err(Problem::new(Code::NotFound, format!("there is no event number {seq}"))),
            Err(error) => Err(unavailable(&error)),
        }
    }

    pub(crate) async fn stored_deliveries(&self, recorded: &Recorded) -> Result<Vec<StoredDelivery>, Problem> {
        let found = self.delivery.store.deliveries_of_event(recorded.event.seq).await;
        found.map_err(|error| unavailable(&error))
    }
}

/// The newest round for each partner.
fn newest(deliveries: &[StoredDelivery]) -> BTreeMap<PartnerNo, &StoredDelivery> {
    let mut newest: BTreeMap<PartnerNo, &StoredDelivery> = BTreeMap::new();
    for delivery in deliveries {
        newest.insert(delivery.key.partner, delivery);
    }
    newest
}

/// An acknowledged round stays the partner's word, whatever a later replay does.
fn words(deliveries: &[StoredDelivery], snapshot: &Snapshot) -> Vec<(PartnerId, &'static str)> {
    let mut words: BTreeMap<PartnerId, &'static str> = BTreeMap::new();
    for delivery in deliveries {
        let no = delivery.key.partner;
        let word = match snapshot.by_no.get(&no) {
            Some(registered) if registered.paused_since.is_some() && !delivery.state.is_end() => "paused",
            None if !delivery.state.is_end() => State::Cancelled.word(),
            _ => delivery.state.word(),
        };
        let known = words.entry(snapshot.name(no)).or_insert(word);
        if *known != State::Acked.word() {
            *known = word;
        }
    }
    words.into_iter().collect()
}

pub(crate) fn audit_view(line: AuditLine) -> AuditView {
    let AuditLine { number, at, actor, act, object, reason } = line;
    AuditView { number, at, actor, act, object, reason }
}

pub(crate) fn event_view(recorded: &Recorded) -> EventView {
    let partners = u32::try_from(recorded.audience.len()).unwrap_or(u32::MAX);
    EventView { event: recorded.event.clone(), partners }
}

pub(crate) fn view(delivery: StoredDelivery, event: &Arc<Event>, snapshot: &Snapshot) -> Option<DeliveryView> {
    let registered = snapshot.by_no.get(&delivery.key.partner);
    let is_open = !delivery.state.is_end();
    let state = if registered.is_none() && is_open { State::Cancelled } else { delivery.state };
    let attempts = delivery.attempts.into_iter().map(|attempt| AttemptView {
        number: attempt.number,
        at: attempt.at,
        took: attempt.took,
        status: attempt.status,
        outcome: OUTCOMES.iter().find(|known| **known == attempt.outcome).copied().unwrap_or("failed"),
        reason: (!attempt.reason.is_empty()).then_some(attempt.reason),
    });
    let test = event.content.test;
    Some(DeliveryView {
        event_id: event.content.id.clone(),
        sequence: event.seq,
        partner: snapshot.name(delivery.key.partner),
        round: delivery.key.round,
        test,
        paused: is_open && registered.is_some_and(|registered| registered.paused_since.is_some()),
        version: delivery.version,
        message_id: message_id(delivery.message_uuid.unwrap_or(event.message_uuid), test),
        partner_seq: delivery.partner_seq,
        attempts_made: delivery.attempts_made,
        attempts: attempts.collect(),
        due_at: delivery.due_at,
        reason: delivery.reason,
        mend: delivery.mend,
        ended_at: delivery.ended_at,
        evidence: delivery.evidence,
        body_digest: delivery.body_digest.filter(|digest| digest.0 != [0; 32]),
        scripts: delivery.scripts,
        urgent: event.content.priority == Priority::Urgent,
        recorded_at: event.recorded_at,
        state,
    })
}

/// The three numbers of a delivery's cursor; absent ones are 0.
fn read_cursor(text: Option<&str>) -> Result<[u64; 3], Problem> {
    let mut numbers = [0u64; 3];
    for (place, part) in numbers.iter_mut().zip(text.unwrap_or_default().split('.').filter(|part| !part.is_empty())) {
        *place = part.parse().map_err(|_| {
            Problem::new(Code::Invalid, "after is not a cursor of this list")
                .with_field("after")
                .with_hint("pass the `next` of the page before")
        })?;
    }
    Ok(numbers)
}

pub(crate) fn delivery_cursor(text: Option<&str>) -> Result<DeliveryKey, Problem> {
    let [seq, partner, round] = read_cursor(text)?;
    let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    Ok(DeliveryKey { seq: Seq(seq), partner: PartnerNo(small(partner)), round: small(round) })
}
