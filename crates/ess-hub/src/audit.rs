//! What a court is given about one event: everything on record, what was sent where it can be made again, and proofs.
//!
//! The values here are for `ess-http`, which writes them into a packet. What is no longer what the receipts name is left out: a
//! script that was changed since, bytes that come out differently today.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use ess_core::bridge::Rule;
use ess_core::event::{Event, Gone};
use ess_core::id::{Digest, EventId, Version};
use ess_core::ledger::Receipt;
use ess_core::ledger::packet::{Manifest, Payload, Record};
use ess_core::problem::{Code, Problem};
use ess_core::time::Time;
use ess_store::Recorded;

use crate::ask::view;
use crate::cells::Cell;
use crate::hub::Hub;
use crate::notary::receipt;
use crate::publish::unavailable;
use crate::registry::Snapshot;
use crate::view::{CheckpointView, DeliveryView};

/// Messages that are made again for one packet, to show the very bytes; partners whose adapter looks at `$partner` need one each.
const MADE_AGAIN_MAX: usize = 512;
/// Bytes of them.
const MADE_AGAIN_BYTES_MAX: usize = 32 * 1024 * 1024;

/// All that is known about an event.
#[derive(Debug)]
pub struct EventAudit {
    /// When it was put together.
    pub made_at: Time,
    /// The event.
    pub event: Arc<Event>,
    /// When and by whom it was recorded.
    pub record: Record,
    /// Every delivery with its attempts, by partner and round.
    pub deliveries: Vec<DeliveryView>,
    /// Every receipt with its place in the ledger.
    pub receipts: Vec<(u64, Receipt)>,
    /// What their proofs lead to; absent without receipts.
    pub checkpoint: Option<CheckpointView>,
    /// The payload in each version that was sent or is to be sent, or why it can't be made now.
    pub conversions: BTreeMap<Version, Result<Arc<str>, String>>,
    /// Scripts that receipts and deliveries name, as far as they are still known.
    pub scripts: BTreeMap<Digest, KnownScript>,
    /// Scripts that they name and the hub does not know any more.
    pub lost_scripts: BTreeSet<Digest>,
    /// The very bytes that were sent, by their hash, as far as they come out the same today; with the extension of their format.
    pub sent: BTreeMap<Digest, (Bytes, &'static str)>,
}

/// A script or table by whose hash a receipt names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownScript {
    /// What it is, in words.
    pub what: String,
    /// Its text.
    pub text: Arc<str>,
    /// A lookup table, not a script.
    pub is_table: bool,
}

impl Hub {
    /// All that is known about an event.
    ///
    /// # Errors
    /// There is no such event, or the store can't be read.
    pub async fn audit_event(&self, id: &EventId, test: bool) -> Result<EventAudit, Problem> {
        let recorded = self.recorded(id, test).await?;
        let snapshot = self.delivery.registry.snapshot();
        let event = recorded.event.clone();
        let receipts = self.receipts_of(&event, &snapshot).await?;
        let checkpoint = match receipts.iter().map(|(index, _)| *index).max() {
            Some(last) => Some(self.checkpoint_over(last).await?),
            None => None,
        };
        let stored = self.stored_deliveries(&recorded).await?;
        let views = stored.into_iter().filter_map(|delivery| view(delivery, &event, &snapshot));
        let mut deliveries: Vec<DeliveryView> = views.collect();
        deliveries.sort_by(|a, b| (&a.partner, a.round).cmp(&(&b.partner, b.round)));
        let record = self.record_of(&recorded)?;
        let named = named_scripts(&deliveries, &receipts);
        let scripts = known_scripts(&snapshot, &named);
        let lost_scripts = named.into_iter().filter(|digest| !scripts.contains_key(digest)).collect();
        let (mut conversions, mut sent) = (BTreeMap::new(), BTreeMap::new());
        if record.payload == Payload::Whole {
            let cell = Cell::new(event.clone());
            conversions = self.convert_again(&cell, &snapshot, &deliveries).await;
            sent = self.send_again(&cell, &snapshot, &deliveries).await;
        }
        let made_at = self.now();
        Ok(EventAudit {
            made_at,
            event,
            record,
            deliveries,
            receipts,
            checkpoint,
            conversions,
            scripts,
            lost_scripts,
            sent,
        })
    }

    /// The hub's signature over a packet's manifest.
    #[must_use]
    pub fn sign_manifest(&self, text: &str) -> String {
        Manifest::sign(text, &self.notary.key, self.notary.verifier.name())
    }

    async fn receipts_of(&self, event: &Event, snapshot: &Snapshot) -> Result<Vec<(u64, Receipt)>, Problem> {
        let entries = self.delivery.store.receipts_of_event(event.seq).await.map_err(|error| unavailable(&error))?;
        Ok(entries.iter().map(|entry| (entry.index, receipt(event, snapshot, entry))).collect())
    }

