//! A store in a directory of its own, and things to put into it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ess_core::delivery::DeliveryKey;
use ess_core::event::{Content, Kind, Priority, Trace};
use ess_core::id::{Digest, EventId, PartnerNo, Seq, Subject, Version};
use ess_core::lane::{OpenDelivery, OpenState, Sent, Tried};
use ess_core::receipt::Evidence;
use ess_core::time::Time;
use ess_store::{
    AckReceipt, Audience, Audit, Change, NewEvent, NewPartner, Opened, Options, Publication, Recorded, ServerUrl,
    Start, Store,
};
use serde_json::value::RawValue;
use tempfile::TempDir;
use tokio::sync::mpsc;
use uuid::Uuid;

/// A store that is open, in its directory or in a database of its own.
pub(crate) struct Open {
    pub(crate) store: Store,
    pub(crate) recorded: mpsc::UnboundedReceiver<Vec<Recorded>>,
    pub(crate) start: Start,
    pub(crate) dir: Arc<TempDir>,
    /// Of the database at a server.
    pub(crate) url: Option<String>,
}

pub(crate) fn options(dir: &Path) -> Options {
    Options::embedded(dir.to_owned())
}

pub(crate) fn open() -> Open {
    open_with(|options| options)
}

pub(crate) fn open_with(change: impl FnOnce(Options) -> Options) -> Open {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let url = crate::server::database();
    let options = change(Options { server: server_url(url.as_deref()), ..options(dir.path()) });
    opened(dir, url, &options)
}

fn server_url(url: Option<&str>) -> Option<ServerUrl> {
    url.and_then(ServerUrl::new)
}

pub(crate) fn opened(dir: Arc<TempDir>, url: Option<String>, options: &Options) -> Open {
    let Opened { store, recorded, start, .. } = Store::open(options).unwrap();
    Open { store, recorded, start, dir, url }
}

impl Open {
    /// What it was opened with.
    pub(crate) fn options(&self) -> Options {
        Options { server: server_url(self.url.as_deref()), ..options(self.dir.path()) }
    }

    /// Closes the store and opens it again.
    pub(crate) async fn reopen(self) -> Open {
        self.store.close().await;
        let options = self.options();
        let Open { store, recorded, start, dir, url } = self;
        drop((store, recorded, start));
        opened(dir, url, &options)
    }

    /// The same, with something changed in between, as either database says it.
    pub(crate) async fn reopen_after(self, change: &str, change_there: &str) -> Open {
        self.store.close().await;
        let count = match &self.url {
            None => rusqlite::Connection::open(self.dir.path().join("ess.db")).unwrap().execute(change, []).unwrap(),
            Some(url) => crate::server::execute(url, change_there),
        };
        assert_eq!(count, 1, "{change}");
        self.reopen().await
    }

    /// The process ends here, as a kill would end it: nothing is closed in order.
    pub(crate) fn cut_off(self) -> Open {
        let Open { store, recorded, start, dir, url } = self;
        let copy = Arc::new(tempfile::tempdir().unwrap());
        for name in ["ess.db", "ess.db-wal", "seal.key"] {
            if url.is_none() || name == "seal.key" {
                std::fs::copy(dir.path().join(name), copy.path().join(name)).unwrap();
            }
        }
        if let Some(url) = &url {
            crate::server::cut(url);
        }
        drop((store, recorded, start));
        let options = Options { server: server_url(url.as_deref()), ..options(copy.path()) };
        opened(copy, url, &options)
    }

    /// Adds partners 1, 2, 3, …
    pub(crate) async fn add_partners(&self, count: u32) {
        for no in 1..=count {
            let added = self.store.put_partner(partner(&format!("P{no}")), audit("partner.add")).await.unwrap();
            assert_eq!(added, PartnerNo(no));
        }
    }

