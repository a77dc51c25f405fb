//! An event's way to every partner, and a partner's newest deliveries: for people who look.

use std::sync::Arc;

use ess_core::access::Principal;
use ess_core::event::Event;
use ess_core::id::{Digest, EventId, PartnerId, Seq, Version};
use ess_core::problem::{Code, Problem};
use ess_store::{Recorded, StoredDelivery};

use crate::ask;
use crate::hub::Hub;
use crate::publish::unavailable;
use crate::registry::Snapshot;
use crate::view::{AuditView, DeliveryView, Direction, EventView, LogLine, LogSearch, Page, Reached, TextSearch};

/// An event and its way to every partner.
#[derive(Debug, Clone)]
pub struct Journey {
    /// The event.
    pub event: EventView,
    /// One for each partner and round, by partner.
    pub legs: Vec<Leg>,
}

/// The way of one event to one partner.
#[derive(Debug, Clone)]
pub struct Leg {
    /// The event.
    pub event: Arc<Event>,
    /// The version that was published.
    pub published: Version,
    /// The version that the partner was sent, or will be.
    pub version: Version,
    /// What made its bytes, or will, in order.
    pub scripts: Vec<Script>,
    /// How it went.
    pub delivery: DeliveryView,
}

/// A script on an event's way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// The bridge's id, or what else it is.
    pub name: String,
    /// SHA-256 of its text; absent for a bridge that only changes the label.
    pub digest: Option<Digest>,
}

impl Hub {
    /// An event's way to every partner that it is for.
    ///
    /// # Errors
    /// There is no such event.
    pub async fn journey(&self, id: &EventId, test: bool) -> Result<Journey, Problem> {
        let recorded = self.recorded(id, test).await?;
        let deliveries = self.stored_deliveries(&recorded).await?;
        let snapshot = self.delivery.registry.snapshot();
        let event = ask::event_view(&recorded);
        let mut legs: Vec<Leg> =
            deliveries.into_iter().filter_map(|delivery| leg(delivery, &event, &snapshot)).collect();
        legs.sort_by(|a, b| (&a.delivery.partner, a.delivery.round).cmp(&(&b.delivery.partner, b.delivery.round)));
        Ok(Journey { event, legs })
    }

    /// A partner's newest deliveries before a place in the log; `next` is the place for the following page.
    ///
    /// # Errors
    /// There is no such partner.
    pub async fn newest_deliveries(
        &self,
        partner: &PartnerId,
        before: Option<Seq>,
        limit: usize,
    ) -> Result<Page<Leg>, Problem> {
        let snapshot = self.delivery.registry.snapshot();
        let no = snapshot.partner(partner)?.no;
        let store = &self.delivery.store;
        let before = before.unwrap_or(Seq(u64::MAX));
        let (seqs, reached) = store.seqs_of_partner(no, before, limit).await.map_err(|error| unavailable(&error))?;
        let mut items = Vec::with_capacity(seqs.len());
        for seq in seqs {
            let event = ask::event_view(&self.event_at(seq).await?);
            let deliveries = store.deliveries_to(seq, no).await.map_err(|error| unavailable(&error))?;
            items.extend(deliveries.into_iter().rev().filter_map(|delivery| leg(delivery, &event, &snapshot)));
        }
        Ok(Page { items, next: (reached.0 > 1).then(|| reached.to_string()) })
    }

    /// Refuses, as if it were not there, an event that is not for this partner. An operator's replay needs no such look: it may
    /// bring an event to somebody new.
    ///
    /// # Errors
    /// There is no such event for this partner.
    pub async fn need_delivery(&self, id: &EventId, partner: &PartnerId) -> Result<(), Problem> {
        let no = self.delivery.registry.snapshot().partner(partner)?.no;
        let not_its = || {
            Problem::new(Code::NotFound, format!("there is no delivery of {id} to {partner}"))
                .with_hint("a partner's token has the events sent again that were for this partner")
        };
        let recorded = self.recorded(id, false).await.map_err(|_| not_its())?;
        if recorded.audience.contains(no) {
            return Ok(());
        }
        // A replay brought it to a partner that was not there when it was published.
        let deliveries = self.stored_deliveries(&recorded).await?;
        let is_its = deliveries.iter().any(|delivery| delivery.key.partner == no);
        is_its.then_some(()).ok_or_else(not_its)
    }