    fn record_of(&self, recorded: &Recorded) -> Result<Record, Problem> {
        let Recorded { event, audience } = recorded;
        let (content, trace) = (&event.content, &event.trace);
        Ok(Record {
            id: content.id.to_string(),
            sequence: event.seq.0,
            subject: content.subject.to_string(),
            recorded_at: event.recorded_at.to_string(),
            published_by: trace.publisher.clone(),
            event_sha256: event.content_digest.to_string(),
            payload: payload_of(event)?,
            gone: event.gone.as_ref().map(Gone::told),
            partners: audience.len() as u64,
            traceparent: trace.traceparent.clone(),
            trace_id: trace.trace_id.clone(),
            docket_id: trace.docket_id.clone(),
            ledger: self.notary.verifier.name().to_owned(),
            program: concat!("hms-ess ", env!("CARGO_PKG_VERSION")).to_owned(),
        })
    }

    /// The payload in each version that deliveries were sent in or are to be sent in.
    async fn convert_again(
        &self,
        cell: &Cell,
        snapshot: &Snapshot,
        deliveries: &[DeliveryView],
    ) -> BTreeMap<Version, Result<Arc<str>, String>> {
        let content = &cell.event.content;
        let pinned = |delivery: &DeliveryView| {
            let registered = snapshot.partners.get(&delivery.partner)?;
            Some(registered.version_of(&content.subject, content.version))
        };
        let versions: BTreeSet<Version> =
            deliveries.iter().filter_map(|delivery| delivery.version.or_else(|| pinned(delivery))).collect();
        let mut conversions = BTreeMap::new();
        // A NACK before anything was sent names no version.
        for version in versions.into_iter().filter(|version| version.0 > 0) {
            let made = self.delivery.workshop.payload(cell, snapshot, version).await;
            conversions.insert(version, made.map(|made| made.payload).map_err(|blocked| blocked.reason));
        }
        conversions
    }

    /// The bytes that were sent, where they come out the same today.
    async fn send_again(
        &self,
        cell: &Cell,
        snapshot: &Snapshot,
        deliveries: &[DeliveryView],
    ) -> BTreeMap<Digest, (Bytes, &'static str)> {
        let (mut sent, mut made, mut bytes) = (BTreeMap::new(), 0, 0);
        for delivery in deliveries {
            let Some(digest) = delivery.body_digest.filter(|digest| !sent.contains_key(digest)) else { continue };
            let Some(registered) = snapshot.partners.get(&delivery.partner) else { continue };
            if made == MADE_AGAIN_MAX || bytes >= MADE_AGAIN_BYTES_MAX {
                break;
            }
            made += 1;
            let body = self.delivery.workshop.body(cell, snapshot, registered, delivery.round > 0).await;
            if let Ok((_, body)) = body
                && body.digest == digest
            {
                bytes += body.bytes.len();
                sent.insert(digest, (body.bytes.clone(), body.extension));
            }
        }
        sent
    }
}

/// Whether the payload is there as it was recorded.
fn payload_of(event: &Event) -> Result<Payload, Problem> {
    if event.gone.is_some() {
        return Ok(Payload::Gone);
    }
    if event.content.digest() == event.content_digest {
        return Ok(Payload::Whole);
    }
    let detail = format!("event {} is not what was recorded: its content was changed in the store", event.content.id);
    Err(Problem::new(Code::Conflict, detail).with_hint("`hms-ess ledger verify` names everything that was changed"))
}

/// The hashes of all scripts and tables that made what was sent.
fn named_scripts(deliveries: &[DeliveryView], receipts: &[(u64, Receipt)]) -> BTreeSet<Digest> {
    let of_deliveries = deliveries.iter().flat_map(|delivery| delivery.scripts.iter().copied());
    let of_receipts = receipts.iter().flat_map(|(_, receipt)| &receipt.scripts);
    of_deliveries.chain(of_receipts.filter_map(|hex| Digest::parse(hex))).collect()
}

/// Those of them that the hub knows.
fn known_scripts(snapshot: &Snapshot, named: &BTreeSet<Digest>) -> BTreeMap<Digest, KnownScript> {
    let mut known = BTreeMap::new();
    let mut note = |digest: Digest, what: String, text: &str, is_table: bool| {
        if named.contains(&digest) {
            known.entry(digest).or_insert_with(|| KnownScript { what, text: Arc::from(text), is_table });
        }
    };
    for bridge in snapshot.rules.bridges.iter() {
        if let Rule::Script { text, digest } = &bridge.rule {
            note(*digest, format!("bridge {}", bridge.id), text, false);
        }
    }
    for table in &snapshot.rules.tables {
        note(table.digest, format!("table {}", table.name), &table.text, true);
    }
    for registered in snapshot.partners.values() {
        if let (Some(digest), Some(text)) = (registered.adapter, registered.partner.adapter.as_deref()) {
            note(digest, format!("adapter of {}", registered.partner.id), text, false);
        }
    }
    known
}
