//! The model of the store is no better than its likeness to the real ones: whole worlds are written into a real store, on disk and
//! at a PostgreSQL server, and at every crash a lane must start with the same from both, at the end every delivery must stand alike
//! in both.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ess_core::delivery::{DeliveryKey, State};
use ess_core::event::{Content, Trace};
use ess_core::id::{Digest, EventId, PartnerNo, Seq, Version};
use ess_core::lane::{OpenDelivery, OpenState};
use ess_core::receipt::Evidence;
use ess_core::time::Time;
use ess_store::{AckReceipt, Audience, Audit, NewEvent, NewPartner, Options, Publication, ServerUrl, Store};

use super::kept::{Change, Deed, Kept};
use super::world::{Played, Run, World};
use crate::postgres_server::Server;

/// Worlds that are written to a store.
const WORLDS: u64 = 8;

/// Where a store is kept: its directory, and its database when that is at a server.
struct Place {
    dir: tempfile::TempDir,
    server: Option<ServerUrl>,
}

impl Place {
    fn new(server: Option<&Server>) -> Self {
        let server = server.map(|server| ServerUrl::new(&server.database()).unwrap());
        Self { dir: tempfile::tempdir().unwrap(), server }
    }

    fn open(&self) -> Store {
        let outcome_window = Duration::from_millis(1);
        let embedded = Options::embedded(self.dir.path().to_owned());
        let options = Options { outcome_window, readers: 1, server: self.server.clone(), ..embedded };
        Store::open(&options).unwrap().store
    }
}

async fn add_partner(store: &Store, index: usize) {
    let partner = NewPartner {
        no: None,
        id: format!("P{index}"),
        document: "{}".to_owned(),
        secrets: Vec::new(),
        added_at: Time::from_micros(1),
    };
    let audit = Audit {
        at: Time::from_micros(1),
        actor: "tok_test".to_owned(),
        act: "partner.add",
        object: format!("P{index}"),
        reason: None,
    };
    assert_eq!(store.put_partner(partner, audit).await.unwrap(), number_of(index));
}

fn number_of(index: usize) -> PartnerNo {
    PartnerNo(index as u32 + 1)
}

async fn publish(store: &Store, played: &Played) {
    let mut news = Vec::new();
    for (offer, takers) in &played.log {
        let content = Content {
            id: EventId::trusted(&format!("E{}", offer.seq)),
            version: Version(1),
            subject: offer.subject.clone(),
            payload: Arc::from(serde_json::value::to_raw_value(&1).unwrap()),
            source: None,
            time: None,
            effective: None,
            expires: None,
            priority: offer.priority,
            references: Vec::new(),
            kind: offer.kind,
            test: offer.test,
        };
        news.push(NewEvent {
            content,
            trace: Trace::default(),
            content_digest: Digest::of(&offer.seq.0.to_le_bytes()),
            message_uuid: uuid::Uuid::from_u128(u128::from(offer.seq.0)),
            recorded_at: offer.recorded_at,
            audience: Arc::new(Audience::new(takers.iter().map(|index| number_of(*index)).collect())),
            registry: None,
        });
    }
    for (answer, (offer, _)) in store.publish_many(news).await.into_iter().zip(&played.log) {
        match answer.unwrap() {
            Publication::Recorded(event) => assert_eq!(event.seq, offer.seq),
            other => panic!("{other:?}"),
        }
    }
}

/// The change as the hub hands it to the store.
fn translate(no: PartnerNo, change: &Change, changes: &mut Vec<ess_store::Change>) {
    let own = |open: &OpenDelivery| of_partner(no, open);
    match change {
        Change::Lane(record) => {
            let from = changes.len();
            ess_hub::records::push(changes, no, record.clone());
            for change in &mut changes[from..] {
                if let ess_store::Change::AttemptFailed { open, .. }
                | ess_store::Change::Opened(open)
                | ess_store::Change::Ended { open, .. } = change
                {
                    *open = own(open);
                }
            }
        }
        Change::Replayed(open) => changes.push(ess_store::Change::Opened(own(open))),
        Change::Reopened(open) => changes.push(ess_store::Change::Reopened(own(open))),
        Change::Discarded(open) => changes.push(ess_store::Change::Ended {
            open: own(open),
            state: State::Cancelled,
            at: Time::from_micros(1),
            reason: "discarded".to_owned(),
            evidence: None,
            tried: None,
        }),
        Change::AckedInStore((seq, round)) => changes.push(ess_store::Change::Acked(AckReceipt {
            key: DeliveryKey { seq: *seq, partner: no, round: *round },
            at: Time::from_micros(1),
            attempt: 1,
            evidence: Evidence::Callback,
            body_digest: Digest([0; 32]),
            version: Version(1),
            scripts: [].into(),
            partner_seq: None,
            has_rows: true,
        })),
    }
}