    /// Publishes an event for partners 1 to `partners`; answers its place.
    pub(crate) async fn publish(&self, id: &str, partners: u32) -> Seq {
        match self.store.publish(event(id, "1", partners)).await.unwrap() {
            Publication::Recorded(event) => event.seq,
            other => panic!("{id} was not recorded: {other:?}"),
        }
    }

    pub(crate) async fn record(&self, changes: Vec<Change>) {
        self.store.record_durably(changes).await.unwrap();
    }
}

pub(crate) fn partner(id: &str) -> NewPartner {
    NewPartner {
        no: None,
        id: id.to_owned(),
        document: format!("{{\"id\":\"{id}\"}}"),
        secrets: vec![(format!("whsec_{id}"), None)],
        added_at: Time::from_micros(1),
    }
}

pub(crate) fn audit(act: &'static str) -> Audit {
    Audit { at: Time::from_micros(2), actor: "tok_test".to_owned(), act, object: "x".to_owned(), reason: None }
}

pub(crate) fn audience(partners: u32) -> Arc<Audience> {
    Arc::new(Audience::new((1..=partners).map(PartnerNo).collect()))
}

/// An event of the subject before the first `-`.
pub(crate) fn event(id: &str, payload: &str, partners: u32) -> NewEvent {
    let content = Content {
        id: EventId::trusted(id),
        version: Version(1),
        subject: Subject::trusted(id.split('-').next().unwrap_or(id)),
        payload: Arc::from(RawValue::from_string(payload.to_owned()).unwrap()),
        source: None,
        time: None,
        effective: None,
        expires: None,
        priority: Priority::Routine,
        references: Vec::new(),
        kind: Kind::Change,
        test: false,
    };
    NewEvent {
        content_digest: Digest::of(payload.as_bytes()),
        content,
        trace: Trace::default(),
        message_uuid: Uuid::from_u128(7),
        recorded_at: Time::from_micros(3),
        audience: audience(partners),
        registry: None,
    }
}

pub(crate) fn key(seq: Seq, partner: u32) -> DeliveryKey {
    DeliveryKey { seq, partner: PartnerNo(partner), round: 0 }
}

pub(crate) const FIRST: DeliveryKey = DeliveryKey { seq: Seq(0), partner: PartnerNo(0), round: 0 };

pub(crate) fn acked(key: DeliveryKey) -> Change {
    Change::Acked(receipt(key))
}

/// As it comes when a delivery with rows, or one that a lane does not hold, is acknowledged.
pub(crate) fn acked_late(key: DeliveryKey) -> Change {
    Change::Acked(AckReceipt { has_rows: true, ..receipt(key) })
}

fn receipt(key: DeliveryKey) -> AckReceipt {
    AckReceipt {
        key,
        at: Time::from_micros(9),
        attempt: 1,
        evidence: Evidence::Body,
        body_digest: Digest([5; 32]),
        version: Version(1),
        scripts: [].into(),
        partner_seq: Some(key.seq.0),
        has_rows: false,
    }
}

pub(crate) fn delivery(key: DeliveryKey, state: OpenState) -> OpenDelivery {
    OpenDelivery {
        key,
        subject: Subject::trusted("A"),
        priority: Priority::Urgent,
        kind: Kind::Correction,
        test: false,
        recorded_at: Time::from_micros(3),
        state,
        attempts: 2,
        resends: 1,
        due_at: Some(Time::from_micros(20)),
        first_failed_at: Some(Time::from_micros(10)),
        partner_seq: Some(4),
        reason: Some("connection refused".to_owned()),
        mend: Some("hms-ess bridge add".to_owned()),
        message_uuid: Some(Uuid::from_u128(8)),
        sent: Some(Sent { version: Version(2), body_digest: Digest([6; 32]), scripts: [Digest([7; 32])].into() }),
        fallback_at: None,
    }
}

pub(crate) fn tried(number: u32) -> Tried {
    Tried {
        number,
        at: Time::from_micros(i64::from(number)),
        took: Duration::from_millis(5),
        status: Some(503),
        outcome: "failed",
        reason: "the partner answered 503".to_owned(),
    }
}