    /// A page of the Event Log, newest first, without payloads.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn log(&self, search: LogSearch, before: Option<Seq>, limit: usize) -> Result<Page<LogLine>, Problem> {
        let is_by_id = matches!(search, LogSearch::Id(_));
        let before = before.unwrap_or(Seq(u64::MAX));
        let found = self.delivery.store.log_before(search, before, limit).await;
        let items = found.map_err(|error| unavailable(&error))?;
        let is_full = items.len() == limit && !is_by_id;
        let next = items.last().filter(|last| is_full && last.seq.0 > 1).map(|last| last.seq.to_string());
        Ok(Page { items, next })
    }

    /// One step of a search for a text in payloads, newest first, from a place on; and how far it came, if the log goes on.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn search_log(
        &self,
        search: TextSearch,
        before: Option<Seq>,
        limit: usize,
    ) -> Result<(Vec<LogLine>, Option<Reached>), Problem> {
        let before = before.unwrap_or(Seq(u64::MAX));
        let found = self.delivery.store.events_with_text(search, Direction::Older, before, limit).await;
        let found = found.map_err(|error| unavailable(&error))?;
        let lines = found.items.iter().map(|Recorded { event, audience }| LogLine {
            seq: event.seq,
            id: event.content.id.to_string(),
            test: event.content.test,
            subject: event.content.subject.to_string(),
            version: event.content.version.0,
            kind: event.content.kind,
            priority: event.content.priority,
            recorded_at: event.recorded_at,
            partners: audience.len(),
            gone: None,
        });
        Ok((lines.collect(), found.reached))
    }

    /// The place just after the last event that was recorded at `then` or before: what `log` takes as `before`.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn place_after(&self, then: ess_core::time::Time) -> Result<Seq, Problem> {
        let store = &self.delivery.store;
        let head = store.head().await.map_err(|error| unavailable(&error))?;
        let last = store.last_before(then, head).await.map_err(|error| unavailable(&error))?;
        Ok(Seq(last.0 + 1))
    }

    /// Writes down why something was done that has no audit line of its own.
    ///
    /// # Errors
    /// The store can't write.
    pub async fn note(&self, act: &'static str, object: &str, reason: String, by: &Principal) -> Result<(), Problem> {
        let audit = self.audit(by, act, object, Some(reason));
        self.delivery.store.put_audit(audit).await.map_err(|error| unavailable(&error))
    }

    /// A page of the audit trail, newest first.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn newest_audit(&self, before: Option<u64>, limit: usize) -> Result<Page<AuditView>, Problem> {
        let found = self.delivery.store.audit_before(before.unwrap_or(u64::MAX), limit).await;
        let found = found.map_err(|error| unavailable(&error))?;
        let is_full = found.len() == limit;
        let next = found.last().filter(|last| is_full && last.number > 1).map(|last| last.number.to_string());
        Ok(Page { items: found.into_iter().map(ask::audit_view).collect(), next })
    }
}

fn leg(delivery: StoredDelivery, event: &EventView, snapshot: &Snapshot) -> Option<Leg> {
    let content = &event.event.content;
    let registered = snapshot.by_no.get(&delivery.key.partner);
    let pinned = registered.map_or(content.version, |known| known.version_of(&content.subject, content.version));
    // What was not sent yet has no version of its own.
    let version = delivery.version.filter(|version| version.0 > 0).unwrap_or(pinned);
    let adapter = registered.and_then(|known| known.adapter);
    let scripts = if delivery.scripts.is_empty() {
        planned(content.version, version, event, snapshot)
    } else {
        delivery.scripts.iter().map(|digest| named(*digest, adapter, snapshot)).collect()
    };
    let delivery: DeliveryView = ask::view(delivery, &event.event, snapshot)?;
    Some(Leg { published: content.version, version, scripts, delivery, event: Arc::clone(&event.event) })
}

/// The bridges that would be taken now.
fn planned(from: Version, to: Version, event: &EventView, snapshot: &Snapshot) -> Vec<Script> {
    let subject = &event.event.content.subject;
    let path = snapshot.rules.bridges.path(subject, from, to).unwrap_or_default();
    path.iter().map(|bridge| Script { name: bridge.id.clone(), digest: bridge.digest() }).collect()
}

fn named(digest: Digest, adapter: Option<Digest>, snapshot: &Snapshot) -> Script {
    let bridge = snapshot.rules.bridges.iter().find(|bridge| bridge.digest() == Some(digest));
    let name = match bridge {
        Some(bridge) => bridge.id.clone(),
        None if adapter == Some(digest) => "adapter".to_owned(),
        // It was replaced since; the receipt still says which one it was.
        None => "an earlier script".to_owned(),
    };
    Script { name, digest: Some(digest) }
}