/// Each partner of the model thinks that it is the first.
fn of_partner(no: PartnerNo, open: &OpenDelivery) -> OpenDelivery {
    OpenDelivery { key: DeliveryKey { partner: no, ..open.key }, ..open.clone() }
}

/// A lane starts with the same from both.
async fn compare_starts(store: &Store, no: PartnerNo, kept: &Kept, seed: u64) {
    let start = store.lane_start(no).await.unwrap();
    let context = format!("seed {seed}, partner {no:?}");
    assert_eq!((start.cursor, start.counted), (kept.cursor, kept.counted), "{context}");
    assert_eq!(start.health, kept.health, "{context}");
    let done: BTreeSet<Seq> = start.ended.into_iter().collect();
    assert_eq!(done, kept.done_past_cursor().into_iter().collect(), "{context}");
    let open: Vec<String> = start.open.iter().map(|open| format!("{open:?}")).collect();
    let expected: Vec<String> = kept.open.values().map(|open| format!("{:?}", of_partner(no, open))).collect();
    assert_eq!(open, expected[..expected.len().min(ess_core::lane::WINDOW)], "{context}");
}

/// Every delivery stands alike in both.
async fn compare_ends(store: &Store, played: &Played, seed: u64) {
    for (offer, _) in &played.log {
        for delivery in store.deliveries_of_event(offer.seq).await.unwrap() {
            let kept = &played.stores[delivery.key.partner.0 as usize - 1].durable;
            let place = (delivery.key.seq, delivery.key.round);
            let state = kept.open.get(&place).map_or(State::Pending, |open| match open.state {
                OpenState::Pending => State::Pending,
                OpenState::Retrying => State::Retrying,
                OpenState::AwaitingAck => State::AwaitingAck,
                OpenState::Blocked => State::Blocked,
            });
            let expected = kept.end_of(&place).unwrap_or(state);
            assert_eq!(delivery.state, expected, "seed {seed}, {:?}", delivery.key);
        }
    }
    let receipts: u32 = played.stores.iter().flat_map(|store| store.durable.acked.values()).sum();
    let mut acks = 0;
    for (offer, _) in &played.log {
        let entries = store.receipts_of_event(offer.seq).await.unwrap();
        acks += entries.iter().filter(|entry| entry.entry.word == ess_store::Word::Ack).count();
    }
    assert_eq!(acks as u32, receipts, "seed {seed}: each ACK has one receipt");
    store.verify_ledger().await.unwrap();
}

#[tokio::test]
async fn a_lane_starts_with_the_same_from_the_real_store_after_every_crash() {
    write_worlds(None).await;
}

#[tokio::test]
async fn a_lane_starts_with_the_same_from_a_server_after_every_crash() {
    write_worlds(Some(&Server::start())).await;
}

async fn write_worlds(server: Option<&Server>) {
    let mut crashes = 0;
    for seed in 0..WORLDS {
        let mut world = World::of(Run { seed, is_traced: false, altered: None });
        for site in &mut world.sites {
            site.store.history = Some(Vec::new());
        }
        let played = world.play().unwrap_or_else(|failure| panic!("{failure}"));
        crashes += write(&played, &Place::new(server), seed).await;
    }
    assert!(crashes > 10, "{crashes} crashes");
}

/// Writes all that a world recorded, and compares; how many crashes there were.
async fn write(played: &Played, place: &Place, seed: u64) -> u32 {
    let mut crashes = 0;
    let mut store = place.open();
    for index in 0..played.stores.len() {
        add_partner(&store, index).await;
    }
    publish(&store, played).await;
    for (index, kept) in played.stores.iter().enumerate() {
        let no = number_of(index);
        let mut changes = Vec::new();
        for deed in kept.history.iter().flatten() {
            match deed {
                Deed::Durable(change) => translate(no, change, &mut changes),
                Deed::Died(rows) => {
                    store.record_durably(std::mem::take(&mut changes)).await.unwrap();
                    store.close().await;
                    // The directory is free when the last handle has gone.
                    drop(store);
                    store = place.open();
                    compare_starts(&store, no, rows, seed).await;
                    crashes += 1;
                }
            }
        }
        store.record_durably(changes).await.unwrap();
        compare_starts(&store, no, &kept.durable, seed).await;
    }
    compare_ends(&store, played, seed).await;
    store.close().await;
    crashes
}
