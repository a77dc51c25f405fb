//! The store as the hub sees it: what each method promises at a crash. Which database keeps it is decided beneath.

mod browse;
mod questions;
mod registry;
mod retention;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::commit_times::CommitTimes;
use crate::error::StoreError;
use crate::sqlite::{OpenedSqlite, Sqlite};
use crate::types::{Change, NewEvent, Publication, Recorded, Start};

/// Where the store is and how it behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// The data directory.
    pub dir: PathBuf,
    /// How long outcomes wait for others before they are committed.
    pub outcome_window: Duration,
    /// Reading connections.
    pub readers: usize,
    /// Ceiling of the database file.
    pub bytes_max: Option<u64>,
}

/// An open store with what it holds.
pub struct Opened {
    /// The store.
    pub store: Store,
    /// Every event that is recorded from now on, once, in the order of the log, after its commit.
    pub recorded: mpsc::UnboundedReceiver<Vec<Recorded>>,
    /// What it holds.
    pub start: Start,
}

/// The store; cheap to clone.
#[derive(Clone)]
pub struct Store {
    /// A second engine makes this an enum; its methods here then match.
    sqlite: Arc<Sqlite>,
}

impl Store {
    /// Opens or makes the store of a directory.
    ///
    /// # Errors
    /// Another hub has it open, it is damaged or of a newer hub, or the directory can't be written.
    pub fn open(options: &Options) -> Result<Opened, StoreError> {
        let OpenedSqlite { sqlite, recorded, start } = Sqlite::open(options)?;
        Ok(Opened { store: Store { sqlite: Arc::new(sqlite) }, recorded, start })
    }

    /// Appends an event, unless its identity (id, test) is taken; durable when this returns.
    ///
    /// # Errors
    /// `Unavailable`: nothing was recorded, the id is free, and no number of the log was used up. After a power cut at this very
    /// moment the event may be in the log all the same; publishing it again tells.
    pub async fn publish(&self, new: NewEvent) -> Result<Publication, StoreError> {
        self.sqlite.publish(new).await
    }

    /// Appends events in this order, in one commit; an answer for each, all durable when this returns.
    pub async fn publish_many(&self, news: Vec<NewEvent>) -> Vec<Result<Publication, StoreError>> {
        self.sqlite.publish_many(news).await
    }

    /// Hands outcomes over; they are committed within the outcome window, in this order, and tried again while the store fails.
    /// A crash before that forgets them: what they were about is sent again.
    pub fn record(&self, changes: Vec<Change>) {
        self.sqlite.record(changes);
    }

    /// Hands outcomes over and waits for their commit; all that was handed over before is durable too.
    ///
    /// # Errors
    /// `Unavailable`: they are kept and tried again. `Refused`: one of the commit's outcomes broke a rule of the schema and was
    /// left out.
    pub async fn record_durably(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        self.sqlite.record_durably(changes).await
    }

    /// Outcomes that were handed over and are not yet committed.
    #[must_use]
    pub fn unrecorded(&self) -> usize {
        self.sqlite.unrecorded()
    }

    /// Counts commits: who waits for something to change waits for this.
    #[must_use]
    pub fn commits(&self) -> watch::Receiver<u64> {
        self.sqlite.commits()
    }

    /// Why the last commit failed, until one succeeds; the store tries by itself.
    #[must_use]
    pub fn failing(&self) -> Option<String> {
        self.sqlite.failing()
    }

    /// Whether outcomes can be written down: false from a commit that failed until one succeeds, and at the start until then.
    #[must_use]
    pub fn records(&self) -> bool {
        self.sqlite.records()
    }

    /// How long commits took since the store was opened.
    #[must_use]
    pub fn commit_times(&self) -> CommitTimes {
        self.sqlite.commit_times()
    }

    /// Bytes that the store takes now.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.sqlite.bytes()
    }

    /// Sets another ceiling of the database file.
    pub async fn set_bytes_max(&self, bytes: Option<u64>) {
        self.sqlite.set_bytes_max(bytes).await;
    }

    /// Writes what is left and closes the database; every later call answers `Closed`.
    pub async fn close(&self) {
        self.sqlite.close().await;
    }
}
